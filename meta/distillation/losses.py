"""Losses between a teacher and a student: one number a sample, (B,), but for `relational`.

T and S are the distributions softmax(z/τ) of a teacher's and a student's logits, (B, classes). The plainest of them,
`divergence`, is that of the distillation environment.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from teachenv.losses.distillation import divergence

__all__ = ["divergence", "patience", "relational", "soft_cross_entropy", "spherical", "squared"]


def soft_cross_entropy(taught: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """CE(T, S) = −Σ_c T_c log S_c, (B,).

    Args:
        taught: logits whose distribution is the target.
        logits: logits that are trained.
        temperature: τ.
    """
    return -(F.softmax(taught / temperature, -1) * F.log_softmax(logits / temperature, -1)).sum(-1)


def spherical(taught: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL between the distributions of logits brought to mean zero and one length, (B,): Guo et al. 2020 (SKD).

    The common length is the mean one of the teacher's logits in the batch, so that the target is about as sharp as the
    teacher; a student need not be as confident, only to agree in direction.

    Args:
        taught: the teacher's logits.
        logits: the student's.
        temperature: τ.
    """
    centred = [z - z.mean(-1, keepdim=True) for z in (taught, logits)]
    length = centred[0].norm(dim=-1).mean().detach()
    target, own = (length * F.normalize(z, dim=-1) for z in centred)
    return divergence(target, own, temperature)


def patience(taught: Sequence[torch.Tensor], hidden: Sequence[torch.Tensor]) -> torch.Tensor:
    """Squared distances between normalised hidden vectors, summed over layers, (B,): Sun et al. 2019 (PKD), eq. 7.

    Args:
        taught: (B, d) of the teacher's layers that are copied; constants.
        hidden: (B, d) of as many of the student's.
    """
    distances = [
        (F.normalize(mine, dim=-1) - F.normalize(theirs.detach(), dim=-1)).square().sum(-1)
        for theirs, mine in zip(taught, hidden, strict=True)
    ]
    return torch.stack(distances).sum(0)


def relational(
    taught: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """One minus Pearson's correlation of T and S: Huang et al. 2022 (DIST), eqs. 7-10.

    Args:
        taught: the teacher's logits.
        logits: the student's.
        temperature: τ.

    Returns:
        (over the classes of each sample, averaged over samples; over the samples of each class, averaged over classes).
    """
    target, own = F.softmax(taught / temperature, -1), F.softmax(logits / temperature, -1)
    return (1 - _correlation(target, own)).mean(), (1 - _correlation(target.t(), own.t())).mean()


def _correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True), dim=-1)


def squared(taught: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """½ Σ_c (z^T_c − z^S_c)², (B,): of logits, without a temperature.

    Args:
        taught: the teacher's logits.
        logits: the student's.
    """
    return (taught - logits).square().sum(-1) / 2
