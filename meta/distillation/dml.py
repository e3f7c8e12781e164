"""Deep mutual learning (DML): Zhang et al. 2018."""

from __future__ import annotations

import torch

from meta.distillation.base import OnlineDistiller
from meta.distillation.batch import Batch
from meta.distillation.learner import Outputs, check_classes
from meta.distillation.losses import cross_entropy, divergence
from teachenv.optimizers import Tensors


class DML(OnlineDistiller):
    """Two networks learn, each from the labels and the other: CE(y, T) + KL(S ‖ T), then CE(y, S) + KL(T ‖ S).

    The terms are not weighed against each other, in neither loss.
    """

    def teacher_gradient(self, batch: Batch, feedback: Batch | None) -> tuple[Tensors, dict[str, float]]:
        """Computes the gradient of the teacher's loss CE(y, T) + KL(S ‖ T), and that loss to log."""
        with torch.no_grad():
            student = self.student.outputs(batch, training=False)
        outputs = self.teacher.outputs(batch, training=True)
        check_classes(outputs, student)
        loss = self.student_loss(outputs, student, batch.classes)
        return self.teacher.gradient(loss), {"teacher_loss": float(loss.detach())}

    def student_loss(self, outputs: Outputs, taught: Outputs, labels: torch.Tensor) -> torch.Tensor:
        """Computes CE(y, S) + KL(T ‖ S); with the roles exchanged, the teacher's loss."""
        near = divergence(taught.logits, outputs.logits, self.settings.temperature).mean()
        return cross_entropy(outputs.logits, labels) + near
