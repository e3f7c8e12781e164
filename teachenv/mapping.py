"""Turns functions of one student into functions of many: one after the other, or all at once by vmap.

Tensors of B students have a leading dimension B. Networks, losses and measures are written without it, and mapped over
it; optimisers are element-wise and need no mapping.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch

from teachenv.optimizers import Tensors
from teachenv.recording import Recorder
from teachenv.students.functional import FunctionalStudent
from teachenv.trees import stack, unstacked

T = TypeVar("T")


@dataclass(frozen=True)
class Mapping(ABC):
    """How a function of one student's tensors becomes a function of all students' tensors.

    Attributes:
        form: what a student's undifferentiated passes need under this mapping, see `FunctionalStudent.__call__`.
        one_by_one: whether many students are computed one after the other, and gain nothing from being taken together.
    """

    form: ClassVar[Literal[False, "batched"]] = False
    one_by_one: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, function: Callable[..., T]) -> Callable[..., T]:
        """Maps a function over the students."""

    def recorded(self, function: Callable[..., T], pieces: Sequence[object], *name: Hashable) -> Callable[..., T]:
        """A function of all students' tensors, as a recording where that is faster; see `teachenv.recording`.

        Args:
            function: what is computed.
            pieces: the network, loss and so on that it calls.
            name: what tells it from other functions of these pieces.
        """
        return function

    def drawn(self, student: FunctionalStudent, seeds: Sequence[int]) -> tuple[Tensors, Tensors, int | np.ndarray]:
        """(parameters, buffers, step 0) of untrained students, a function of their seeds."""
        parameters, buffers = stack([student.init(seed) for seed in seeds])
        return parameters, buffers, np.zeros(len(seeds), dtype=np.int64)


@dataclass(frozen=True)
class One(Mapping):
    """One student, whose tensors have no leading dimension."""

    def __call__(self, function: Callable[..., T]) -> Callable[..., T]:
        """Returns the function as it is."""
        return function

    def drawn(self, student: FunctionalStudent, seeds: Sequence[int]) -> tuple[Tensors, Tensors, int | np.ndarray]:
        """(parameters, buffers, step 0) of the untrained student."""
        return *student.init(*seeds), 0


@dataclass(frozen=True)
class OneElementary(One):
    """One student, by operations whose derivatives `torch.func.vmap` takes, for many cotangents of a step at once."""

    form: ClassVar[Literal[False, "batched"]] = "batched"


@dataclass(frozen=True)
class Loop(Mapping):
    """Many students, one after the other."""

    one_by_one: ClassVar[bool] = True

    def __call__(self, function: Callable[..., T]) -> Callable[..., T]:
        """Computes what `torch.func.vmap(function)` does, one student after the other."""
        return lambda *arguments: stack([function(*row) for row in unstacked(arguments)])


@dataclass(frozen=True)
class Vmap(Mapping):
    """Many students in one call, by `torch.func.vmap`; their training passes must draw no random numbers.

    Attributes:
        recorder: records functions that are called often, and replays them; only for networks, losses and measures
            that are known to be pure. None: nothing is recorded.
        pieces: the network, losses and so on whose functions the recorder has; functions that call others (of a
            `Dynamics` that was changed by `replace`) are not recorded.
    """

    recorder: Recorder | None = None
    pieces: tuple[object, ...] = ()
    form: ClassVar[Literal[False, "batched"]] = "batched"

    def __call__(self, function: Callable[..., T]) -> Callable[..., T]:
        """Returns `torch.func.vmap(function)`."""
        return torch.func.vmap(function)

    def recorded(self, function: Callable[..., T], pieces: Sequence[object], *name: Hashable) -> Callable[..., T]:
        """The function as a recording, if there is a recorder for these pieces."""
        if self.recorder is None or not all(any(piece is known for known in self.pieces) for piece in pieces):
            return function
        return self.recorder(function, *name)
