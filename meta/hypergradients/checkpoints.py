"""Policies that keep states in memory, and take the steps between them again on the way back.

Binomial checkpointing (Griewank & Walther 2000): with c checkpoints beside the first state, and each step taken at most
r times on the way back, (c + r choose c) steps can be reversed. So c ~ log T checkpoints do with few replays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from meta.hypergradients.memory import Arena
from meta.hypergradients.policy import MemoryPolicy
from meta.hypergradients.process import Adjoint
from meta.hypergradients.steps import Sizes, Steps, loaded
from teachenv.trees import mapped, tensors_of, with_tensors


@dataclass(frozen=True)
class Checkpoints(MemoryPolicy):
    """Keeps a number of states, evenly spaced; the steps between them are taken again on the way back.

    Attributes:
        count: the number of states to keep of so many steps; beyond the number of steps it means all of them.
    """

    count: Callable[[int], int]

    def spacing(self, steps: int) -> int:
        """Returns k if every k-th state is kept."""
        return -(-steps // self.count(steps))

    def predicted_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes of the checkpoints and of one stretch's states, of one graph, and of the state stepped.

        The most are held at the end of the way forwards, or when the last stretch but one is taken again.
        """
        every = self.spacing(sizes.steps)
        stretches = -(-sizes.steps // every)
        last = sizes.steps - (stretches - 1) * every
        of_checkpoint = sizes.state if every > 1 else sizes.needed
        at_the_end = (stretches - 1) * of_checkpoint + last * sizes.needed
        on_the_way_back = (stretches - 2) * of_checkpoint + every * sizes.needed
        not_rounded = 2 * (sizes.live - sizes.state)  # the last two
        return max(at_the_end, on_the_way_back) + not_rounded + sizes.needed + sizes.graph + sizes.live

    def predicted_steps(self, sizes: Sizes) -> int:
        """Returns the steps forwards, and again those of each stretch but the last one, all but one of each."""
        every = self.spacing(sizes.steps)
        return sizes.steps + (-(-sizes.steps // every) - 1) * (every - 1)

    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Keeps checkpoints, and all states from the last one on: those steps need not be taken again."""
        every = self.spacing(steps.total - begin)
        last = begin + (steps.total - 1 - begin) // every * every if every > 1 else begin
        states, arena = {begin: state}, Arena()
        for t in range(begin, steps.total):
            keep = t >= last or (t + 1 - begin) % every == 0
            state = steps.step(state, t, arena if keep else None)
            if keep:
                states[t + 1] = arena.put(steps.stored(steps.needed(state, t + 1) if t >= last else state, t + 1))
        return states

    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Computes the states between the kept ones, whichever those are, again: one stretch at a time."""
        end, after, arena = steps.total, final, Arena()
        for start in sorted(kept, reverse=True):
            state = loaded(kept.pop(start))
            arena.clear()
            stretch = [steps.stored(steps.needed(state, start), start)]
            for t in range(start + 1, end):
                state = steps.step(state, t - 1, arena)
                stretch.append(arena.put(steps.stored(steps.needed(state, t), t)))
            del state
            if end > steps.total - 2 * (end - start):  # later on fewer states are held
                steps.meter.states(kept, stretch)
            for t in range(end - 1, start - 1, -1):
                state = stretch.pop()
                yield t, functools.partial(steps.pullback, state, t, after)
                after = steps.compared(state)
            end = start


@dataclass(frozen=True)
class Binomial(MemoryPolicy):
    """Keeps checkpoints where binomial checkpointing puts them, and moves them as the way back goes on.

    Attributes:
        count: how many checkpoints there are beside the first state, of so many steps.
    """

    count: Callable[[int], int]

    def predicted_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes of the checkpoints, of two states that are stepped, and of one graph."""
        return (min(self.count(sizes.steps), sizes.steps) + 1) * sizes.state + 2 * sizes.live + sizes.graph

    def predicted_steps(self, sizes: Sizes) -> int:
        """Returns the steps forwards, and again between checkpoints: at most r times each, see the module."""
        free, left = self.count(sizes.steps), sizes.steps
        while free and left > 1:
            left, free = left - _ahead(left, free), free - 1
        return _taken_again(sizes.steps, self.count(sizes.steps)) + left

    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Keeps checkpoints, which come closer to one another towards the end."""
        kept = {begin: state}
        kept[steps.total] = self._walk(steps, kept, begin, steps.total, steps.total - begin, _Slots(steps))
        return kept

    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Computes each state again from the checkpoint before it, and puts the checkpoints that are free between."""
        begin, after, slots = min(kept), final, _Slots(steps)
        for t in range(steps.total - 1, begin - 1, -1):
            state = self._walk(steps, kept, begin, t, t + 1, slots)
            steps.meter.states(kept, state)
            yield t, functools.partial(steps.pullback, steps.needed(state, t), t, after)
            after, checkpoint = steps.compared(state), kept.pop(t, None)
            if isinstance(checkpoint, _Slot):
                after = mapped(torch.Tensor.clone, after)  # a later checkpoint comes to its place
                slots.free(checkpoint)

    def _walk(self, steps: Steps, kept: dict[int, Any], begin: int, to: int, end: int, slots: _Slots) -> Any:
        """Returns x_to, taking steps from the checkpoint before it.

        Args:
            steps: the steps of the process.
            kept: the checkpoints by step; others are added on the way.
            begin: the first step that is differentiated.
            to: where the walk ends.
            end: the first step that need not be differentiated any more.
            slots: where checkpoints are kept.
        """
        start = max(t for t in kept if t <= to)
        checkpoint = kept[start]
        state = loaded(checkpoint.state if isinstance(checkpoint, _Slot) else checkpoint)
        free = self.count(steps.total - begin) + 1 - len(kept)
        ahead = start + _ahead(end - start, free) if free and end - start > 1 else to + 1
        for t in range(start, to):
            state = steps.step(state, t)
            if t + 1 == ahead and t + 1 < end:
                kept[ahead] = slots.put(state, ahead)
                free, left = free - 1, end - ahead
                ahead = ahead + _ahead(left, free) if free and left > 1 else to + 1
        return state


@dataclass(frozen=True)
class _Slot:
    """A checkpoint in memory of its own, which another one can take over.

    Attributes:
        state: the state in it, rounded or not.
    """

    state: Any


class _Slots:
    """Keeps checkpoints, those that come later in the places of those that are not needed any more.

    Only what was copied here is written over: a step may hand on tensors of earlier states, or of the user's own.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps, self._arena = steps, Arena()
        self._free: list[_Slot] = []

    def put(self, state: Any, t: int) -> Any:
        """Copies a state to a place of its own; returns it as it is where that would gain nothing (`Arena.place`)."""
        stored = self._steps.stored(state, t)
        place = self._place(stored)
        if place is None:
            return stored
        pairs = zip(tensors_of(place), tensors_of(stored), strict=True)
        return _Slot(with_tensors(stored, [target.copy_(tensor) for target, tensor in pairs]))

    def _place(self, stored: Any) -> Any:
        layout = [(tensor.shape, tensor.dtype) for tensor in tensors_of(stored)]
        while self._free:
            place = self._free.pop().state
            if layout == [(tensor.shape, tensor.dtype) for tensor in tensors_of(place)]:
                return place
        return self._arena.place(stored)

    def free(self, checkpoint: _Slot) -> None:
        """Lets a later checkpoint have the place of one."""
        self._free.append(checkpoint)


def _ahead(steps: int, free: int) -> int:
    """Returns how far ahead the next checkpoint is, of so many steps (2 at least) and checkpoints (1 at least)."""
    again = 1
    while math.comb(free + again, free) < steps:
        again += 1
    return min(steps - 1, -(-again * steps // (again + free)))


@functools.lru_cache(maxsize=2**14)
def _taken_again(steps: int, free: int) -> int:
    """Returns how many steps lead from a checkpoint to each of so many states after it, the last one first."""
    if steps <= 1:
        return 0
    if not free:
        return steps * (steps - 1) // 2
    ahead = _ahead(steps, free)
    return ahead + _taken_again(steps - ahead, free - 1) + _taken_again(ahead, free)
