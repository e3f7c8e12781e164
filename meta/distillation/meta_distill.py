"""Meta distillation (MetaDistill): Zhou et al. 2022, "BERT Learns to Teach"."""

from __future__ import annotations

from torch import nn

from meta.distillation.base import DistillationSettings, OnlineDistiller
from meta.distillation.batch import Batch
from meta.distillation.influence_term import Derivative, influence_gradient, logits_along
from teachenv.modes import evaluating
from teachenv.optimizers import Tensors


class MetaDistill(OnlineDistiller):
    """The teacher descends the quiz loss of the student after a trial step, and nothing else; then the real step.

    The trial is a plain step s' = s − η_s g(t), differentiated exactly, without second derivatives (`influence_term`);
    it has no dropout, so that it is one function of the teacher from beginning to end. Labels in the student's loss do
    not depend on the teacher: they take part in the trial step, not in its derivative.

    Args:
        teacher: a fine-tuned network.
        student: the network that is taught, changed in place.
        settings: options that all methods share; `teacher_labels` is not used.
        trial_rate: η_s of the trial step; None: the student's own at the time.
        derivative: the way in which the student is differentiated along v: `"exact"` or `"finite-difference"`.
        radius: the length of the step of `"finite-difference"`, in the space of the parameters.
    """

    needs_feedback = True

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        settings: DistillationSettings,
        trial_rate: float | None = None,
        derivative: Derivative = "exact",
        radius: float = 0.01,
    ) -> None:
        super().__init__(teacher, student, settings)
        self.trial_rate, self.derivative, self.radius = trial_rate, derivative, radius

    def teacher_gradient(self, batch: Batch, feedback: Batch | None) -> tuple[Tensors, dict[str, float]]:
        """Computes −η_s (1 − λ) ∇_t ⟨g(t), v⟩, v the quiz gradient after the trial step, and numbers to log."""
        assert feedback is not None
        rate = self.student.rate if self.trial_rate is None else self.trial_rate
        with evaluating(self.teacher.network):
            taught = self.teacher.outputs(batch, training=False)
            gradient, loss = self.student_gradient(batch, training=False, taught=taught.detached)
            tried = {name: p - rate * gradient[name] for name, p in self.student.parameters.items()}
            v = self.student.held_out_gradient(feedback, tried)
            logits, derivative = logits_along(self.student, batch, v, self.derivative, self.radius)
            of_term = influence_gradient(self.teacher, taught.logits, self.loss_of_logits, logits, derivative)
        factor = -rate * (1 - self.settings.student_labels)
        return {name: factor * g for name, g in of_term.items()}, {"trial_loss": loss}
