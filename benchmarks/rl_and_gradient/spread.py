"""One teacher's problem that is the same with any number of coordinates."""

from __future__ import annotations

from typing import Any

import torch

from teachenv import checks
from teachenv.losses import Bilinear
from teachenv.losses.base import LossFamily
from teachenv.students.prediction import Prediction


class SpreadCredit(LossFamily):
    """How much credit a label gives to the class before it, a single number u that n coordinates share.

        l = −e_y' Φ log p,    Φ = I + scale · u · (S − I),    u = 1/n Σ_i s_i a_i

    S credits label c to class c − 1: right where labels are wrong in that one was added to some of them. The signs
    s_i = ±1 are fixed and every second one is minus, so that what shifts all coordinates has no effect. u reaches from
    −1 to 1 with every n, hence so does what can be gained; what n changes is how the effect is spread: each coordinate
    has 1/n of it, and independent noise of size σ on all of them moves u by σ/√n.

    The zero action is cross-entropy, bitwise.

    Args:
        coordinates: n.
        scale: how far Φ goes at u = 1.
    """

    reads = ("labels",)
    coefficient_label = "Φ (row: label, column: class)"

    def __init__(self, coordinates: int, scale: float = 0.35) -> None:
        self.coordinates = checks.integer("coordinates", coordinates, least=1)
        self.scale = checks.number("scale", scale, above=0)
        self._loss = Bilinear(scale)

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """As many as were asked for."""
        return self.coordinates

    def right(self, **of: Any) -> torch.Tensor:
        """The action with u = 1: the signs, (n,)."""
        return 1.0 - 2.0 * (torch.arange(self.coordinates, **of) % 2)

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """Mean of −e_y' Φ log p."""
        return self._loss(self._matrix(action, prediction.outputs.shape[1]).flatten(), prediction, targets)

    def _matrix(self, action: torch.Tensor, classes: int) -> torch.Tensor:
        """The matrix u (S − I), (C, C)."""
        one = torch.eye(classes, dtype=action.dtype, device=action.device)
        u = (self.right(device=action.device).to(action.dtype) * action).mean()
        return u * (one.roll(-1, 1) - one)

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """Φ of ten classes, (10, 10)."""
        return self._loss.coefficients(self._matrix(action, 10).flatten())
