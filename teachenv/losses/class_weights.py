"""A loss that weighs each class as the teacher says, normalised in each minibatch."""

from __future__ import annotations

import torch

from teachenv import checks
from teachenv.losses.base import LossFamily, weighted
from teachenv.losses.plain import cross_entropy
from teachenv.students.prediction import Prediction


class ClassWeights(LossFamily):
    """The weighted mean of cross-entropies, Σ_i w_{y_i} l_i / Σ_i w_{y_i}, with w_c = 1 + scale · a_c for class c.

    This is `torch.nn.CrossEntropyLoss(weight=w)`: divided by their sum, the weights of a minibatch's samples have mean
    1. An action therefore says how the classes share the gradient, and cannot change the step size by weighing all of
    them more: with equal coordinates it is plain cross-entropy. The `"diagonal"` family has the same weights without
    the normalisation, so that an action there moves the step size, too. The zero action is cross-entropy, bitwise.

    Args:
        scale: in (0, 0.999], so that all weights are positive. The largest weight can be (1 + scale)/(1 − scale) times
            the smallest: 3 times with the default, 199 times with 0.99 (for pools of very unequal classes).
    """

    coefficient_label = "weights of the classes"
    reads = ("labels",)

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = checks.number("scale", scale, above=0, most=0.999)

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each class."""
        return num_outputs

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The weighted mean of the samples' cross-entropies."""
        losses = cross_entropy(prediction, targets)
        actions = action.index_select(0, targets)
        mean = prediction.mean(actions)
        # With mean weight 1 + scale · ā it is the mean loss plus a part that is exactly 0 where all a_c are equal to 0.
        correction = prediction.mean(weighted(actions - mean, losses)) / (1.0 + self.scale * mean)
        return prediction.mean(losses) + self.scale * correction

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The weights before they are normalised, (1, C)."""
        return 1.0 + self.scale * action.view(1, -1)
