"""The observation space of a teacher that sees samples."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class SampleBox(gym.spaces.Box):
    """A one-dimensional box whose last coordinates are numbers of samples: blocks of one number for each sample.

    Attributes:
        sample_fields: how many blocks there are, that is, how many numbers each sample has.

    Args:
        low: the least value of each coordinate.
        high: the largest.
        shape: (n,); None: that of `low`.
        dtype: floating-point type.
        sample_fields: how many numbers each sample has.
    """

    def __init__(
        self, low: Any, high: Any, shape: tuple[int] | None = None, dtype: Any = np.float32, *, sample_fields: int
    ) -> None:
        super().__init__(low, high, shape, dtype)
        self.sample_fields = sample_fields
