"""Patient knowledge distillation: Sun et al. 2019."""

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
        teacher: shows its hidden layers (`Outputs.hidden`).
        student: the same; of no more layers, and as wide.
        settings: see `Distiller`.
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
        """See the class.

        Raises:
            ValueError: a network shows no hidden layers, or layers that do not fit.
        """
        mine, theirs = outputs.hidden, taught.hidden
        if not 2 <= len(mine) <= len(theirs) or mine[0].shape != theirs[0].shape:
            raise ValueError(
                f"PKD copies hidden layers: found {len(mine)} of the student, of shape "
                f"{tuple(mine[0].shape) if mine else None}, and {len(theirs)} of the teacher, of shape "
                f"{tuple(theirs[0].shape) if theirs else None}; expected at least two of the student, no more than the "
                "teacher's, and of one shape"
            )
        copied = len(mine) - 1
        if self.layers == "skip":
            chosen = [theirs[round((j + 1) * len(theirs) / len(mine)) - 1] for j in range(copied)]
        else:
            chosen = list(theirs[len(theirs) - 1 - copied : len(theirs) - 1])
        return super().distillation_loss(outputs, taught) + self.beta * patience(chosen, mine[:copied]).mean()
