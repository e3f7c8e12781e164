"""Label noise: a known part of the labels is replaced, by one fixed rule.

Noise is a property of the task, not of an episode: the same seed corrupts the same samples in the same way, so every
teacher and every baseline meets the same wrong labels.
"""

from __future__ import annotations

import numpy as np
import torch

from teachenv.errors import unknown_name

NOISE_KINDS = ("pair", "symmetric")


def corrupt_labels(targets: torch.Tensor, rate: float, kind: str, num_classes: int, seed: int) -> torch.Tensor:
    """Replaces the labels of exactly `round(rate * n)` randomly chosen samples.

    Every chosen label really changes, so `rate` is the fraction of wrong labels. (A common variant of symmetric
    noise draws from all `C` classes; there, one in `C` of the "corrupted" labels is still right.)

    Args:
        targets: class indices in `[0, num_classes)`, integer, shape `(n,)`. Not modified.
        rate: fraction of wrong labels, in `[0, 1)`.
        kind: `"pair"` turns class y into `(y + 1) mod C`: each class is mistaken for one fixed other.
            `"symmetric"` draws uniformly from the `C - 1` other classes.
        num_classes: the number of classes C, at least 2.
        seed: decides which samples are chosen, and the new labels of symmetric noise.

    Returns:
        A new tensor of the shape, dtype and device of `targets`.

    Raises:
        ValueError: an argument is outside its range or `kind` is unknown.
        TypeError: `targets` are not integers.
    """
    if kind not in NOISE_KINDS:
        raise unknown_name("label noise", kind, NOISE_KINDS)
    if not 0.0 <= rate < 1.0:  # written so that NaN fails too
        raise ValueError(f"label noise rate is {rate!r}: expected a fraction in [0, 1), e.g. 0.4 for 40 % wrong labels")
    if num_classes < 2:
        raise ValueError(f"label noise needs at least 2 classes to confuse, found num_classes={num_classes}")
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.is_complex():
        raise TypeError(f"label noise needs integer class indices, found targets of dtype {targets.dtype}")
    if targets.ndim != 1:
        raise ValueError(f"label noise needs targets of shape (n,), found {tuple(targets.shape)}")
    labels = targets.cpu().numpy()
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"targets lie in [{labels.min()}, {labels.max()}]: expected class indices in [0, {num_classes}); "
            f"pass the task's number of classes as num_classes"
        )

    rng = np.random.default_rng(seed)
    chosen = rng.permutation(labels.size)[: round(rate * labels.size)]
    # An offset in 1..C-1 modulo C reaches each of the other classes once, and never the class itself.
    offsets = rng.integers(1, num_classes, size=chosen.size) if kind == "symmetric" else 1
    corrupted = labels.astype(np.int64)  # a copy; wide enough that the sum below cannot wrap in a narrow dtype
    corrupted[chosen] = (corrupted[chosen] + offsets) % num_classes
    return torch.from_numpy(corrupted).to(device=targets.device, dtype=targets.dtype)
