"""A training run whose end is measured by many tests, differentiated for all of them in one walk.

The student, its states and the graphs of its steps are one student's, whatever the memory policy; only cotangents have
a leading dimension of tests, and each step's double backward is taken for all of them at once, by vmap over the
cotangents. Against a batch of as many students, all the same one, that saves the forward pass and the first backward
pass of each, and their memory.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch

from meta.hypergradients.cotangent import Cotangent
from meta.hypergradients.memory import MemoryMeter
from meta.hypergradients.memory_policies import MEMORY_POLICIES, MemoryOption
from meta.hypergradients.process import double_backward_kernels
from meta.hypergradients.steps import Steps
from meta.hypergradients.training import Training
from teachenv.dynamics import Dynamics
from teachenv.mapping import Loop, Mapping, One, OneElementary, Vmap
from teachenv.optimizers import Tensors
from teachenv.state import Episode, Gradient, Pullback, StudentState
from teachenv.student_update import StudentUpdate
from teachenv.tasks.splits import Split
from teachenv.trees import at, bytes_of, mapped, tensors_of
from teachenv.update import Adjoint as AdjointOfGradient

_BYTES_TOGETHER = 2**28
"""How much the cotangents of the tests that are differentiated together may take."""
_BYTES_OF_GRAPHS = 2**28
"""How much the graphs of all steps may take for `memory="auto"` to keep them."""
_TAKEN_AGAIN = 3
"""First steps of a training run that are taken again at its end."""


class MeasuredTraining(Training):
    """A training run of weighted samples, measured at its end by tests.

    Args:
        dynamics: the training of one student, whose measure is the tests' objective.
        episode: which training of it.
        tests: inputs and targets of the tests.
        each: how the objective of each test is taken, so that there are as many objectives as tests; None: there is one
            of all tests together.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        episode: Episode,
        tests: Split,
        each: Mapping | None,
    ) -> None:
        inputs, targets = tests if each is None else (part[:, None] for part in tests)
        measured = dynamics if each is None else dynamics.mapped(each)
        super().__init__(dynamics, episode, lambda state: measured.objective_on(state, inputs, targets))
        self._count = None if each is None else len(inputs)

    def value(self, state: StudentState) -> tuple[torch.Tensor, Cotangent]:
        """Returns (J of each test, (tests,); its gradient with respect to the final state), or those of all tests."""
        if self._count is None:
            return super().value(state)
        copies: StudentState = mapped(lambda tensor: tensor.expand(self._count, *tensor.shape), state)
        return super().value(replace(copies, step=np.full(self._count, state.step)))


def usual_memory(process: MeasuredTraining, begin: StudentState, action: torch.Tensor, steps: int) -> MemoryOption:
    """What `memory="auto"` stands for: `"all"` where the graphs of all steps are small, else `"states"`."""
    with double_backward_kernels():
        sizes = Steps(process, [action], steps, by_differences=False).sizes(begin, 0)
    return "all" if MEMORY_POLICIES["all"].predicted_bytes(sizes) <= _BYTES_OF_GRAPHS else "states"


@dataclass(frozen=True)
class Walk:
    """How tests are taken together.

    Attributes:
        dynamics: the training, in the form that is differentiated for many tests at once.
        each: how the objective of each of them is taken; None: there is one test, or one objective of all.
        count: how many tests a walk takes.
    """

    dynamics: Dynamics
    each: Mapping | None
    count: int


