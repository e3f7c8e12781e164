"""Class imbalance: classes become ever rarer, the first stays the most frequent.

As label noise it is a property of the task: the same seed keeps the same samples, for every teacher and every baseline.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from teachenv.randomness import Purpose, generator


def imbalanced_indices(targets: torch.Tensor, num_classes: int, factor: float, seed: int) -> npt.NDArray[np.int64]:
    """Draws samples of which class c of C has round(n · factor^(−c / (C − 1))), and at least one.

    As in long-tailed CIFAR (Cui et al. 2019), where n is the size of every class. Here n is the largest for which each
    class has as many samples as it is to keep.

    Args:
        targets: class indices in `[0, num_classes)`, integer, shape `(n,)`.
        num_classes: the number of classes C, at least 2.
        factor: how many times as frequent the first class is as the last, at least 1.
        seed: decides which samples are kept.

    Returns:
        Indices of the samples that are kept, ascending.

    Raises:
        ValueError: an argument is outside its range, or a class has no sample.
        TypeError: `targets` are not integers.
    """
    if not factor >= 1.0:  # written so that NaN fails too
        raise ValueError(f"imbalance is {factor!r}: expected at least 1, e.g. 50 for a last class 50 times as rare")
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.is_complex():
        raise TypeError(f"imbalance needs integer class indices, found targets of dtype {targets.dtype}")
    if targets.ndim != 1:
        raise ValueError(f"imbalance needs targets of shape (n,), found {tuple(targets.shape)}")
    labels = targets.cpu().numpy()
    counts = np.bincount(labels, minlength=num_classes)
    if num_classes < 2 or not counts.all():
        raise ValueError(
            f"imbalance needs at least 2 classes with samples of each, found {int((counts > 0).sum())} classes with "
            f"samples of {num_classes}; leave imbalance at 1"
        )
    shares = float(factor) ** (-np.arange(num_classes) / (num_classes - 1))
    sizes = np.maximum(1, np.round((counts / shares).min() * shares)).astype(np.int64)
    order = generator(seed, Purpose.IMBALANCE).permutation(len(labels))
    kept: npt.NDArray[np.int64] = np.concatenate(
        [order[labels[order] == label][:size] for label, size in enumerate(sizes)]
    )
    return np.sort(kept)
