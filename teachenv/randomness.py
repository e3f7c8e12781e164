"""Where an episode's randomness comes from: each draw is a function of the episode's seed, a purpose and the step.

Nothing here advances a global generator: code that can only draw from a global one (parameter initialisers, dropout,
networks that draw from Python's or NumPy's) runs inside `torch_seed` or `all_seeded`, which put it back as it was.
All threads of a process have the same global generators, so that one thread at a time is inside.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch

# Seeds of episodes are drawn below this bound, so that they fit a signed 64-bit integer.
SEED_BOUND = 2**62

ONE_AT_A_TIME = threading.RLock()
"""Held by the thread that has replaced the global generators, until it has put them back."""
if hasattr(os, "register_at_fork"):
    # Otherwise a child that is forked while another thread is inside would wait for that thread, which it lacks.
    os.register_at_fork(
        before=ONE_AT_A_TIME.acquire,
        after_in_parent=ONE_AT_A_TIME.release,
        after_in_child=ONE_AT_A_TIME.release,
    )


class Purpose(IntEnum):
    """What a stream of random numbers is for; streams of different purposes are independent."""

    INIT = 0
    SPLIT = 1
    BATCHES = 2
    AUGMENTATION = 3
    DROPOUT = 4
    WARM_START = 5
    DEV_BATCH = 6
    TRUSTED_DEV = 7
    IMBALANCE = 8
    ROLLOUT = 9
    EVALUATION = 10
    HELD_OUT = 11
    AUGMENTED = 12


def generator(seed: int, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """NumPy's generator for (seed, purpose, step)."""
    return np.random.default_rng((seed, int(purpose), step))


@contextmanager
def torch_seed(seed: int, purpose: Purpose, step: int = 0, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch's global generators by (seed, purpose, step) inside the block and restores them after it."""
    value = _value(seed, purpose, step)
    devices = [device] if device is not None and device.type == "cuda" else []
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(value)
        for _ in devices:
            torch.cuda.manual_seed(value)
        yield


@contextmanager
def all_seeded(seed: int, purpose: Purpose, step: int = 0, device: torch.device | None = None) -> Iterator[None]:
    """Seeds the global generators of torch, Python and NumPy likewise; it takes some 50 µs more."""
    value = _value(seed, purpose, step)
    with ONE_AT_A_TIME:
        python = random.getstate()
        of_numpy = np.random.get_state()  # noqa: NPY002 - what a network of the user's may draw from
        random.seed(value)
        np.random.seed(value % 2**32)  # noqa: NPY002
        try:
            with torch_seed(seed, purpose, step, device):
                yield
        finally:
            random.setstate(python)
            np.random.set_state(of_numpy)  # noqa: NPY002


def generator_states(device: torch.device | None = None) -> dict[str, bytes]:
    """Where the global generators stand, by name, to be compared."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    states = {
        "torch": torch.default_generator.get_state().numpy().tobytes(),
        "Python": repr(random.getstate()).encode(),
        "NumPy": repr((kind, np.asarray(keys).tobytes(), *rest)).encode(),
    }
    if device is not None and device.type == "cuda":
        states["torch"] += torch.cuda.get_rng_state(device).numpy().tobytes()
    return states


def _value(seed: int, purpose: Purpose, step: int) -> int:
    return int(np.random.SeedSequence((seed, int(purpose), step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
