"""A loss that weighs each sample of a minibatch as the teacher says."""

from __future__ import annotations

from typing import Any

import torch

from teachenv import checks
from teachenv.losses.base import LossFamily, weighted
from teachenv.losses.plain import needs_head, plain_loss
from teachenv.students.prediction import Prediction


class SampleWeights(LossFamily):
    """Mean over the minibatch of w_i · l_i with w_i = 1 + scale · a_i, l a plain loss.

    The zero action is the mean loss. Coordinate i belongs to the i-th sample of the current minibatch. Held at the zero
    action it is also how a student is trained with any fixed loss: `SampleWeights(base="smooth-01")`.

    Args:
        base: a name in `teachenv.losses.PLAIN_LOSSES`.
        scale: in (0, 1], so that no weight is negative.
        **options: options of the base loss.
    """

    coefficient_label = "sample weights of the minibatch"
    of_places = True

    def __init__(self, base: str = "cross-entropy", scale: float = 1.0, **options: Any) -> None:
        self.scale = checks.number("scale", scale, above=0, most=1)
        self._sample_loss = plain_loss(base, **options)
        self.needs_head = needs_head(base)

    @property
    def drops_samples(self) -> bool:  # type: ignore[override]
        """Whether the action −1 drops a sample: at scale 1 its weight is 0."""
        return self.of_places and self.scale == 1.0

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each sample of a minibatch."""
        return batch_size

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The mean of the samples' weighted losses."""
        losses = self._sample_loss(prediction, targets)
        # Of a sample with many decisions (`teachenv.tasks.decisions`) all have its weight; they stand side by side.
        action = action.unsqueeze(1).expand(-1, len(losses) // len(action)).reshape(-1)
        return prediction.mean(losses) + self.scale * prediction.mean(weighted(action, losses))

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The weights, one row."""
        return 1.0 + self.scale * action.view(1, -1)
