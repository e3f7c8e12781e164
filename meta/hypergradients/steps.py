"""The steps of a process under given actions, with what they cost: what a memory policy takes and takes again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from meta.hypergradients.memory import Arena, MemoryMeter, ReusedMemory
from meta.hypergradients.process import Adjoint, Process
from teachenv.trees import bytes_of, mapped, tensors_of, with_tensors

# A replayed step may differ by rounding, since kernels do; by this part of the step's own length it may not.
_REPLAY_TOLERANCE = 0.1

# Where a step is shorter than the rounding of the state, by so many units in the last place.
_ROUNDING = 2

# To weigh a graph takes Python at each tensor that it saves: so many steps are taken to be alike.
WEIGHED_EVERY = 16


@dataclass(frozen=True)
class Sizes:
    """What a memory policy knows before the steps are taken.

    Attributes:
        steps: how many steps are differentiated.
        state: the bytes of a state that is kept.
        needed: the bytes of what has to be kept of a state to differentiate there.
        graph: the bytes of a step's graph; 0 where there is none to keep.
        live: the bytes of a state that is stepped: more than of one that is kept, if those are rounded.
        coded: the bytes of what takes the state before a step from the one after it; None where that cannot be done.
    """

    steps: int
    state: int
    needed: int
    graph: int
    live: int
    coded: int | None


@dataclass(frozen=True)
class Rounded:
    """A state whose floating-point numbers are kept in fewer bits.

    Attributes:
        state: the state in them.
        dtypes: of each of its tensors what it had.
    """

    state: Any
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, state: Any, dtype: torch.dtype) -> Rounded:
        """Rounds all floating-point numbers that have more bits."""

        def rounded(tensor: torch.Tensor) -> torch.Tensor:
            wide = tensor.is_floating_point() and tensor.element_size() > dtype.itemsize
            return tensor.to(dtype) if wide else tensor

        return cls(mapped(rounded, state), tuple(tensor.dtype for tensor in tensors_of(state)))


def loaded(state: Any) -> Any:
    """Returns a state in its own types again, rounded or not."""
    if not isinstance(state, Rounded):
        return state
    tensors = tensors_of(state.state)
    return with_tensors(state.state, [t.to(dtype) for t, dtype in zip(tensors, state.dtypes, strict=True)])


def nothing() -> None:
    """Does nothing, in the place of a progress bar."""


class Steps:
    """The steps of one process under given actions, forwards and backwards.

    Args:
        process: what steps.
        actions: the actions, one after the other.
        per_action: how many steps are taken under each of them.
        by_differences: whether the adjoint of a step is taken by central differences, which keep no graph.
        state_dtype: the type that states are kept in; None: their own.
        advance: called after each step that was differentiated.

    Attributes:
        total: the number of steps.
        evaluations: the gradients of minibatch losses computed so far, for each student.
        products: the double backward passes so far, for each student.
        meter: the account of the memory that is held.
    """

    def __init__(
        self,
        process: Process,
        actions: Any,
        per_action: int,
        by_differences: bool,
        state_dtype: torch.dtype | None = None,
        advance: Callable[[], None] = nothing,
    ) -> None:
        """Begins with no step taken."""
        self.process, self.actions, self.per_action, self.by_differences = process, actions, per_action, by_differences
        self.state_dtype, self.advance = state_dtype, advance
        self.total = len(actions) * per_action
        self.evaluations = self.products = 0
        self.meter = MemoryMeter()
        self._taken: tuple[int, Any, Adjoint] | None = None  # (t, x_{t+1}, adjoint) of the step that was weighed

    def sizes(self, state: Any, begin: int) -> Sizes:
        """Weighs what the steps from x_begin on would hold; that step is taken here, and not again by the next call."""
        if not self.by_differences:
            self._taken = (begin, *self.weighed(state, begin))
        kept = [bytes_of(self._rounded(part)) for part in (state, self.process.needed(state))]
        coded = None if self.process.irreversible(state) else self.process.coded_bytes(state)
        return Sizes(self.total - begin, kept[0], kept[1], self.meter.graph_bytes, bytes_of(state), coded)

    def forget_weighed(self) -> None:
        """Drops the step that was weighed, for a policy that cannot use it."""
        self._taken = None
        self.meter.release()

    def count(self, gradients: int, products: int = 0) -> None:
        """Counts what was computed past this object."""
        self.evaluations += gradients * self.process.gradient_evaluations
        self.products += products * self.process.hessian_vector_products

    def step(self, state: Any, t: int, arena: Arena | None = None) -> Any:
        """Returns x_{t+1}, without a graph; in the arena, as far as it can be written there at once."""
        if self._taken is not None and self._taken[0] == t:
            (_, after, _), self._taken = self._taken, None
            self.meter.release()
            return after
        self.evaluations += self.process.gradient_evaluations
        return self.process.step(state, self.action(t), t, arena if self.state_dtype is None else None)

    def linearize(self, state: Any, t: int, memory: ReusedMemory | None = None) -> tuple[Any, Adjoint]:
        """Returns x_{t+1} and the adjoint of the step to it, which holds the step's graph."""
        if self._taken is not None and self._taken[0] == t:
            (_, *taken), self._taken = self._taken, None
            return taken[0], taken[1]
        linearized = self.process.linearize(state, self.action(t), t, memory)
        self.count(1, products=1)
        return linearized

    def weighed(self, state: Any, t: int, memory: ReusedMemory | None = None) -> tuple[Any, Adjoint]:
        """Does what `linearize` does, and accounts for the graph and for as many like it as until the next weighing."""
        if self._taken is not None and self._taken[0] == t:
            return self.linearize(state, t)
        return self.meter.weighed(lambda: self.linearize(state, t, memory), min(WEIGHED_EVERY, self.total - t))

    def pullback(self, state: Any, t: int, after: Any, cotangent: Any) -> tuple[Any, torch.Tensor]:
        """Goes one step back.

        Args:
            state: x_t, or what is needed of it, rounded or not.
            t: the step.
            after: the state that the step led to before, if it is to be compared.
            cotangent: the cotangent of x_{t+1}.
        """
        state, action, compared = loaded(state), self.action(t), after is not None and not self.process.replays_exactly
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

    def compared(self, state: Any) -> Any:
        """Returns a state that a step led to, if the step is to be compared when it is taken again; else None."""
        return state if self.process.compares_every_step and self.state_dtype is None else None

    def needed(self, state: Any, t: int) -> Any:
        """Returns what is kept of x_t to differentiate there; all of the last two states, which a comparison reads."""
        return state if t >= self.total - 1 else self.process.needed(state)

    def stored(self, state: Any, t: int) -> Any:
        """Returns x_t as it is kept; the last two as they are, since a comparison reads them."""
        return state if t >= self.total - 1 else self._rounded(state)

    def _rounded(self, state: Any) -> Any:
        return state if self.state_dtype is None else Rounded.of(state, self.state_dtype)

    def action(self, t: int) -> torch.Tensor:
        """Returns the action of a step."""
        action: torch.Tensor = self.actions[t // self.per_action]
        return action


def _compare(before: Any, replayed: Any, after: Any, t: int) -> None:
    if all(torch.equal(a, b) for a, b in zip(tensors_of(replayed), tensors_of(after), strict=True)):
        return

    def distance(one: Any, other: Any) -> float:
        pairs = zip(tensors_of(one), tensors_of(other), strict=True)
        return math.hypot(*(float((a - b).norm()) for a, b in pairs if a.is_floating_point()))

    floating = [tensor for tensor in tensors_of(after) if tensor.is_floating_point()]
    rounding = _ROUNDING * math.hypot(*(torch.finfo(each.dtype).eps * float(each.norm()) for each in floating))
    length = max(distance(after, before), distance(replayed, before))
    if distance(replayed, after) > max(_REPLAY_TOLERANCE * length, rounding):
        raise RuntimeError(
            f"step {t} was taken again and led to another state: the step is not a function of (state, action, t) "
            "alone. Make what it draws (minibatch, augmentation, dropout) a function of t, or put it into the state"
        )
