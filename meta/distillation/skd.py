"""Spherical knowledge distillation (SKD): Guo et al. 2020."""

from __future__ import annotations

import torch

from meta.distillation.base import Distiller
from meta.distillation.learner import Outputs
from meta.distillation.losses import spherical


class SKD(Distiller):
    """λ CE(y, S) + (1 − λ) KL between normalised logits, under a fixed, fine-tuned teacher; see `losses.spherical`."""

    def distillation_loss(self, outputs: Outputs, taught: Outputs) -> torch.Tensor:
        """Computes `losses.spherical`, averaged over decisions."""
        return spherical(taught.logits, outputs.logits, self.settings.temperature).mean()
