"""A network learns a task from its labels: teachers that are fixed later, and the student that nobody teaches."""

from __future__ import annotations

from torch import nn

from meta.distillation.base import DistillationSettings, Distiller
from meta.distillation.batch import Batch
from meta.distillation.learner import Outputs, check_network
from meta.distillation.losses import cross_entropy
from teachenv import checks
from teachenv.optimizers import Tensors


class FineTuning(Distiller):
    """Cross-entropy with the labels alone.

    Args:
        network: the network that is trained, at the settings' `student_rate`.
        settings: options that all methods share.
        smoothing: share of each label that goes to all classes alike: label smoothing (Szegedy et al. 2016), which is
            a teacher that knows nothing. 0: none.

    Raises:
        ValueError: a smoothing outside of [0, 1].
    """

    def __init__(self, network: nn.Module, settings: DistillationSettings, smoothing: float = 0.0) -> None:
        check_network("network", network)
        super().__init__(network, network, settings)
        checks.number("smoothing", smoothing, least=0, most=1)
        self.smoothing = smoothing

    def student_gradient(self, batch: Batch, *, training: bool, taught: Outputs | None = None) -> tuple[Tensors, float]:
        """Returns (the gradient of the labels' cross-entropy, that loss); there is no teacher."""
        logits = self.student.outputs(batch, training=training).logits
        loss = cross_entropy(logits, batch.classes, smoothing=self.smoothing)
        return self.student.gradient(loss), float(loss.detach())
