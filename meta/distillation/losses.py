"""Losses between a teacher and a student: one number a decision, (B,), but for `relational`.

A sample of a classification is one decision, and a sentence one for each of its tokens (see `batch`).

T and S are the distributions softmax(z/τ) of a teacher's and a student's logits, (B, classes). The plainest of them,
`divergence`, is that of the distillation environment.

Logits may be −∞ (a padded vocabulary): a class for which both networks' are is not there, and no loss or gradient
changes by it. Where only the teacher's is, losses of probabilities are finite; where only the student's is, those that
take its logarithm are ∞, and so is `squared` in both cases.

All are computed in float32 or float64: logits in half precision are float32 here, and autocast is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional as F

from teachenv.losses.distillation import divergence, expectation
from teachenv.precision import in_full_precision
from teachenv.tasks.base import VOID

__all__ = ["cross_entropy", "divergence", "patience", "relational", "soft_cross_entropy", "spherical", "squared"]

_SHORT = 0.03
"""Share of the teacher's mean length below which a vector is short."""

_FLAT = 0.05
"""Share of their root mean square below which the spread of probabilities is small."""


@in_full_precision
def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    reduction: Literal["mean", "none"] = "mean",
    smoothing: float = 0.0,
    ignore_index: int = VOID,
) -> torch.Tensor:
    """Computes CE(y, S), averaged over decisions or (N,): PyTorch's, which says more of labels that are no classes.

    Args:
        logits: the logits that are trained, (N, classes).
        labels: the decisions' classes, (N,).
        reduction: `"mean"` or `"none"`.
        smoothing: share of each label that goes to all classes alike.
        ignore_index: labels that count for nothing.

    Raises:
        TypeError: labels of another type than int64.
        ValueError: labels that are no classes; on a GPU it is PyTorch's assertion that fails.
    """
    if labels.dtype != torch.int64:
        raise TypeError(f"found labels of {labels.dtype}, expected torch.int64: labels.long()")
    try:
        return F.cross_entropy(
            logits, labels, reduction=reduction, label_smoothing=smoothing, ignore_index=ignore_index
        )
    except IndexError as error:
        # Looked for where it has failed alone: each step would have to wait for a GPU.
        lowest, highest = int(labels[labels != ignore_index].min()), int(labels.max())
        raise ValueError(
            f"found labels from {lowest} to {highest}, expected 0 to {logits.shape[-1] - 1} for logits of "
            f"{logits.shape[-1]} classes, and {ignore_index} where there is nothing to decide"
        ) from error


