"""L2T-DLF's losses of tokens: a weight for each class, the diagonal of Φ, for classes by the thousand."""

from __future__ import annotations

import torch

from teachenv import checks
from teachenv.losses.base import LossFamily, weighted
from teachenv.losses.plain import cross_entropy
from teachenv.students.prediction import Prediction


class Diagonal(LossFamily):
    """l = −Φ_y log p_y with Φ_y = 1 + scale · a_y.

    This is per-class weighting: each sample's cross-entropy is multiplied by the weight of its class. It is L2T-DLF's
    form for translation without its sigmoid, a mean over decisions (tokens). The weights are not normalised: an action
    that weighs all classes more enlarges the step; `"class-weights"` is the normalised form. The zero action is
    cross-entropy, bitwise.

    Args:
        scale: how far the box reaches: coefficients lie within `scale` of 1.
    """

    reads = ("labels",)

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = checks.number("scale", scale, above=0)

    @property
    def coefficient_label(self) -> str:  # type: ignore[override]
        """What the coefficients are called: Φ's diagonal."""
        return "Φ (diagonal)"

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each class, C."""
        return num_outputs

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """Mean of −Φ_y log p_y."""
        return -prediction.mean(self._scores(action, prediction, targets))

    def _scores(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """Φ_y log p_y of each decision, (batch,), as log p_y + scale · a_y log p_y: exact where a = 0."""
        log_p_y = -cross_entropy(prediction, targets)
        return log_p_y + self.scale * weighted(action.index_select(0, targets), log_p_y)

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The diagonal of Φ, (1, C)."""
        return 1.0 + self.scale * action.view(1, -1)


class DiagonalSigmoid(Diagonal):
    """l = −σ(Φ_y log p_y) with Φ_y = 1 + scale · a_y: L2T-DLF's loss of translation (its section 4.2).

    The paper sums over a sentence's tokens; here it is the mean over the minibatch's. The zero action is
    −p_y/(1 + p_y), which teaches nothing where p_y is small: students need a warm start by cross-entropy, as in the
    paper.
    """

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """Mean of −σ(Φ_y log p_y)."""
        return -prediction.mean(torch.sigmoid(self._scores(action, prediction, targets)))
