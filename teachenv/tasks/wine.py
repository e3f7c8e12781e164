"""178 wines of three growers, 13 chemical measurements each, which come with the package. Nothing is downloaded."""

from __future__ import annotations

import os

import numpy as np
import torch

from teachenv.data.shipped import load_wine
from teachenv.errors import unknown_name
from teachenv.tasks.base import Task, subset_indices

_POOL = 128


def wine(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
) -> Task:
    """Makes the wine task: inputs `(n, 13)` float32, three classes (the growers; 59, 71 and 48 wines).

    A seeded permutation of all 178 wines is cut in two, so pool and test are disjoint and together complete. Each
    measurement is standardised by its mean and standard deviation in the pool; test has no part in them.

    Args:
        data_root: accepted for uniformity and not used: the data comes with the package.
        dataset: None or `"wine"`.
        pool_size: number of labelled samples, 2 to 177; None for 128. The rest (50) are the test split.
        split_seed: seed of the permutation.

    Raises:
        ValueError: `dataset` is anything else, or pool or test would be too small.
    """
    del data_root
    if dataset not in (None, "wine"):
        raise unknown_name("dataset for task 'wine'", dataset, ["wine"])
    measurements, growers = load_wine()
    total = len(growers)
    size = _POOL if pool_size is None else pool_size
    if not 2 <= size < total:
        raise ValueError(
            f"pool_size is {size}: expected 2 to {total - 1}, because the rest of the {total} wines is the test split"
        )
    order = subset_indices(total, total, split_seed)
    pool = measurements[order[:size]]
    spread = pool.std(0)
    standardised = (measurements[order] - pool.mean(0)) / np.where(spread > 0, spread, 1.0)
    inputs, targets = torch.from_numpy(standardised.astype(np.float32)), torch.from_numpy(growers[order])
    return Task(
        name="wine",
        dataset="wine",
        pool=(inputs[:size], targets[:size]),
        test=(inputs[size:], targets[size:]),
        num_outputs=3,
    )