@in_full_precision
def soft_cross_entropy(taught: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Computes CE(T, S) = −Σ_c T_c log S_c, (B,).

    Args:
        taught: the logits whose distribution is the target, (B, classes).
        logits: the logits that are trained, (B, classes).
        temperature: τ > 0, which divides logits.
    """
    return -expectation(F.softmax(taught / temperature, -1), F.log_softmax(logits / temperature, -1))


@in_full_precision
def spherical(taught: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Computes KL between distributions of logits of mean zero and one length, (B,): Guo et al. 2020 (SKD).

    The common length is the mean one of the teacher's logits in the batch, so that the target is about as sharp as the
    teacher; a student need not be as confident, only to agree in direction. Logits that are shorter than a small share
    of that length are not brought to it wholly (see `_direction`): of this, paper and released code say nothing.

    Args:
        taught: the teacher's logits, (B, classes).
        logits: the student's logits, (B, classes).
        temperature: τ > 0, which divides logits.
    """
    absent = [z == -torch.inf for z in (taught, logits)]
    centred = [_centred(z.masked_fill(none, 0.0), ~none) for z, none in zip((taught, logits), absent, strict=True)]
    length = centred[0].detach().norm(dim=-1).mean()
    target, trained = (
        (length * _direction(z, (_SHORT * length) ** 2)).masked_fill(none, -torch.inf)
        for z, none in zip(centred, absent, strict=True)
    )
    return divergence(target, trained, temperature)


@in_full_precision
def patience(taught: Sequence[torch.Tensor], hidden: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sums squared distances between normalised hidden vectors over layers, (B,): Sun et al. 2019 (PKD), eq. 7.

    Vectors that are short beside the teacher's mean length in the batch are not brought to length one wholly (see
    `_direction`); the paper says nothing of them.

    Args:
        taught: a hidden vector for each sample, (B, d), of each layer of the teacher that is copied; detached.
        hidden: a hidden vector for each sample, (B, d), of as many layers of the student.
    """
    distances = []
    for teacher_vector, student_vector in zip(taught, hidden, strict=True):
        constant = teacher_vector.detach()
        least = (_SHORT * constant.norm(dim=-1).mean()) ** 2
        distances.append((_direction(student_vector, least) - _direction(constant, least)).square().sum(-1))
    return torch.stack(distances).sum(0)


@in_full_precision
def relational(
    taught: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes one minus Pearson's correlation of T and S: Huang et al. 2022 (DIST), eqs. 7-10.

    Probabilities that hardly vary have no correlation: it falls to 0 smoothly where their spread is below a small share
    of their size (see `_direction`). Paper and released code divide by the spread, plus 1e-8 in the code, so that the
    gradient of equal probabilities is as large as 1e7.

    Args:
        taught: the teacher's logits, (B, classes).
        logits: the student's logits, (B, classes).
        temperature: τ > 0, which divides logits.

    Returns:
        (over the classes of each sample, averaged over samples; over the samples of each class, averaged over classes).
    """
    target, trained = F.softmax(taught / temperature, -1), F.softmax(logits / temperature, -1)
    present = (taught != -torch.inf) | (logits != -torch.inf)
    return 1 - _correlation(target, trained, present), 1 - _correlation(target.t(), trained.t(), present.t())


def _correlation(a: torch.Tensor, b: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Returns the mean, over rows that have present entries, of the correlations of these; a scalar."""
    spreads = [_direction(_centred(p, present), _FLAT**2 * p.square().sum(-1, keepdim=True)) for p in (a, b)]
    return (spreads[0] * spreads[1]).sum() / present.any(-1).sum()


def _centred(z: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Returns rows minus the mean of their present entries; 0 for the absent ones, which must be 0."""
    return (z - z.sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp(min=1)) * present


def _direction(z: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """Computes z/‖z‖ along the last dimension; short vectors stay shorter, with a bounded gradient, and 0 stays 0.

    The derivative of z/‖z‖ is 1/‖z‖: a classifier that begins at zero would get a first gradient of any size, which
    Adam's second moment remembers for thousands of steps. Hence, with r = ‖z‖/δ, the result's length is
    r (15 − 10 r² + 3 r⁴)/8 where r < 1. It rises from 0 to 1, where two of its derivatives are those of the constant 1:
    second derivatives have no jump. From δ on it is z/‖z‖ as it stands.

    Args:
        z: vectors along the last dimension, (..., d).
        least: δ², one number for all vectors, or one for each, (..., 1).
    """
    floor = least.clamp(min=max(torch.finfo(z.dtype).tiny, 1e-30))
    square = z.square().sum(-1, keepdim=True)
    short = square < floor
    # Each branch sees harmless numbers where the other one is taken: its gradient there is 0, not NaN.
    r2 = torch.where(short, square, floor) / floor
    within = (15 - 10 * r2 + 3 * r2.square()) / 8 * floor.rsqrt()
    return z * torch.where(short, within, torch.where(short, 1.0, square).rsqrt())


@in_full_precision
def squared(taught: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Computes ½ Σ_c (z^T_c − z^S_c)² of logits z, without a temperature, (B,).

    Args:
        taught: the teacher's logits, (B, classes).
        logits: the student's logits, (B, classes).
    """
    absent = (taught == -torch.inf) & (logits == -torch.inf)
    return (taught - logits).masked_fill(absent, 0.0).square().sum(-1) / 2
