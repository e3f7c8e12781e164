"""A network learns a task from its labels: teachers that are fixed later, and the student that nobody teaches."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from meta.distillation.base import Batch, DistillationSettings, Distiller
from meta.distillation.learner import Outputs
from teachenv.optimizers import Tensors


class FineTuning(Distiller):
    """Cross-entropy with the labels alone.

    Args:
        network: the network that is trained, at the settings' `student_rate`.
        settings: options that all methods share.
    """

    def __init__(self, network: nn.Module, settings: DistillationSettings) -> None:
        super().__init__(network, network, settings)

    def student_gradient(self, batch: Batch, *, training: bool, taught: Outputs | None = None) -> tuple[Tensors, float]:
        """Returns (the gradient of the labels' cross-entropy, that loss); there is no teacher."""
        loss = F.cross_entropy(self.student.outputs(batch.inputs, training=training).logits, batch.labels)
        return self.student.gradient(loss), float(loss.detach())
