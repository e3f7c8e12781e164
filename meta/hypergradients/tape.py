"""What is kept of an environment's last steps, and how it is differentiated."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from meta.hypergradients.checkpoints import Checkpoints
from meta.hypergradients.hypergradient import check_kept, check_last, check_method, hypergradient
from meta.hypergradients.kept_adjoints import KeptAdjoints
from meta.hypergradients.memory_policies import (
    MEMORY_POLICIES,
    STATES,
    StateType,
    check_state_dtype,
    memory_policy,
    policies_of,
)
from meta.hypergradients.process import Adjoint
from meta.hypergradients.steps import Rounded, Steps
from meta.hypergradients.sweep import backwards
from meta.hypergradients.training import Training, needed_of
from teachenv.dynamics import Dynamics
from teachenv.errors import unknown_name
from teachenv.interface import Interface
from teachenv.problem import Problem
from teachenv.state import Episode, StudentState, take

TapeMemory = Literal["auto", "all", "states", "sqrt"] | int
"""What is kept while an episode goes on: adjoints of all steps, or students: all, about √T of them, or so many."""


@dataclass(frozen=True)
class _Kept:
    """What is kept of an environment step.

    Attributes:
        student: the students before it, perhaps without what is not read; None where they can be computed again.
        action: their actions, (n,) or (B, n).
        fresh: whether they did not follow from the step before.
        slope: the derivative of these actions with respect to those that the teacher took, of their shape; None: 1.
        adjoints: of its student steps; none where they are not kept.
    """

    student: StudentState | Rounded | None
    action: torch.Tensor
    fresh: bool
    slope: np.ndarray | None
    adjoints: list[Adjoint]


class Tape:
    """What is kept of an environment's last steps, and how it is differentiated; of one student or of a batch.

    Args:
        problem: the environment's problem: settings, task, student and loss.
        method: how gradients are computed, as in `ActionGradient`.
        memory: what is kept, as in `ActionGradient`.
        last: how many student steps at the end are differentiated; None: all of them.
        state_dtype: as in `ActionGradient`.
    """

    def __init__(
        self, problem: Problem, method: str, memory: TapeMemory, last: int | None, state_dtype: StateType | None
    ) -> None:
        self.problem, self.method, self.memory = problem, check_method(method), memory
        check_kept(self.method, state_dtype=state_dtype)
        self.state_dtype, self._dtype = state_dtype, check_state_dtype(state_dtype)
        spacing = _spacing(memory)
        if state_dtype is not None:
            policies_of(memory, None, rounded=True)  # refuses what keeps none
        check_last(self.method, last, problem.settings.horizon)
        self.per_action, self.last = problem.settings.steps_per_action, last
        length = problem.actions if last is None else math.ceil(last / self.per_action)
        # The beginning of a truncated stretch is not known before its end.
        self.every = 1 if last is not None else spacing(length)
        # Where there are adjoints, students are needed only if not all of a batch are differentiated.
        self._every_with_adjoints = 1 if last is not None else _spacing("sqrt")(length)
        self.window: deque[_Kept] = deque(maxlen=length)
        with_graphs = memory in ("auto", "all") and self.method in ("rmd", "truncated") and state_dtype is None
        self.kept = KeptAdjoints(length * self.per_action, memory == "auto") if with_graphs else None
        self.expected: StudentState | None = None
        self.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out adjoints, which can be called once: a copy takes those steps again from the students it has."""
        return vars(self) | {"window": deque((replace(k, adjoints=[]) for k in self.window), self.window.maxlen)}

    def of_last(self, last: int | None) -> Tape:
        """Makes an empty tape that differentiates the last steps only, or all; its method changes accordingly."""
        method = self.method
        if method in ("rmd", "truncated"):
            method = "rmd" if last is None else "truncated"
        if (method, last) == (self.method, self.last):
            return self
        return Tape(self.problem, method, self.memory, last, self.state_dtype)

    def clear(self) -> None:
        """Empties the tape: no step of the episode under way is known."""
        self.window.clear()
        self.added, self._began, self.fresh = 0, 0, True
        if self.kept is not None:
            self.kept.taken()

    def watching(self, interface: Interface) -> AbstractContextManager[None]:
        """Inside the block an environment's student steps are taken by the tape, if it keeps their adjoints."""
        if self.kept is None or self.kept.used is False:
            return nullcontext()
        if self._out_of_step() or (self.fresh and self.window):  # no adjoint of such students is used
            return nullcontext()
        self.kept.taken()  # of a step that was interrupted
        return interface.stepping(self.kept.step)

    def add(
        self,
        before: StudentState,
        action: torch.Tensor,
        after: StudentState,
        slope: np.ndarray | None = None,
        began: bool = False,
    ) -> None:
        """Keeps what is needed of one environment step.

        Args:
            before: the students before the step.
            action: the students' actions, as they reached the environment, (n,) or (B, n).
            after: the students after the step.
            slope: the derivative of these actions with respect to those that the teacher took, of their shape; None: 1.
            began: True if an episode of one of them began anew at the end of the step: the next state must be kept.
        """
        if self.window:  # the last student may be needed whole, to compare a replay
            self.window[-1] = replace(self.window[-1], student=self._stored(self.window[-1].student))
        adjoints = [] if self.kept is None else self.kept.taken()
        if not adjoints and self.window and self.window[-1].adjoints:
            self._forget_adjoints()
        if self.fresh:
            self._began = self.added
        every = self._every_with_adjoints if adjoints else self.every
        student = before if self.fresh or self.added % every == 0 else None
        self.window.append(_Kept(student, action, self.fresh, slope, adjoints))
        self.added, self.fresh, self.expected = self.added + 1, began, after

    def restart(self, before: StudentState, after: StudentState) -> None:
        """Goes on where some students were put anew between two steps.

        Args:
            before: all students, as they were.
            after: all students, as they are.
        """
        if before is self.expected:
            self.fresh, self.expected = True, after

    def gradient(
        self, dynamics: Dynamics, episode: Episode, final: StudentState, rows: list[int] | None = None
    ) -> torch.Tensor:
        """Returns the derivative of the final objective with respect to the actions on the tape.

        Args:
            dynamics: the dynamics of the environment.
            episode: the episodes of the students.
            final: the students at the end, which the last action led to.
            rows: the students of a batch that are differentiated; None: all of them.

        Returns:
            (actions on the tape, n) for one student, (actions on the tape, B, n) for a batch.
        """
        actions = [kept.action for kept in self.window]
        gradient = self._from_adjoints(dynamics, episode, final, actions) if rows is None else None
        if gradient is None:
            gradient = self._from_states(dynamics, episode, final, actions, rows)
        slopes = [kept.slope for kept in self.window if kept.slope is not None]
        if not slopes:
            return gradient
        slope_of_actions = torch.as_tensor(np.stack(slopes), dtype=gradient.dtype, device=gradient.device)
        return gradient * (slope_of_actions if rows is None else slope_of_actions[:, rows])

    def _from_adjoints(
        self, dynamics: Dynamics, episode: Episode, final: StudentState, actions: list[torch.Tensor]
    ) -> torch.Tensor | None:
        """Returns the derivative from kept adjoints; None where some are missing, or a step does not follow another."""
        # A wrapper that looks ahead takes steps that are none of the episode's.
        if self._out_of_step() or any(len(kept.adjoints) != self.per_action for kept in self.window):
            return None
        adjoints = dict(enumerate(adjoint for kept in self.window for adjoint in kept.adjoints))
        self._forget_adjoints()  # each can be called once
        steps = Steps(Training(dynamics, episode), actions, self.per_action, by_differences=False)
        begin = 0 if self.last is None else steps.total - min(self.last, steps.total)
        chosen = {t: adjoint for t, adjoint in adjoints.items() if t >= begin} | {steps.total: final}
        try:
            return backwards(steps, chosen, begin, MEMORY_POLICIES["all"], None).actions
        except RuntimeError:  # a step has an operation without a second derivative, which the first one had not
            assert self.kept is not None
            self.kept.used = False
            return None

    def _from_states(
        self,
        dynamics: Dynamics,
        episode: Episode,
        final: StudentState,
        actions: list[torch.Tensor],
        rows: list[int] | None,
    ) -> torch.Tensor:
        """Returns the derivative from kept students."""
        states = {i * self.per_action: kept.student for i, kept in enumerate(self.window) if kept.student is not None}
        states[len(self.window) * self.per_action] = final
        if rows is not None:
            states = {t: take(state, rows) for t, state in states.items()}
            actions, episode = [action[rows] for action in actions], take(episode, rows)
        steps = len(actions) * self.per_action
        return hypergradient(
            Training(dynamics, episode),
            states[0],
            actions,
            method=self.method,
            last=None if self.last is None else min(self.last, steps),
            steps_per_action=self.per_action,
            states=states,
        ).actions

    def _out_of_step(self) -> bool:
        """Whether a student began anew after the first step that is kept."""
        return self._began > self.added - len(self.window)

    def _forget_adjoints(self) -> None:
        self.window = deque((replace(kept, adjoints=[]) for kept in self.window), self.window.maxlen)

    def _stored(self, student: StudentState | Rounded | None) -> StudentState | Rounded | None:
        if not isinstance(student, StudentState):
            return student
        with_adjoints = self.kept is not None and self.kept.used
        stepped_again = self.method == "forward" or with_adjoints or not self.every == self.per_action == 1
        needed = student if stepped_again else needed_of(self.problem.dynamics, student)
        return needed if self._dtype is None else Rounded.of(needed, self._dtype)


def _spacing(memory: TapeMemory) -> Callable[[int], int]:
    """Returns a function of a number of steps to k: every k-th student is kept.

    Raises:
        ValueError: the policy is none that a wrapper can follow.
    """
    policy = STATES if memory in ("auto", "all") else memory_policy(memory)
    if not isinstance(policy, Checkpoints):
        known = ["auto", "all", *(str(name) for name, other in MEMORY_POLICIES.items() if other.spacing(1) is not None)]
        raise unknown_name("memory policy of an action gradient", memory, known)
    return policy.spacing
