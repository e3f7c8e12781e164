"""Adjoints of an environment's student steps, kept as the environment takes the steps.

An environment steps without graphs, and a step that is differentiated later has to be taken again. Where a step with
its graph is the same to the bit, and the graphs of all steps fit into memory, it is enough to take it once, with its
graph. Whether it is the same, and whether its adjoint is that of the kernels which a second derivative needs, is tried
on the first step: of attention and LSTMs it is not. A network may do something else later (skip a layer by chance): a
step whose graph cannot be made or does not fit ends the keeping, and steps are taken again.
"""

from __future__ import annotations

from typing import Any

import torch

from meta.hypergradients.memory import MemoryMeter, ReusedMemory, lost_between_graphs
from meta.hypergradients.process import Adjoint, double_backward_kernels
from meta.hypergradients.steps import WEIGHED_EVERY
from meta.hypergradients.training import Training
from teachenv.dynamics import Dynamics
from teachenv.machine import spare_memory
from teachenv.state import Episode, Outcome, StudentState
from teachenv.trees import bytes_of, tensors_of


class KeptAdjoints:
    """Takes an environment's student steps, and keeps their adjoints if that can be.

    Args:
        steps: how many steps' adjoints are kept at a time.
        bounded: whether only if their graphs take at most `teachenv.machine.spare_memory`.

    Attributes:
        used: whether adjoints are kept; None: the first step will tell. A later one may end it.
    """

    def __init__(self, steps: int, bounded: bool) -> None:
        """Begins with no step taken."""
        self._steps, self._bounded = steps, bounded
        self.used: bool | None = None
        self._taken, self._most_bytes = 0, 0  # steps; of all graphs together, if they are bounded
        self._latest: list[Adjoint] = []
        self._training: Training | None = None
        self._memory = ReusedMemory()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out adjoints, which can be called once, and the memory that they are in."""
        return vars(self) | {"_latest": [], "_training": None, "_memory": ReusedMemory()}

    def step(
        self, dynamics: Dynamics, state: StudentState, episode: Episode, action: torch.Tensor
    ) -> tuple[StudentState, Outcome]:
        """Takes a student's step, in the place of `dynamics.step` and equal to it to the bit."""
        training = self._training
        if training is None or training.dynamics is not dynamics or training.episode is not episode:
            training = self._training = Training(dynamics, episode)
        if self.used is None:
            self.used = self._can_be_kept(training, state, action)
        if not self.used:
            return dynamics.step(state, episode, action)
        self._taken += 1
        meter = MemoryMeter() if self._bounded and self._taken % WEIGHED_EVERY == 0 else None
        try:
            after, adjoint, outcome = _linearized(training, state, action, self._memory, meter)
        except RuntimeError:  # it has an operation that the first step had not
            self.used = False
        else:
            self.used = meter is None or self._needed_bytes(meter, training, state) <= self._most_bytes
        if not self.used:
            self._latest.clear()
            return dynamics.step(state, episode, action)
        self._latest.append(adjoint)
        return after, outcome

    def taken(self) -> list[Adjoint]:
        """Returns the adjoints of the steps since the last call, in their order."""
        latest, self._latest = self._latest, []
        return latest

    def _can_be_kept(self, training: Training, state: StudentState, action: torch.Tensor) -> bool:
        try:
            if self._bounded and not self._fit(training, state, action):
                return False
            after, adjoint, outcome = training.linearized(state, action, self._memory)
            plain = training.dynamics.step(state, training.episode, action)
            if not all(map(_same, tensors_of((after, outcome)), tensors_of(plain))):
                return False
            cotangent = training.value(state)[1]
            computed = adjoint(cotangent)
        except (RuntimeError, ValueError):
            # An operation has no second derivative, or J none: the episode's end says so.
            return False
        with double_backward_kernels():
            wanted = training.pullback(state, action, 0, cotangent)
        return all(map(_close, tensors_of(computed), tensors_of(wanted)))

    def _fit(self, training: Training, state: StudentState, action: torch.Tensor) -> bool:
        """Whether the graphs of all steps fit into memory; of students one after the other, the first one tells."""
        singles = training.singles(state)
        one, student = singles[0] if singles else (training, state)
        meter, self._most_bytes = MemoryMeter(), spare_memory(tensors_of(state))
        _linearized(one, student, action[0] if singles else action, self._memory, meter)
        return (len(singles) or 1) * self._needed_bytes(meter, one, student) <= self._most_bytes

    def _needed_bytes(self, meter: MemoryMeter, training: Training, state: StudentState) -> int:
        """About what the graphs of all steps take, if they are like the one that was weighed."""
        lost = lost_between_graphs(meter.graph_bytes, bytes_of(training.needed(state)))
        return self._steps * (meter.graph_bytes + lost)


def _linearized(
    training: Training, state: StudentState, action: torch.Tensor, memory: ReusedMemory, meter: MemoryMeter | None
) -> tuple[StudentState, Adjoint, Outcome]:
    """A step with its graph, which the meter weighs, if there is one."""

    def linearized() -> tuple[StudentState, Adjoint, Outcome]:
        return training.linearized(state, action, memory)

    return linearized() if meter is None else meter.weighed(linearized)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    one, other = one.to_dense(), other.to_dense()
    tolerance = 1e-9 if one.dtype == torch.float64 else 1e-3
    return bool((one - other).norm() <= tolerance * other.norm())
