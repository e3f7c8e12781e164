"""The global random generators of Python, NumPy and torch as a value, for code of others that draws from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from teachenv.randomness import ONE_AT_A_TIME


class Generators(NamedTuple):
    """The states of the global random generators.

    Attributes:
        python: the state of Python's `random`.
        numpy: the state of NumPy's global generator.
        torch: the state of torch's generator on the CPU.
        cuda: the states of torch's generators, one for each GPU; empty while CUDA is not in use.
    """

    python: Any
    numpy: Any
    torch: torch.Tensor
    cuda: list[torch.Tensor]


def generators() -> Generators:
    """Returns the present states of the global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return Generators(random.getstate(), np.random.get_state(), torch.random.get_rng_state(), cuda)  # noqa: NPY002


def set_generators(states: Generators) -> None:
    """Puts the global generators into these states."""
    random.setstate(states.python)
    np.random.set_state(states.numpy)  # noqa: NPY002
    torch.random.set_rng_state(states.torch)
    if states.cuda:
        torch.cuda.set_rng_state_all(states.cuda)


class Stream:
    """Randomness of its own for code that draws from the global generators.

    Attributes:
        states: the states that the global generators have when the next block begins.
    """

    def __init__(self, seed: int) -> None:
        """Seeds the stream; the global generators stay as they are."""
        with ONE_AT_A_TIME:
            outside = generators()
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            # Not torch.manual_seed, which seeds a CUDA that is not in use yet, too.
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.manual_seed_all(seed)
            self.states = generators()
            set_generators(outside)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Puts this stream in the place of the global generators inside the block; afterwards they are as before.

        One thread at a time is inside, as in the blocks of `teachenv.randomness`.
        """
        with ONE_AT_A_TIME:
            outside = generators()
            set_generators(self.states)
            try:
                yield
            finally:
                self.states = generators()
                set_generators(outside)
