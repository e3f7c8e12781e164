"""B students in training as one computation: every tensor carries a leading dimension B.

Networks, losses and measures are mapped over it, and the rest is element-wise; a step is written once, in
`teachenv.dynamics`, for one student and for a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
import torch

from teachenv import trees
from teachenv.dynamics import Dynamics
from teachenv.randomness import Purpose, generator
from teachenv.recording import Recorder
from teachenv.state import Episode, StudentState
from teachenv.trees import at, stack, unstacked

T = TypeVar("T")


class BatchedDynamics(Dynamics):
    """The training of B students in one computation.

    Args:
        single: the training of one of them.
        path: `"vmap"`: networks, losses and measures run under `torch.func.vmap`; `"loop"`: one student after the
            other.
        recorder: records steps under vmap that are taken often and replays them; only for networks, losses and measures
            that are known to be pure, see `teachenv.recording`. None: nothing is recorded.
    """

    def __init__(self, single: Dynamics, path: Literal["vmap", "loop"], recorder: Recorder | None = None) -> None:
        """Takes the single training's pieces."""
        self.__dict__.update(single.__dict__)
        self.single, self.path = single, path
        self._recorder = recorder if path == "vmap" else None
        self._mode = "batched" if path == "vmap" else False

    def untrained(self, episode: Episode) -> StudentState:
        """The students before any training."""
        drawn = [self.student.init(seed) for seed in episode.seeds]
        parameters, buffers = stack(drawn)
        begin = np.zeros(len(drawn), dtype=np.int64)
        return StudentState(parameters, self.optimizer.init(parameters), buffers, begin)

    def minibatch(self, episode: Episode, step: int | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (B, batch, ...) and targets (B, batch, ...) of the students' steps."""
        assert isinstance(step, np.ndarray)
        indices = episode.batches[torch.arange(len(step)), torch.from_numpy(step)]
        # By index_select, which is faster on a CPU than indexing.
        rows = indices.view(-1)
        inputs, targets = (t.index_select(0, rows).view(*indices.shape, *t.shape[1:]) for t in self.task.pool)
        if self.augmentation is not None:
            inputs = torch.stack(
                [
                    self.augmentation(x, generator(seed, Purpose.AUGMENTATION, int(t)))
                    for x, seed, t in zip(inputs, episode.seeds, step, strict=True)
                ]
            )
        return self._trimmed(inputs, targets)

    def _map(self, function: Callable[..., T]) -> Callable[..., T]:
        return torch.func.vmap(function) if self.path == "vmap" else _looped(function)

    def _random_states(self, episode: Episode, step: int | np.ndarray) -> Iterator[AbstractContextManager[None]]:
        # vmap calls a function once for all students; only students that draw nothing are given to it.
        return super()._random_states(episode, step) if self.path == "loop" else iter([nullcontext()])

    def _recorded(self, function: Callable[..., T], *name: Hashable) -> Callable[..., T]:
        return function if self._recorder is None else self._recorder(function, *name)


def apart(students: StudentState, episodes: Episode) -> list[tuple[StudentState, Episode]]:
    """Each student of a batch and its episode, without the leading dimension."""
    found = []
    for i, seed in enumerate(episodes.seeds):
        student, episode = at((students, episodes), i)
        found.append((replace(student, step=int(student.step)), replace(episode, seeds=(seed,))))
    return found


def _looped(function: Callable[..., T]) -> Callable[..., T]:
    """What `torch.func.vmap(function)` computes, one after the other."""
    return lambda *arguments: stack([function(*row) for row in unstacked(arguments)])


def take(value: T, rows: Sequence[int]) -> T:
    """The given rows of a batch's `StudentState` or `Episode`."""
    taken = at(value, list(rows))
    return replace(taken, seeds=tuple(value.seeds[i] for i in rows)) if isinstance(value, Episode) else taken  # type: ignore[type-var]


def put(value: T, rows: np.ndarray, new: T) -> T:
    """Part of a batch with the given rows taken from another; `value` stays as it is."""
    if isinstance(value, Episode) and isinstance(new, Episode):
        seeds = dict(enumerate(value.seeds)) | dict(zip(rows.tolist(), new.seeds, strict=True))
        value, new = (replace(each, seeds=tuple(seeds.values())) for each in (value, new))
    return trees.put(value, rows, new)
