"""The table of memory policies: what is kept of a process's steps, and how the way back is made from it.

A policy is one object in the table `MEMORY_POLICIES`. It predicts its bytes, keeps something of each step (a state, a
graph, or nothing), and gives back the adjoints of the steps from the last one to the first. The docstring of
`meta.hypergradients.hypergradient` says what each of them costs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch

from meta.hypergradients.checkpoints import Binomial, Checkpoints
from meta.hypergradients.disk import Disk
from meta.hypergradients.memory import ReusedMemory, lost_between_graphs
from meta.hypergradients.policy import MemoryPolicy
from meta.hypergradients.process import Adjoint
from meta.hypergradients.reversible import Reversible
from meta.hypergradients.steps import WEIGHED_EVERY, Sizes, Steps
from teachenv.errors import unknown_name

MemoryOption = Literal["auto", "all", "states", "reversible", "sqrt", "log", "disk"] | int
"""How a user names a policy: `"auto"`, which lets a byte budget choose, a name of the table, or so many checkpoints."""

StateType = Literal["bfloat16", "float16"]
"""What states can be rounded to while they are kept."""


@dataclass(frozen=True)
class Graphs(MemoryPolicy):
    """Keeps the graph of every step, and takes none again."""

    keeps_states: ClassVar[bool] = False

    @property
    def without_graphs(self) -> MemoryPolicy:
        """Every state is kept instead."""
        return Checkpoints(self.name, STATES.count)

    def predicted_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes of all graphs and a state; where there are none to keep, those of all states."""
        return sizes.steps * sizes.graph + sizes.live if sizes.graph else STATES.predicted_bytes(sizes)

    def resident_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes of the graphs, and of what is lost between them."""
        return self.predicted_bytes(sizes) + sizes.steps * lost_between_graphs(sizes.graph, sizes.needed)

    def predicted_steps(self, sizes: Sizes) -> int:
        """Returns 0: each step is taken with its graph, and no other."""
        return 0

    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Keeps the adjoints themselves, which hold the graphs."""
        kept: dict[int, Any] = {}
        memory = ReusedMemory()
        for t in range(begin, steps.total):
            linearize = steps.linearize if (t - begin) % WEIGHED_EVERY else steps.weighed
            state, kept[t] = linearize(state, t, memory)
        return kept | {steps.total: state}

    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Yields the adjoints as they are."""
        while kept:
            yield kept.popitem()


def _root(steps: int) -> int:
    """Returns ⌈√T⌉ for a number of steps T of at least 1."""
    return math.isqrt(steps - 1) + 1


def _twice_the_logarithm(steps: int) -> int:
    """Returns 2⌈log₂ T⌉: 26 for T = 5,000, 32 for 50,000: no step is taken again more than 4 times."""
    return max(1, 2 * (steps - 1).bit_length())


STATES = Checkpoints("states", lambda steps: steps)
GIVEN = Checkpoints("given", STATES.count)
"""Restores from states that are known already."""

MEMORY_POLICIES: dict[str | int, MemoryPolicy] = {
    policy.name: policy
    for policy in (
        Graphs("all"),
        STATES,
        Reversible("reversible"),
        Checkpoints("sqrt", _root),
        Binomial("log", _twice_the_logarithm),
        Disk("disk"),
    )
}
"""The policies by name."""


def memory_policy(memory: MemoryOption, folder: str | None = None) -> MemoryPolicy | None:
    """Returns the policy that an option names; None for `"auto"`, for which `planned` chooses one.

    Args:
        memory: the option.
        folder: where `"disk"` keeps its file.

    Raises:
        ValueError: it is neither a known name nor a positive number of checkpoints.
    """
    if isinstance(memory, int | np.integer) and not isinstance(memory, bool):
        count = int(memory)
        if count < 1:
            raise ValueError(f"found memory={count}, expected at least 1 checkpoint")
        return Checkpoints(count, lambda steps: count)
    if memory == "auto":
        return None
    if memory not in list(MEMORY_POLICIES):
        raise unknown_name("memory policy", memory, ["auto", *map(str, MEMORY_POLICIES)])
    return _placed(MEMORY_POLICIES[memory], folder)


def check_options(memory: MemoryOption, byte_budget: int | None, folder: str | None = None) -> None:
    """Refuses options that the memory policy would leave aside.

    Raises:
        ValueError: a budget of a policy that is chosen by name, or a folder of one that writes no file.
        FileNotFoundError: there is no such folder.
    """
    if byte_budget is not None and memory != "auto":
        raise ValueError(
            f'found byte_budget={byte_budget!r} with memory={memory!r}, expected memory="auto", which chooses a policy '
            "within the budget; leave one of them out"
        )
    if folder is not None and memory not in ("auto", "disk"):
        raise ValueError(
            f'found folder={folder!r} with memory={memory!r}, which writes no file; leave it out, or take memory="disk"'
        )
    if folder is not None and not os.path.isdir(folder):
        raise FileNotFoundError(f"found no folder {folder!r}, expected one for the states; make it, or name another")


def _placed(policy: MemoryPolicy, folder: str | None) -> MemoryPolicy:
    return replace(policy, folder=folder) if isinstance(policy, Disk) else policy


def policies_of(memory: MemoryOption, folder: str | None, rounded: bool) -> list[MemoryPolicy]:
    """Returns the policy that an option names; for `"auto"` all that there are to choose from.

    Args:
        memory: the option.
        folder: where `"disk"` keeps its file.
        rounded: whether states are to be rounded: only policies that keep some will do.

    Raises:
        ValueError: it is neither a known name nor a positive number of checkpoints, or keeps nothing to be rounded.
    """
    policy = memory_policy(memory, folder)
    if policy is None:
        every = [_placed(each, folder) for each in MEMORY_POLICIES.values()]
        return [each for each in every if each.keeps_states or not rounded]
    if rounded and not policy.keeps_states:
        able = [str(name) for name, other in MEMORY_POLICIES.items() if other.keeps_states]
        raise ValueError(
            f"found state_dtype with memory={memory!r}, which keeps no states to round; leave it out, or take one of "
            f"{', '.join(map(repr, able))}"
        )
    return [policy]


def check_state_dtype(name: str | None) -> torch.dtype | None:
    """Returns the type of a name; None for None.

    Raises:
        ValueError: it is none that states can be kept in.
    """
    if name is None:
        return None
    if name not in get_args(StateType):
        raise unknown_name("state_dtype", name, get_args(StateType))
    dtype: torch.dtype = getattr(torch, name)
    return dtype
