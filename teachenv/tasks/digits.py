"""Real handwritten digits, 1,797 images of 8x8 pixels, which come with the package. Nothing is downloaded."""

from __future__ import annotations

import os

import numpy as np
import torch

from teachenv.data.shipped import load_digits
from teachenv.errors import unknown_name
from teachenv.tasks.base import Task, subset_indices

_LARGEST_PIXEL = 16.0  # each pixel counts the dots of a 4x4 block


def digits(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
) -> Task:
    """Makes the digits task: inputs `(n, 64)` float32 in [0, 1], ten classes.

    A seeded permutation of all 1,797 samples is cut in two, so pool and test are disjoint and together complete.

    Args:
        data_root: accepted for uniformity and not used: the data comes with the package.
        dataset: None or `"digits"`.
        pool_size: number of labelled samples, 1 to 1,796; None for 1,000. The rest (797) are the test split.
        split_seed: seed of the permutation.

    Raises:
        ValueError: `dataset` is anything else, or no sample would be left for test.
    """
    del data_root
    if dataset not in (None, "digits"):
        raise unknown_name("dataset for task 'digits'", dataset, ["digits"])
    pixels, labels = load_digits()
    total = len(labels)
    size = 1000 if pool_size is None else pool_size
    if not 1 <= size < total:
        raise ValueError(
            f"pool_size is {size}: expected 1 to {total - 1}, because the rest of the {total} digits is the test split"
        )
    order = subset_indices(total, total, split_seed)
    inputs = torch.from_numpy((pixels[order] / _LARGEST_PIXEL).astype(np.float32))
    targets = torch.from_numpy(labels[order])
    return Task(
        name="digits",
        dataset="digits",
        pool=(inputs[:size], targets[:size]),
        test=(inputs[size:], targets[size:]),
        num_outputs=10,
    )
