"""Where an episode's randomness comes from: each draw is a function of the episode's seed, a purpose and the step.

Nothing here advances a global generator: torch code that can only draw from torch's global one (parameter initialisers,
dropout) runs inside `torch_seed`, which puts the generator back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch

# Seeds of episodes are drawn below this bound, so that they fit a signed 64-bit integer.
SEED_BOUND = 2**62


class Purpose(IntEnum):
    """What a stream of random numbers is for; streams of different purposes are independent."""

    INIT = 0
    SPLIT = 1
    BATCHES = 2
    AUGMENTATION = 3
    DROPOUT = 4
    WARM_START = 5
    DEV_BATCH = 6


def generator(seed: int, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """NumPy's generator for (seed, purpose, step)."""
    return np.random.default_rng((seed, int(purpose), step))


@contextmanager
def torch_seed(seed: int, purpose: Purpose, step: int = 0, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch's global generators by (seed, purpose, step) inside the block and restores them after it."""
    value = int(np.random.SeedSequence((seed, int(purpose), step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(value)
        for _ in devices:
            torch.cuda.manual_seed(value)
        yield
