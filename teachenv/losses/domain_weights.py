"""A loss that weighs the domains of a task's samples: sources of text, say, as in a mixture of training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from teachenv import checks
from teachenv.losses.base import LossFamily
from teachenv.losses.plain import plain_options
from teachenv.losses.sample_weights import DataWeights, SampleWeights
from teachenv.students.prediction import Prediction

if TYPE_CHECKING:
    from teachenv.tasks.base import Task


class DomainWeights(LossFamily):
    """Mean over the minibatch of w_{k(i)} · l_i, k(i) the domain of sample i, with a coordinate for each domain.

    The weights are a softmax whose mean over the pool is 1: w_k = exp(c a_k) / Σ_j p_j exp(c a_j), with p_j the share
    of domain j in the pool and c = `scale`. So α_k = p_k w_k is a distribution over domains, and an action says how
    domains share the gradient, not how large a step is. With equal coordinates it is the mean loss; with the zero
    action bitwise.

    Weights and sampling: the expected gradient is Σ_k α_k E_k[∇l], that of minibatches that are drawn from the domains
    in proportion to α with equal weights. The variance is not the same: a domain of large weight and small share has
    few samples in a minibatch. DoReMi (Xie et al. 2023, arXiv:2305.10429) finds its mixture by such weights, on
    minibatches drawn from the domains uniformly, and then draws the final training run's data from it.

    Args:
        base: a name in `teachenv.losses.PLAIN_LOSSES`.
        scale: c, in (0, 20]. A weight is at most exp(2c) times another one, 55 times with the default.
        shares: p, a number for each domain; None: in an environment those of its pool.
        **options: options of the base loss.
    """

    coefficient_label = "weights of the domains"
    of_domains = True

    def __init__(
        self, base: str = "cross-entropy", scale: float = 2.0, shares: Sequence[float] | None = None, **options: Any
    ) -> None:
        self.scale = checks.number("scale", scale, above=0, most=20)
        known = ["base", "scale", "shares", *plain_options(base)]
        checks.known_options(f"weighted domains of {base!r}:", options, known)
        self._samples = SampleWeights(base, **options)
        self.needs_head, self.reads = self._samples.needs_head, self._samples.reads
        self.shares = None if shares is None else _checked(shares)

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each sample of a minibatch, that of its domain, and one for each domain."""
        return batch_size + len(self._known_shares())

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The mean of the samples' losses, each weighed as its domain."""
        domains = len(self._known_shares())
        return self._samples(self._beyond(action[..., :-domains], action[..., -domains:]), prediction, targets)

    def _beyond(self, some: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """What the weights at some coordinates, (..., m), are beyond 1: exactly 0 of the zero action, (..., K)."""
        shares = torch.tensor(self._known_shares(), dtype=action.dtype, device=action.device)
        mean = (shares * torch.expm1(self.scale * action)).sum(-1, keepdim=True)
        return (torch.expm1(self.scale * some) - mean) / (1.0 + mean)

    def _known_shares(self) -> tuple[float, ...]:
        if self.shares is None:
            raise ValueError(
                "weights of domains need the share of each domain in the pool, found none: give shares=(...), or use "
                "the family in an environment, whose task has domains"
            )
        return self.shares

    def fitted(self, task: Task) -> DomainWeights:
        """The family with the shares of the pool's domains, and what its base loss takes from the data.

        Raises:
            ValueError: the task has no domains, or others than shares were given for.
        """
        if task.domains is None:
            raise ValueError(
                f"loss='domain-weights' needs samples that belong to domains, but task {task.name!r} has none: take "
                'task="language", or give a task of your own its domains as teachenv.Task(..., domains=Domains(...))'
            )
        names, shares = task.domains.names, self.shares
        if shares is None:
            shares = task.domains.shares(len(task.pool[0]))
        if len(shares) != len(names):
            raise ValueError(
                f"shares has {len(shares)} numbers, expected one for each of {len(names)} domains: {', '.join(names)}"
            )
        base = self._samples.fitted(task)
        return DomainWeights(base.base, self.scale, shares, **base.options)

    def of_data(self) -> DataWeights:
        """Weights of the pool's samples in the same plain loss, w = 1 + a."""
        return self._samples.of_data()

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The weights of the domains, (1, K)."""
        return 1.0 + self._beyond(action, action).view(1, -1)

    def action_of(self, mixture: np.ndarray) -> np.ndarray:
        """The action whose weights make a mixture of the domains, as near to it as the box allows, (…, K).

        The logarithms of the weights α_k / p_k are centred between the least and the largest, divided by c and clipped.
        A domain that the pool has no sample of counts as one of weight 1.

        Args:
            mixture: α, positive and of sum 1 over the domains, (…, K).
        """
        shares = np.asarray(self._known_shares())
        logs = np.log(np.where(shares > 0, mixture / np.where(shares > 0, shares, 1.0), 1.0))
        middle = (logs.max(-1, keepdims=True) + logs.min(-1, keepdims=True)) / 2
        action: np.ndarray = np.clip((logs - middle) / self.scale, -1.0, 1.0)
        return action

    def weights(self, action: torch.Tensor) -> torch.Tensor:
        """The weights of a minibatch's samples, or of several ones, (..., batch).

        Args:
            action: what the loss of each minibatch is given, (..., batch + K).
        """
        domains = len(self._known_shares())
        return 1.0 + self._beyond(action[..., :-domains], action[..., -domains:])


def _checked(shares: Sequence[float]) -> tuple[float, ...]:
    given = checks.listed("shares", shares, "numbers")
    numbers = [checks.number(f"shares[{k}]", share, least=0) for k, share in enumerate(given)]
    if not (total := sum(numbers)):
        raise ValueError(f"shares must have a number above 0, found {checks.shown(shares)}")
    return tuple(number / total for number in numbers)
