"""The policy that keeps no states but corrections, and restores the states on the way back; see `Reversal`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from meta.hypergradients.memory import Arena
from meta.hypergradients.policy import MemoryPolicy, Pace
from meta.hypergradients.process import Adjoint, Process
from meta.hypergradients.reversal import Reversal
from meta.hypergradients.steps import Sizes, Steps
from teachenv.trees import bytes_of

_STATES = 16
"""How many states' bytes the corrections of all steps may take before they are kept in stretches."""
_SECONDS = 6e-9
"""What a plan takes it to last to write down and read the corrections of a number."""


@dataclass(frozen=True)
class Reversible(MemoryPolicy):
    """Keeps what predictions of earlier states lack, and restores every state to the bit.

    Where the corrections of all T steps would take more bytes than 16 states, they are kept of a stretch at a time:
    between checkpoints, as many as make both together least; each step but the last stretch's is then taken once again.
    """

    keeps_states: ClassVar[bool] = False

    def check(self, process: Process, state: Any) -> None:
        """Refuses a process whose steps cannot be reversed, and says why.

        Raises:
            ValueError: it is one.
        """
        if reason := process.irreversible(state):
            raise ValueError(
                f"memory='reversible': {reason}; take memory='log', 'sqrt' or 'disk', which need no reversal"
            )

    def possible(self, sizes: Sizes) -> bool:
        """Returns whether the optimiser's steps can be reversed."""
        return sizes.coded is not None

    def predicted_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes of checkpoints, of a stretch's corrections, and of the states and graph of a step."""
        assert sizes.coded is not None
        every = _stretch(sizes.steps, sizes.coded, sizes.live)
        checkpoints = -(-sizes.steps // every) - 1
        return checkpoints * sizes.live + every * sizes.coded + 3 * sizes.live + sizes.graph

    def predicted_steps(self, sizes: Sizes) -> int:
        """Returns the steps forwards, and again those of every stretch but the last."""
        assert sizes.coded is not None
        every = _stretch(sizes.steps, sizes.coded, sizes.live)
        return sizes.steps + (-(-sizes.steps // every) - 1) * every

    def predicted_seconds(self, sizes: Sizes, pace: Pace) -> float:
        """Returns how long the steps take, and the corrections."""
        assert sizes.coded is not None
        return super().predicted_seconds(sizes, pace) + sizes.steps * 4 * sizes.coded * _SECONDS

    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Keeps checkpoints, and what the way back through the last stretch needs."""
        steps.forget_weighed()
        every = _stretch(steps.total - begin, steps.process.coded_bytes(state), bytes_of(state))
        last, kept, arena = begin + (steps.total - begin - 1) // every * every, {begin: state}, Arena()
        for t in range(begin, last):
            state = steps.step(state, t)
            if (t + 1 - begin) % every == 0:
                kept[t + 1] = state = arena.put(state)
        walk = _walked(steps, state, last, steps.total)
        return kept | {last: walk, steps.total: walk.state}

    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Walks the stretches backwards, and takes those before the last one forwards first."""
        end = steps.total
        for start in sorted(kept, reverse=True):
            walk = kept.pop(start)
            if not isinstance(walk, Reversal):
                walk = _walked(steps, walk, start, end)
            steps.meter.held(bytes_of(kept) + walk.bytes)
            for t in range(end - 1, start - 1, -1):
                restored = walk.back(steps.action(t))
                steps.count(restored.gradients, products=restored.adjoint is not None)
                yield t, restored.adjoint or functools.partial(steps.pullback, restored.state, t, None)
                del restored  # with its graph, before the next one is made
            end = start


def _walked(steps: Steps, state: Any, start: int, end: int) -> Reversal:
    """Returns a stretch of steps taken forwards."""
    walk = steps.process.reversal(state, start, graphs=not steps.by_differences)
    for t in range(start, end):
        walk.step(steps.action(t))
        steps.count(1)
    walk.finish()
    return walk


def _stretch(steps: int, coded: int, state: int) -> int:
    """Returns the length of a stretch: all steps, or such that checkpoints and corrections together take least."""
    if steps * coded <= _STATES * state:
        return steps
    return -(-steps // math.ceil(math.sqrt(steps * coded / state)))
