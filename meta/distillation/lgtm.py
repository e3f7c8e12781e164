"""Learning Good Teacher Matters: Ren et al. 2023 (LGTM).

A step: the teacher learns from the labels, from the student, and from what its outputs do to the student's loss on
held-out data after a trial step; then the student takes its real step, from where it was before the trial. The two
objectives that the paper gives for the last part are not one (its eqs. 9 and 10; see `influence_term`), hence modes.

Deviations from the released code, where the paper is silent: all that belongs to influence (trial step, held-out
gradient, derivative) is without dropout, so that it is one function of the teacher; the code has dropout in the first
two, and other masks in each. The student's derivative along v is exact by default; the code takes differences.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from meta.distillation.base import DistillationSettings
from meta.distillation.batch import Batch
from meta.distillation.influence_term import Derivative, influence_gradient, logits_along
from meta.distillation.losses import divergence, soft_cross_entropy
from meta.distillation.prokt import Loss, ProKT
from teachenv.errors import unknown_name
from teachenv.modes import evaluating
from teachenv.optimizers import Tensors

Mode = Literal["released", "meta", "reweight"]
MODES: tuple[Mode, ...] = get_args(Mode)


class LGTM(ProKT):
    """ProKT whose teacher follows distillation influence as well.

    Args:
        teacher: a pre-trained network; it need not be fine-tuned.
        student: the network that is taught, changed in place.
        settings: options that all methods share.
        mode: the term that is added to the gradient of ProKT's teacher, times `influence_rate`.

            `"released"`: −(1 − α) ∇_t of the derivative of KL(S ‖ T) along v: what the official code does.
            `"meta"`: −(1 − λ) ∇_t ⟨g(t), v⟩, mean influence (eq. 10, with the sign that helps): with the student's
            learning rate as the factor the gradient of its held-out loss after a plain step, to first order in that
            rate, since v is taken after a trial step of the student's AdamW; `MetaDistill` has it exactly.
            `"reweight"`: +∇_t (1/B) Σ_i w_i CE(T_i, S_i), w_i = I_i constants, negative ones too (eq. 9).
        influence_rate: the factor: a number, or `"teacher"` or `"student"` for the learning rate of theirs at the time.
            None: the released code's `"teacher"` in its mode, `"student"` in `"meta"`, 1 in `"reweight"` (eq. 11). 0
            makes it ProKT, bitwise.
        loss: the loss between student and teacher, `"kl"`, `"dist"` or `"mse"`, as in `ProKT`; `"released"` and
            `"reweight"` keep their KL and cross-entropy in the teacher's loss.
        derivative: the way in which the student is differentiated along v: `"exact"`, or the paper's
            `"finite-difference"`.
        radius: the length of the step of `"finite-difference"`, in the space of the parameters.

    Attributes:
        influence: (B,) distillation influence I_i of the last batch's samples; None before it. That of a sentence is of
            the sum of its tokens' losses over the mean number of tokens in the batch's sentences: the mean of I_i is
            that of the batch's loss, which is the mean over tokens. The paper has no sequences.
    """

    needs_feedback = True

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        settings: DistillationSettings,
        mode: Mode = "released",
        influence_rate: float | Literal["teacher", "student"] | None = None,
        loss: Loss = "kl",
        derivative: Derivative = "exact",
        radius: float = 0.01,
    ) -> None:
        super().__init__(teacher, student, settings, loss)
        if mode not in MODES:
            raise unknown_name("mode of LGTM", mode, MODES)
        if isinstance(influence_rate, str) and influence_rate not in ("teacher", "student"):
            raise unknown_name("influence_rate", influence_rate, ("teacher", "student"))
        defaults: dict[Mode, float | Literal["teacher", "student"]]
        defaults = {"released": "teacher", "meta": "student", "reweight": 1.0}
        self.mode: Mode = mode
        self.influence_rate = defaults[mode] if influence_rate is None else influence_rate
        self.derivative: Derivative = derivative
        self.radius = radius
        self.influence: torch.Tensor | None = None

    def teacher_gradient(self, batch: Batch, feedback: Batch | None) -> tuple[Tensors, dict[str, float]]:
        """Computes ProKT's gradient plus the influence term, and numbers to log.

        Logged besides ProKT's: `influence_ratio`, the norm of the term over that of the rest, and `influence`, the mean
        size of the samples'.
        """
        gradient, logged = super().teacher_gradient(batch, feedback)
        rate = self._rate()
        if rate == 0:
            return gradient, logged
        assert feedback is not None
        with evaluating(self.teacher.network):
            taught = self.teacher.outputs(batch, training=False)
            student_gradient, _ = self.student_gradient(batch, training=False, taught=taught.detached)
            v = self.student.held_out_gradient(feedback, self.student.after(student_gradient))
            term = self._term(batch, taught.logits, v)
        sizes = [torch.stack([g.norm() for g in tensors.values()]).norm() for tensors in (term, gradient)]
        assert self.influence is not None
        logged |= {
            "influence_ratio": float(rate * sizes[0] / sizes[1]),
            "influence": float(self.influence.abs().mean()),
        }
        return {name: g.add(term[name], alpha=rate) for name, g in gradient.items()}, logged

    def _rate(self) -> float:
        if self.influence_rate == "teacher":
            return self.teacher.rate
        return self.student.rate if self.influence_rate == "student" else float(self.influence_rate)

    def _term(self, batch: Batch, taught: torch.Tensor, v: Tensors) -> Tensors:
        """Computes the term of the mode, not times the rate; `taught`: the teacher's logits with their graph."""
        settings, tau = self.settings, self.settings.temperature
        logits, derivative = logits_along(self.student, batch, v, self.derivative, self.radius)
        difference = torch.softmax(logits / tau, -1) - torch.softmax(taught.detach() / tau, -1)
        self.influence = batch.of_samples((difference * derivative / tau).sum(-1))  # ⟨∇_s CE(T_i, S_i), v⟩
        if self.mode == "reweight":
            weights = batch.to_decisions(self.influence)
            return self.teacher.gradient((weights * soft_cross_entropy(taught, logits, tau)).mean())
        loss, weight = self.loss_of_logits, 1 - settings.student_labels
        if self.mode == "released":
            loss, weight = (lambda taught, logits: divergence(logits, taught, tau).mean()), 1 - settings.teacher_labels
        of_mean_influence = influence_gradient(self.teacher, taught, loss, logits, derivative)
        return {name: -weight * g for name, g in of_mean_influence.items()}
