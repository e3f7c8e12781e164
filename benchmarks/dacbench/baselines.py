"""DACBench's baselines as learning rates by action: none of its agents for the SGD environment reads the state."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import gymnasium as gym
import numpy as np

from benchmarks.dacbench.instance import LARGEST_RATE

Baseline = Callable[[int, int], list[float]]
"""From (actions in an episode, seed) to the learning rate of each action."""


def constant(rate: float, actions: int, seed: int) -> list[float]:
    """One learning rate, as `dacbench.agents.StaticAgent` has it."""
    return [rate] * actions


def cosine(rate: float, actions: int, seed: int) -> list[float]:
    """Cosine annealing from a rate to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return [rate * (1 + math.cos(math.pi * t / actions)) / 2 for t in range(actions)]


def cosine_as_released(rate: float, actions: int, seed: int) -> list[float]:
    """What `dacbench.envs.policies.sgd_ca.CosineAnnealingAgent` 0.5.6 gives with `t_max=actions`.

    Its recursion multiplies the rate of the action before by a factor, but what it keeps as that rate stays the first
    one: rates fall late, and not to 0.
    """
    factors = [
        (1 + math.cos(math.pi * t / actions)) / (1 + math.cos(math.pi * (t - 1) / actions)) for t in range(actions)
    ]
    return [rate, *(rate * factor for factor in factors[1:])]


def random(held: int, actions: int, seed: int) -> list[float]:
    """Uniform draws from [0, 0.05], each held for so many actions (`dacbench.agents.DynamicRandomAgent`)."""
    space = gym.spaces.Box(0.0, LARGEST_RATE, (1,), np.float32, seed=seed)
    drawn = [float(space.sample()[0]) for _ in range(math.ceil(actions / held))]
    return [rate for rate in drawn for _ in range(held)][:actions]


BASELINES: dict[str, Baseline] = {
    "constant-0.0001": partial(constant, 1e-4),
    "constant-0.001": partial(constant, 1e-3),
    "constant-0.01": partial(constant, 1e-2),
    "constant-0.05": partial(constant, 5e-2),
    "cosine-0.01": partial(cosine, 1e-2),
    "cosine-0.01:released": partial(cosine_as_released, 1e-2),
    "random": partial(random, 1),
    "random:held-3": partial(random, 3),
}
"""The baselines by name."""
