"""The steps of a process under given actions, with what they cost: what a memory policy takes and takes again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from meta.hypergradients.memory import Arena, MemoryMeter
from meta.hypergradients.process import Adjoint, Process
from teachenv.trees import bytes_of, tensors_of

# A replayed step may differ by rounding, since kernels do; by this part of the step's own length it may not.
_REPLAY_TOLERANCE = 0.1

# To weigh a graph takes Python at each tensor that it saves: so many steps are taken to be alike.
WEIGHED_EVERY = 16


@dataclass(frozen=True)
class Sizes:
    """What a memory policy knows before the steps are taken.

    Attributes:
        steps: how many steps are differentiated.
        state: the bytes of a state.
        needed: the bytes of what has to be kept of a state to differentiate there.
        graph: the bytes of a step's graph; 0 where there is none to keep.
    """

    steps: int
    state: int
    needed: int
    graph: int


class Steps:
    """The steps of one process under given actions, forwards and backwards.

    Args:
        process: what steps.
        actions: the actions, one after the other.
        per_action: how many steps are taken under each of them.
        by_differences: whether the adjoint of a step is taken by central differences, which keep no graph.

    Attributes:
        total: the number of steps.
        evaluations: the gradients of minibatch losses computed so far, for each student.
        products: the double backward passes so far, for each student.
        meter: the account of the memory that is held.
    """

    def __init__(self, process: Process, actions: Any, per_action: int, by_differences: bool) -> None:
        """Begins with no step taken."""
        self.process, self.actions, self.per_action, self.by_differences = process, actions, per_action, by_differences
        self.total = len(actions) * per_action
        self.evaluations = self.products = 0
        self.meter = MemoryMeter()
        self._taken: tuple[int, Any, Adjoint] | None = None  # (t, x_{t+1}, adjoint) of the step that was weighed

    def sizes(self, state: Any, begin: int) -> Sizes:
        """Weighs what the steps from x_begin on would hold; that step is taken here, and not again by the next call."""
        needed = bytes_of(self.process.needed(state))
        if not self.by_differences:
            self._taken = (begin, *self.weighed(state, begin))
        return Sizes(self.total - begin, bytes_of(state), needed, self.meter.graph_bytes)

    def step(self, state: Any, t: int, arena: Arena | None = None) -> Any:
        """Returns x_{t+1}, without a graph; in the arena, as far as it can be written there at once."""
        if self._taken is not None and self._taken[0] == t:
            (_, after, _), self._taken = self._taken, None
            self.meter.release()
            return after
        self.evaluations += self.process.gradient_evaluations
        return self.process.step(state, self._action(t), t, arena)

    def linearize(self, state: Any, t: int) -> tuple[Any, Adjoint]:
        """Returns x_{t+1} and the adjoint of the step to it, which holds the step's graph."""
        if self._taken is not None and self._taken[0] == t:
            (_, *taken), self._taken = self._taken, None
            return taken[0], taken[1]
        self.evaluations += self.process.gradient_evaluations
        self.products += self.process.hessian_vector_products
        return self.process.linearize(state, self._action(t), t)

    def weighed(self, state: Any, t: int) -> tuple[Any, Adjoint]:
        """Does what `linearize` does, and accounts for the graph and for as many like it as until the next weighing."""
        with self.meter.graph(min(WEIGHED_EVERY, self.total - t)):
            return self.linearize(state, t)

    def pullback(self, state: Any, t: int, after: Any, cotangent: Any) -> tuple[Any, torch.Tensor]:
        """Goes one step back.

        Args:
            state: x_t, or what is needed of it.
            t: the step.
            after: the state that the step led to before, if it is to be compared.
            cotangent: the cotangent of x_{t+1}.
        """
        action, compared = self._action(t), after is not None and not self.process.replays_exactly
        if self.by_differences:
            if compared:
                _compare(state, self.step(state, t), after, t)
            self.evaluations += 2 * self.process.gradient_evaluations
            return self.process.pullback_by_differences(state, action, t, cotangent)
        if compared:
            replayed, adjoint = self.linearize(state, t)
            _compare(state, replayed, after, t)
            return adjoint(cotangent)
        self.evaluations += self.process.gradient_evaluations
        self.products += self.process.hessian_vector_products
        return self.process.pullback(state, action, t, cotangent)

    def needed(self, state: Any, t: int) -> Any:
        """Returns what is kept of x_t to differentiate there; all of the last two states, which a comparison reads."""
        return state if t >= self.total - 1 else self.process.needed(state)

    def _action(self, t: int) -> torch.Tensor:
        action: torch.Tensor = self.actions[t // self.per_action]
        return action


def _compare(before: Any, replayed: Any, after: Any, t: int) -> None:
    def distance(one: Any, other: Any) -> float:
        pairs = zip(tensors_of(one), tensors_of(other), strict=True)
        return math.hypot(*(float((a - b).norm()) for a, b in pairs if a.is_floating_point()))

    if distance(replayed, after) > _REPLAY_TOLERANCE * max(distance(after, before), distance(replayed, before)):
        raise RuntimeError(
            f"step {t} was taken again and led to another state: the step is not a function of (state, action, t) "
            "alone. Make what it draws (minibatch, augmentation, dropout) a function of t, or put it into the state"
        )