def walk_of(dynamics: Dynamics, episode: Episode, action: torch.Tensor, tests: Split) -> Walk:
    """Tries on the first step and two tests how they can be taken at once, which must give what each gives alone.

    Args:
        dynamics: as of `MeasuredTraining`.
        episode: which training of it.
        action: the neutral action.
        tests: all tests; at least two.

    Returns:
        A walk of as many tests as memory allows, or of one.
    """
    two: Split = (tests[0][:2], tests[1][:2])
    state = dynamics.init(episode)
    by_loop = MeasuredTraining(dynamics, episode, two, Loop())
    cotangents = by_loop.value(state)[1]
    with double_backward_kernels():
        one_by_one = [_dense(by_loop.pullback(state, action, 0, at(cotangents, i))) for i in range(2)]
    of_all = _agree(lambda: MeasuredTraining(dynamics, episode, two, Vmap()).value(state)[1], cotangents)
    each: Mapping = Vmap() if of_all else Loop()
    for form in (One(), OneElementary()):
        process, meter = MeasuredTraining(dynamics.mapped(form), episode, two, Loop()), MemoryMeter()

        def at_once(process: MeasuredTraining = process, meter: MemoryMeter = meter) -> list[object]:
            with double_backward_kernels():
                _, adjoint = meter.weighed(lambda: process.linearize(state, action, 0))
                both = _dense(adjoint(cotangents))
            return [at(both, i) for i in range(2)]

        if _agree(at_once, one_by_one):
            bytes_of_each = 4 * bytes_of(state) + len(action) * action.element_size() + meter.graph_bytes
            return Walk(dynamics.mapped(form), each, max(1, _BYTES_TOGETHER // bytes_of_each))
    return Walk(dynamics, None, 1)


def _dense(before: tuple[Cotangent, torch.Tensor]) -> tuple[Cotangent, torch.Tensor]:
    return before[0], before[1].to_dense()


def _agree(computed: Callable[[], object], expected: object) -> bool:
    """Whether something can be computed, without a warning that vmap takes it one by one, and is as expected."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")
            result = computed()
    except Exception:  # whatever a user's network or objective raises under vmap
        return False
    pairs = zip(tensors_of(result), tensors_of(expected), strict=True)
    return all(_close(a, b) for a, b in pairs)


def _close(result: torch.Tensor, expected: torch.Tensor) -> bool:
    relative = 1e-5 if expected.dtype == torch.float64 else 1e-3
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(result, expected, rtol=relative, atol=relative * scale, equal_nan=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class WatchedDynamics(Dynamics):
    """A training run that refuses to be taken again with other losses: its derivative would be of no training at all.

    Attributes:
        losses: the loss of each step's minibatch as it was first taken, by step.
    """

    losses: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, dynamics: Dynamics) -> Dynamics:
        """The training, watched unless all that it computes is known to be pure."""
        if dynamics.known_pure:
            return dynamics
        return cls(**{each.name: getattr(dynamics, each.name) for each in fields(Dynamics)})

    def check(self, begin: StudentState, episode: Episode, action: torch.Tensor) -> None:
        """Takes the first steps again: a memory policy that keeps graphs takes each step once.

        Raises:
            RuntimeError: one of them has another loss than before.
        """
        state = begin
        for _ in range(min(_TAKEN_AGAIN, len(episode.batches))):
            state, _ = self.step(state, episode, action)

    def updates(self, episode: Episode) -> list[StudentUpdate]:
        """The student's updates, which compare their losses with those of the first time."""
        return [
            _WatchedUpdate(**{each.name: getattr(update, each.name) for each in fields(update)}, losses=self.losses)
            for update in super().updates(episode)
        ]


@dataclass(frozen=True, eq=False, kw_only=True)
class _WatchedUpdate(StudentUpdate):
    losses: dict[int, float]

    def gradient(
        self, state: StudentState, action: torch.Tensor, *, with_action: bool = False, of_all: bool = False
    ) -> Gradient:
        gradient = super().gradient(state, action, with_action=with_action, of_all=of_all)
        self._compare(state, gradient)
        return gradient

    def linearize(self, state: StudentState, action: torch.Tensor) -> tuple[Gradient, AdjointOfGradient]:
        gradient, adjoint = super().linearize(state, action)
        self._compare(state, gradient)
        return gradient, adjoint

    def pullback(
        self, state: StudentState, action: torch.Tensor, d_gradient: Tensors | None, d_statistics: Tensors
    ) -> Pullback:
        if d_gradient is None:
            return super().pullback(state, action, d_gradient, d_statistics)
        return self.linearize(state, action)[1](d_gradient, d_statistics)

    def _compare(self, state: StudentState, gradient: Gradient) -> None:
        loss = float(gradient.outcome.loss)
        first = self.losses.setdefault(int(state.step), loss)
        tolerance = 5e-2 if self.model.student.autocast else 1e-3
        if math.isfinite(first) and not abs(loss - first) <= tolerance * max(abs(first), abs(loss)) + 1e-6:
            raise RuntimeError(
                f"the training is not deterministic: step {int(state.step)} has the loss {first:.6g} and, taken again "
                f"from the same state, {loss:.6g}; let the module and the loss draw from torch's global generator "
                "alone, which is seeded for each step, and keep nothing from one call to the next"
            )
