"""Memory policies: what is kept of a process's steps on the way forwards, and how the way back is made from it.

A policy is one object in the table `MEMORY_POLICIES`. It predicts its bytes, keeps something of each step (a state, a
graph, or nothing), and gives back the adjoints of the steps from the last one to the first. The docstring of
`meta.hypergradients.hypergradient` says what each of them costs.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from meta.hypergradients.memory import Arena
from meta.hypergradients.process import Adjoint
from meta.hypergradients.steps import WEIGHED_EVERY, Sizes, Steps
from teachenv.errors import unknown_name

MemoryOption = Literal["auto", "all", "states", "sqrt"] | int
"""How a user names a policy: `"auto"`, which lets a byte budget choose, a name of the table, or so many checkpoints."""


@dataclass(frozen=True)
class MemoryPolicy(ABC):
    """What is kept between the forward and the backward pass.

    Attributes:
        name: how it is called in options and results.
        error: the largest relative error of its gradients in float64, beyond rounding: 0 where they are exact.
    """

    name: str | int
    error: ClassVar[float] = 0.0

    @property
    def without_graphs(self) -> MemoryPolicy:
        """The policy that is followed in its place where a method has no graphs to keep."""
        return self

    def spacing(self, steps: int) -> int | None:
        """Returns k if the policy keeps every k-th of so many states and nothing else; None if it works otherwise."""
        return None

    @abstractmethod
    def predicted_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes that are held at the peak, besides the initial state."""

    @abstractmethod
    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Takes the steps from x_begin on.

        Returns:
            What `restore` needs, each under its step t, and the final state under `steps.total`.
        """

    @abstractmethod
    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Yields (t, adjoint of step t) from the last step to the first; each adjoint is called before the next.

        Args:
            steps: the steps of the process.
            kept: what `keep` returned, without the final state. It is emptied, so that nothing is held too long.
            final: the final state.
        """


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
        """Returns the bytes of the checkpoints, of the states of one stretch between them, and of one graph."""
        every = self.spacing(sizes.steps)
        checkpoints = min(self.count(sizes.steps), sizes.steps) + 1
        at_each = sizes.state if every > 1 else sizes.needed
        return checkpoints * at_each + every * sizes.needed + sizes.graph + sizes.state

    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Keeps checkpoints, and all states from the last one on: those steps need not be taken again."""
        every = self.spacing(steps.total - begin)
        last = begin + (steps.total - 1 - begin) // every * every if every > 1 else begin
        states, arena = {begin: state}, Arena()
        for t in range(begin, steps.total):
            keep = t >= last or (t + 1 - begin) % every == 0
            state = steps.step(state, t, arena if keep else None)
            if keep:
                states[t + 1] = arena.put(steps.needed(state, t + 1) if t >= last else state)
        return states

    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Computes the states between the kept ones, whichever those are, again: one stretch at a time."""
        end, after, arena = steps.total, final, Arena()
        for start in sorted(kept, reverse=True):
            state = kept.pop(start)
            arena.clear()
            stretch = [steps.needed(state, start)]
            for t in range(start + 1, end):
                state = steps.step(state, t - 1, arena)
                stretch.append(arena.put(steps.needed(state, t)))
            del state
            if end > steps.total - 2 * (end - start):  # later on fewer states are held
                steps.meter.states(kept, stretch)
            for t in range(end - 1, start - 1, -1):
                yield t, functools.partial(steps.pullback, stretch.pop(), t, after)
                after = None
            end = start


@dataclass(frozen=True)
class Graphs(MemoryPolicy):
    """Keeps the graph of every step, and takes none again."""

    @property
    def without_graphs(self) -> MemoryPolicy:
        """Every state is kept instead."""
        return Checkpoints(self.name, STATES.count)

    def predicted_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes of all graphs and a state; where there are none to keep, those of all states."""
        return sizes.steps * sizes.graph + sizes.state if sizes.graph else STATES.predicted_bytes(sizes)

    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Keeps the adjoints themselves, which hold the graphs."""
        kept: dict[int, Any] = {}
        for t in range(begin, steps.total):
            linearize = steps.linearize if (t - begin) % WEIGHED_EVERY else steps.weighed
            state, kept[t] = linearize(state, t)
        return kept | {steps.total: state}

    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Yields the adjoints as they are."""
        while kept:
            yield kept.popitem()


def _root(steps: int) -> int:
    """Returns ⌈√T⌉ for a number of steps T of at least 1."""
    return math.isqrt(steps - 1) + 1


STATES = Checkpoints("states", lambda steps: steps)
GIVEN = Checkpoints("given", STATES.count)
"""Restores from states that are known already."""

MEMORY_POLICIES: dict[str | int, MemoryPolicy] = {
    policy.name: policy for policy in (Graphs("all"), STATES, Checkpoints("sqrt", _root))
}
"""The policies by name, the fastest first."""


def memory_policy(memory: MemoryOption) -> MemoryPolicy | None:
    """Returns the policy that an option names; None for `"auto"`, of which `within` makes one.

    Raises:
        ValueError: it is neither a known name nor a positive number of checkpoints.
    """
    if isinstance(memory, int) and not isinstance(memory, bool):
        if memory < 1:
            raise ValueError(f"found memory={memory}, expected at least 1 checkpoint")
        return Checkpoints(memory, lambda steps: memory)
    if memory == "auto":
        return None
    if memory not in list(MEMORY_POLICIES):
        raise unknown_name("memory policy", memory, ["auto", *map(str, MEMORY_POLICIES)])
    return MEMORY_POLICIES[memory]


def within(byte_budget: int | None, sizes: Sizes) -> MemoryPolicy:
    """Returns the fastest exact policy that is predicted to fit into a budget; without a budget, `"states"`.

    Raises:
        ValueError: none of them fits.
    """
    if byte_budget is None:
        return STATES
    needs = {policy: policy.predicted_bytes(sizes) for policy in MEMORY_POLICIES.values() if not policy.error}
    for policy, needed in needs.items():
        if needed <= byte_budget:
            return policy
    raise ValueError(
        f"byte_budget={byte_budget:,} holds no policy: over {sizes.steps} steps "
        + ", ".join(f"{policy.name!r} needs {needed:,}" for policy, needed in needs.items())
        + '; raise it, or differentiate fewer steps (method="truncated")'
    )
