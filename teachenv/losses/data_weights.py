"""Weights of the training data: one for each sample of the pool."""

from __future__ import annotations

import torch

from teachenv.losses.sample_weights import SampleWeights


class DataWeights(SampleWeights):
    """Mean over the minibatch of w_i · l_i, where w_i = 1 + scale · a_i belongs to sample i of the *pool*.

    An action has a coordinate for each sample of the pool, in the pool's order, and a sample keeps its weight wherever
    it comes up in a minibatch: held for a whole training (`steps_per_action=horizon`), the derivative of the return
    with respect to the action says which samples helped. A step reads and differentiates the weights of its minibatch
    alone, so that a large pool costs no more than a small one. The zero action is the mean loss.

    Args:
        base: a name in `teachenv.losses.PLAIN_LOSSES`.
        scale: in (0, 1], so that no weight is negative.
        **options: options of the base loss.
    """

    coefficient_label = "weights of the pool's samples"
    of_places = False
    of_pool = True

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The weights, in rows of about as many as there are rows; the last row is filled up with ones."""
        weights = 1.0 + self.scale * action
        width = max(1, round(len(weights) ** 0.5))
        rows = -(-len(weights) // width)
        return torch.nn.functional.pad(weights, (0, rows * width - len(weights)), value=1.0).view(rows, width)
