"""The coefficients of PPO that an action sets, one coordinate for each.

With a ∈ [−1, 1] the coordinate, and c the coefficient that the environment has:

    entropy bonus, weight of the value loss, clip range, learning rate   c · 10^a       a tenth to ten times
    discount    1 − (1 − γ) · 10^{−a}, that is γ + (1 − γ)(1 − 10^{−a})   the horizon 1/(1 − γ), a tenth to ten times

At a = 0 each is what it is without a teacher, bitwise. The maps are smooth, and take tensors as they take numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from teachenv.optimizers.base import Rate


@dataclass(frozen=True)
class Coefficients:
    """What PPO's loss and step are made with; each is a number, or a scalar tensor to differentiate by.

    Attributes:
        entropy: weight of the entropy bonus.
        value: weight of the value network's loss.
        clip: ε, how far the ratio of probabilities may move from 1 before its gain is cut.
        discount: γ.
        learning_rate: Adam's.
    """

    entropy: Rate
    value: Rate
    clip: Rate
    discount: Rate
    learning_rate: Rate

    def under(self, control: Sequence[str], action: Any) -> Coefficients:
        """These under an action.

        Args:
            control: names in `CONTROLS`, one for each coordinate.
            action: an array of numbers, or a tensor to differentiate by, (coordinates,).
        """
        changed: dict[str, Rate] = {}
        for name, coordinate in zip(control, action, strict=True):
            a = coordinate if isinstance(coordinate, torch.Tensor) else float(coordinate)
            field = CONTROLS[name]
            base = getattr(self, field)
            changed[field] = base + (1 - base) * (1 - 10.0**-a) if name == "discount" else base * 10.0**a
        return replace(self, **changed)

    def as_list(self, control: Sequence[str]) -> list[float]:
        """The controlled ones as numbers, in the order of `control`."""
        return [float(getattr(self, CONTROLS[name])) for name in control]


CONTROLS = {
    "entropy": "entropy",
    "value": "value",
    "clip": "clip",
    "discount": "discount",
    "learning-rate": "learning_rate",
}
"""What an action can set, by its name in `control`: fields of `Coefficients`."""
