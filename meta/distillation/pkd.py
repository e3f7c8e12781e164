"""Patient knowledge distillation (PKD): Sun et al. 2019."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from meta.distillation.base import DistillationSettings
from meta.distillation.kd import KD
from meta.distillation.learner import Outputs
from meta.distillation.losses import patience


class PKD(KD):
    """KD + β Σ_j ‖h^S_j/‖h^S_j‖ − h^T_I(j)/‖h^T_I(j)‖‖² over all layers j of the student but its last.

    Args:
        teacher: a fine-tuned network that shows its hidden layers (`Outputs.hidden`).
        student: a network that shows its hidden layers, too: no more of them, and as wide. It is changed in place.
        settings: options that all methods share.
        beta: β (the paper's grid: 10 to 1,000).
        layers: which of the teacher's are copied: `"skip"`, evenly spaced ones, or `"last"`.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        settings: DistillationSettings,
        beta: float = 10.0,
        layers: Literal["skip", "last"] = "skip",
    ) -> None:
        super().__init__(teacher, student, settings)
        if layers not in ("skip", "last"):
            raise ValueError(f'found layers={layers!r}, expected "skip" or "last"')
        self.beta, self.layers = beta, layers

    def distillation_loss(self, outputs: Outputs, taught: Outputs) -> torch.Tensor:
        """Computes KD's loss and the distances between hidden layers; the class has the formula.

        Raises:
            ValueError: a network shows no hidden layers, or layers that do not fit.
        """
        of_student, of_teacher = outputs.hidden, taught.hidden
        if not 2 <= len(of_student) <= len(of_teacher) or of_student[0].shape != of_teacher[0].shape:
            raise ValueError(
                f"PKD copies hidden layers: found {_counted(of_student)} of the student and {_counted(of_teacher)} of "
                "the teacher, expected at least two of the student, no more than the teacher's, and of one shape; "
                "return meta.distillation.Outputs(logits, hidden) from forward"
            )
        count = len(of_student) - 1
        if self.layers == "skip":
            chosen = [of_teacher[round((j + 1) * len(of_teacher) / len(of_student)) - 1] for j in range(count)]
        else:
            chosen = list(of_teacher[len(of_teacher) - 1 - count : len(of_teacher) - 1])
        return super().distillation_loss(outputs, taught) + self.beta * patience(chosen, of_student[:count]).mean()


def _counted(hidden: tuple[torch.Tensor, ...]) -> str:
    """How many hidden layers there are, and of which shape."""
    return f"{len(hidden)} of shape {tuple(hidden[0].shape)}" if hidden else "none"
