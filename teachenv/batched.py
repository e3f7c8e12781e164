"""B students in training as one computation: every tensor carries a leading dimension B.

Networks, losses and measures are mapped over it, and the rest is element-wise; a step is written once, in
`teachenv.dynamics`, for one student and for a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from teachenv.dynamics import Dynamics
from teachenv.randomness import Purpose, generator
from teachenv.recording import Recorder
from teachenv.state import Episode, StudentState

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
        parameters, buffers = (_stack([d[i] for d in drawn]) for i in (0, 1))
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
        parameters, slots, buffers = (
            {name: t[i] for name, t in tensors.items()}
            for tensors in (students.parameters, students.slots, students.buffers)
        )
        state = StudentState(parameters, slots, buffers, int(np.asarray(students.step)[i]))
        found.append((state, Episode((seed,), episodes.batches[i], episodes.dev[i], episodes.train[i])))
    return found


def _stack(records: Sequence[Any]) -> Any:
    """Stacks equal structures (tensors, dicts and tuples of them) along a new leading dimension."""
    first = records[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(list(records))
    if isinstance(first, dict):
        return {name: _stack([r[name] for r in records]) for name in first}
    return tuple(_stack(group) for group in zip(*records, strict=True))


def _looped(function: Callable[..., T]) -> Callable[..., T]:
    """What `torch.func.vmap(function)` computes, one after the other.

    The rows are taken by `unbind`, whose backward is one stack; indexing row by row would cost O(B²) there.
    """

    def rows(tree: Any) -> list[Any]:
        if isinstance(tree, torch.Tensor):
            return list(tree.unbind())
        columns = {name: t.unbind() for name, t in tree.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def mapped(*trees: Any) -> T:
        count = next(len(tree) for tree in trees if isinstance(tree, torch.Tensor))
        columns = [rows(tree) or [{}] * count for tree in trees]
        result: T = _stack([function(*row) for row in zip(*columns, strict=True)])
        return result

    return mapped


def take(value: T, rows: Sequence[int]) -> T:
    """The given rows of a batch's `StudentState` or `Episode`."""
    index = list(rows)
    if isinstance(value, StudentState):
        parameters, slots, buffers = (
            {name: t[index] for name, t in tensors.items()}
            for tensors in (value.parameters, value.slots, value.buffers)
        )
        return StudentState(parameters, slots, buffers, np.asarray(value.step)[index])  # type: ignore[return-value]
    assert isinstance(value, Episode)
    seeds = tuple(value.seeds[i] for i in index)
    return Episode(seeds, value.batches[index], value.dev[index], value.train[index])  # type: ignore[return-value]
