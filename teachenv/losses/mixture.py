"""A loss that mixes well-known losses, with coefficients that the teacher sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.losses.base import LossFamily, weighted
from teachenv.losses.plain import needs_head, plain_loss
from teachenv.students.prediction import Prediction

COMPONENTS = (
    "cross-entropy",
    "smooth-01",
    "large-margin",
    "label-smoothing",
    "focal",
    "generalized-cross-entropy",
    "brier",
    "hinge",
)


class Mixture(LossFamily):
    """Σ_k c_k · mean l_k with c = (1, 0, …, 0) + scale · a over well-known losses, the first of them cross-entropy.

    The zero action is cross-entropy, bitwise. Coefficients may be negative, as the bilinear family's may.

    Args:
        components: names in `teachenv.losses.PLAIN_LOSSES`, "cross-entropy" first; one action coordinate each.
        scale: how far the box reaches.
        options: options of each component, by its name, such as `{"smooth-01": {"sharpness": 50}}` (50 is L2T-DLF's,
            and the default).
    """

    reads = ("labels",)

    def __init__(
        self,
        components: Sequence[str] = COMPONENTS,
        scale: float = 0.5,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.components = tuple(checks.listed("components", components, "names of losses"))
        if self.components[:1] != ("cross-entropy",):
            raise ValueError(f"mixture: the first component must be 'cross-entropy', found {checks.shown(components)}")
        self.scale = checks.number("scale", scale, above=0)
        each = checks.options("options", options or {})
        for name in each:
            if name not in self.components:
                raise unknown_name("component of the mixture", name, self.components)
        self._losses = [plain_loss(n, **checks.options(f"options[{n!r}]", each.get(n, {}))) for n in self.components]
        self.needs_head = any(needs_head(name) for name in self.components)
        self.coefficient_label = "coefficients: " + ", ".join(self.components)

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each component."""
        return len(self.components)

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The sum of the components' mean losses, by their coefficients."""
        means = torch.stack([prediction.mean(loss(prediction, targets)) for loss in self._losses])
        return means[0] + self.scale * weighted(action, means).sum()

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The coefficients, one row."""
        neutral = torch.zeros_like(action)
        neutral[0] = 1.0
        return (neutral + self.scale * action).view(1, -1)
