"""The observation space of a teacher that sees samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from teachenv.errors import unknown_name


class SampleBox(gym.spaces.Box):
    """A one-dimensional box whose last coordinates are numbers of samples: blocks of one number for each sample.

    Attributes:
        sample_fields: the names of the blocks, in order: what the numbers of a sample are.
        samples: how many samples there are, and numbers in a block.

    Args:
        low: the least value of each coordinate.
        high: the largest.
        shape: (n,); None: that of `low`.
        dtype: floating-point type.
        sample_fields: the names of the blocks.
        samples: how many samples there are.
    """

    def __init__(
        self,
        low: Any,
        high: Any,
        shape: tuple[int] | None = None,
        dtype: Any = np.float32,
        *,
        sample_fields: Sequence[str],
        samples: int,
    ) -> None:
        super().__init__(low, high, shape, dtype)
        self.sample_fields, self.samples = tuple(sample_fields), samples

    def place(self, field: str) -> slice:
        """Where the numbers of a field stand in an observation, those of the first sample first.

        Raises:
            ValueError: there is no such field.
        """
        if field not in self.sample_fields:
            raise unknown_name("field of observed samples", field, self.sample_fields)
        behind = (len(self.sample_fields) - self.sample_fields.index(field)) * self.samples
        start = self.shape[0] - behind
        return slice(start, start + self.samples)
