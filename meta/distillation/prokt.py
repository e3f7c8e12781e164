"""Progressive knowledge teaching: Shi et al. 2021 (ProKT)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from meta.distillation.base import DistillationSettings, OnlineDistiller
from meta.distillation.learner import Outputs
from meta.distillation.losses import relational, squared
from teachenv.errors import unknown_name

Loss = Literal["kl", "dist", "mse"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


class ProKT(OnlineDistiller):
    """The teacher learns from the labels but stays near the student: α CE(y, T) + (1 − α) KL(S ‖ T); then KD.

    It is LGTM without influence.

    Args:
        teacher: a pre-trained network; it need not be fine-tuned.
        student: the network that is taught, changed in place.
        settings: options that all methods share.
        loss: the loss between the student and the teacher: `"kl"`; or, as in an ablation of Ren et al. 2023, `"dist"`
            or `"mse"` (of logits).
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, settings: DistillationSettings, loss: Loss = "kl"
    ) -> None:
        super().__init__(teacher, student, settings)
        if loss not in LOSSES:
            raise unknown_name("distillation loss", loss, LOSSES)
        self.loss: Loss = loss

    def distillation_loss(self, outputs: Outputs, taught: Outputs) -> torch.Tensor:
        """Computes KL(T ‖ S), or the loss that was chosen, averaged over decisions."""
        if self.loss == "dist":
            return torch.stack(relational(taught.logits, outputs.logits, self.settings.temperature)).sum()
        if self.loss == "mse":
            return squared(taught.logits, outputs.logits).mean()
        return super().distillation_loss(outputs, taught)
