"""Distillation of relations: Huang et al. 2022 (DIST)."""

from __future__ import annotations

import torch
from torch import nn

from meta.distillation.base import DistillationSettings, Distiller
from meta.distillation.learner import Outputs
from meta.distillation.losses import relational


class DIST(Distiller):
    """λ CE(y, S) + (1 − λ) [β inter-class + γ intra-class relation], under a fixed, fine-tuned teacher.

    With two classes Pearson's correlation over the classes of a sample is ±1, whatever the probabilities: only the
    intra-class relation teaches there. Without labels (λ = 0) nothing holds the students' scale.

    Args:
        teacher: a fine-tuned network, which stays as it is.
        student: the network that is taught, changed in place.
        settings: options that all methods share.
        between: β, the weight of the inter-class relation.
        within: γ, the weight of the intra-class relation.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        settings: DistillationSettings,
        between: float = 1.0,
        within: float = 1.0,
    ) -> None:
        super().__init__(teacher, student, settings)
        self.between, self.within = between, within

    def distillation_loss(self, outputs: Outputs, taught: Outputs) -> torch.Tensor:
        """Computes β · inter-class + γ · intra-class relation, as `losses.relational` defines them."""
        inter, intra = relational(taught.logits, outputs.logits, self.settings.temperature)
        return self.between * inter + self.within * intra
