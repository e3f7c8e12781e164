"""Policies' action distributions, and how far two policies are from each other (LoT; Jin et al. 2024)."""

from __future__ import annotations

import math

import torch
from stable_baselines3.common.distributions import Distribution
from torch import distributions as td


def factors_of(distribution: Distribution) -> list[td.Distribution]:
    """Returns the independent factors of an SB3 distribution, as torch's distributions.

    A squashed Gaussian is compared before the squashing, which leaves a divergence as it is.
    """
    factors = distribution.distribution
    return list(factors) if isinstance(factors, list | tuple) else [factors]


def tempered(distribution: td.Distribution, temperature: float, detach: bool = False) -> td.Distribution:
    """Takes a distribution's density to the power 1/τ and normalises it: logits over τ, variances times τ.

    Args:
        distribution: a categorical, Bernoulli or normal distribution.
        temperature: τ.
        detach: True: no gradient goes to the parameters of the distribution.

    Raises:
        TypeError: another distribution.
    """

    def maybe_detached(parameter: torch.Tensor) -> torch.Tensor:
        return parameter.detach() if detach else parameter

    if isinstance(distribution, td.Categorical):
        return td.Categorical(logits=maybe_detached(distribution.logits) / temperature)
    if isinstance(distribution, td.Bernoulli):
        return td.Bernoulli(logits=maybe_detached(distribution.logits) / temperature)
    if isinstance(distribution, td.Normal):
        return td.Normal(maybe_detached(distribution.loc), maybe_detached(distribution.scale) * math.sqrt(temperature))
    raise TypeError(f"expected a categorical, Bernoulli or normal distribution, found {type(distribution).__name__}")


def policy_distance(
    factors: list[td.Distribution], fixed_factors: list[td.Distribution], temperature: float
) -> torch.Tensor:
    """Computes τ² KL(fixed ‖ trained) of two policies' actions: the sum over factors, the mean over observations.

    Args:
        factors: the factors of the policy that is trained, from `factors_of`.
        fixed_factors: the factors of the other policy, which are detached.
        temperature: τ.
    """
    total: torch.Tensor | float = 0.0
    for factor, fixed in zip(factors, fixed_factors, strict=True):
        kl = td.kl_divergence(tempered(fixed, temperature, detach=True), tempered(factor, temperature))
        total = total + (kl if kl.ndim == 1 else kl.flatten(1).sum(1))
    assert isinstance(total, torch.Tensor)
    return temperature**2 * total.mean()
