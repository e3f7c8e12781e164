"""What a student's forward pass gives to a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Prediction:
    """What a student says about a minibatch, as a loss family sees it.

    Attributes:
        outputs: (batch, outputs) logits; as a network gives them, perhaps with further dimensions.
        features: (batch, d) input of the student's last linear layer; only for families with `needs_head`.
        head_weight: (outputs, d) weight of that layer; only for families with `needs_head`.
        weights: (batch,) how much each counts in the minibatch's mean; None: all the same.
    """

    outputs: torch.Tensor
    features: torch.Tensor | None = None
    head_weight: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        """The minibatch's mean of (batch,) losses, a scalar."""
        if self.weights is None:
            return losses.mean()
        # A minibatch in which nothing counts has no loss, rather than 0 / 0.
        return (self.weights * losses).sum() / self.weights.sum().clamp(min=1e-12)
