"""Which samples each step trains on: minibatches, in an order that is drawn anew in each epoch."""

from __future__ import annotations

import numpy as np

# Minibatches that are filled together from samples in the order of their lengths.
_BUCKET = 50


def minibatches(
    rng: np.random.Generator, samples: np.ndarray, size: int, count: int, lengths: np.ndarray | None = None
) -> np.ndarray:
    """Indices (count, size) of minibatches: samples reshuffled each epoch, incomplete minibatches left out.

    Args:
        rng: the generator that draws.
        samples: indices of the samples.
        size: samples in a minibatch.
        count: number of minibatches.
        lengths: the length of each sample there is, by index; a minibatch then has samples of about one length.
    """
    per_epoch = len(samples) // size

    def epoch() -> np.ndarray:
        order = rng.permutation(samples)[: per_epoch * size]
        if lengths is None:
            return order
        pools = [order[i : i + _BUCKET * size] for i in range(0, len(order), _BUCKET * size)]
        alike = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
        return rng.permutation(alike.reshape(per_epoch, size)).ravel()

    epochs = [epoch() for _ in range(-(-count // per_epoch))]
    return np.concatenate(epochs).reshape(-1, size)[:count]
