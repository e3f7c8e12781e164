"""L2T-DLF's bilinear losses: a teacher's matrix between the label and the log-probabilities."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from teachenv import checks
from teachenv.losses.base import LossFamily
from teachenv.losses.plain import expected
from teachenv.students.prediction import Prediction


class Bilinear(LossFamily):
    """l = −e_y' Φ log p with Φ = I + scale · A, the action read as the C×C matrix A (row: label, column: class).

    L2T-DLF's form without its sigmoid. The zero action, Φ = I, is cross-entropy, bitwise. Of soft labels the
    distribution q stands in the place of e_y.

    Args:
        scale: how far the box reaches: the entries of Φ lie within `scale` of the identity's.
    """

    reads = ("labels", "distributions")

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = checks.number("scale", scale, above=0)

    @property
    def coefficient_label(self) -> str:  # type: ignore[override]
        """What the coefficients are called: Φ."""
        return "Φ (row: label, column: class)"

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each pair of classes, C²."""
        return num_outputs**2

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """Mean of −e_y' Φ log p."""
        return -prediction.mean(self._scores(action, prediction, targets))

    def _scores(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """e_y' Φ log p of each sample, shape (batch,), as log p_y + scale · e_y' A log p: exact where A = 0."""
        log_p = self._logarithm(F.log_softmax(prediction.outputs, 1))
        matrix = action.view(log_p.shape[1], log_p.shape[1])
        rows = targets @ matrix if targets.is_floating_point() else matrix.index_select(0, targets)
        # A class whose logit is −∞ is not there: Φ's zero times its logarithm would be NaN.
        return expected(log_p, targets) + self.scale * (rows * log_p.masked_fill(log_p == -math.inf, 0.0)).sum(1)

    def _logarithm(self, log_p: torch.Tensor) -> torch.Tensor:
        """What stands in the logarithm's place, (batch, C)."""
        return log_p

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The matrix Φ, (C, C)."""
        classes = math.isqrt(action.numel())
        return torch.eye(classes, dtype=action.dtype, device=action.device) + self.scale * action.view(classes, classes)


class BilinearSigmoid(Bilinear):
    """l = −σ(e_y' Φ log p) with Φ = I + scale · A: L2T-DLF's loss (its section 4.1).

    The zero action gives −p_y/(1 + p_y), not cross-entropy. Its gradient with respect to log p_y, −p_y/(1 + p_y)²,
    vanishes on confidently wrong samples, so students need a larger learning rate (0.3 to 1.0 where cross-entropy wants
    0.1) or a warm start. Where the identity sits in Φ is our choice: the paper leaves Φ's range and initialisation
    open.

    Args:
        scale: how far the box reaches, as in `Bilinear`.
        cross_entropy: share s of cross-entropy in the loss: s · cross-entropy + (1 − s) · l. The released code trains
            its final students with s = 1/2, its teacher with s = 0.
    """

    def __init__(self, scale: float = 0.5, cross_entropy: float = 0.0) -> None:
        super().__init__(scale)
        self.cross_entropy = checks.number("cross_entropy", cross_entropy, least=0, most=1)

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """Mean of −σ(e_y' Φ log p), and of cross-entropy with its share."""
        loss = -prediction.mean(torch.sigmoid(self._scores(action, prediction, targets)))
        if not self.cross_entropy:
            return loss
        plain = -prediction.mean(expected(F.log_softmax(prediction.outputs, 1), targets))
        return self.cross_entropy * plain + (1 - self.cross_entropy) * loss


class BilinearGeneralized(Bilinear):
    """l = −e_y' Φ log_q p with Φ = I + scale · A and the q-logarithm log_q p = (p^q − 1) / q.

    Not in the paper: its bilinear form, as in `Bilinear`, over a logarithm that is bounded. The zero action is
    generalised cross-entropy (Zhang & Sabuncu 2018), bitwise, which forgives wrong labels; q → 0 gives `Bilinear`. No
    entry of Φ can make it unbounded. Its slope is p^q times `Bilinear`'s, so students need a larger learning rate.

    Args:
        scale: how far the box reaches, as in `Bilinear`.
        q: the exponent of the q-logarithm, in (0, 1].
    """

    def __init__(self, scale: float = 0.5, q: float = 0.7) -> None:
        super().__init__(scale)
        self.q = checks.number("q", q, above=0, most=1)  # loss="bilinear" is the limit for q = 0

    def _logarithm(self, log_p: torch.Tensor) -> torch.Tensor:
        return ((self.q * log_p).exp() - 1.0) / self.q
