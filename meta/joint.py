"""Joint distillation as a process: each step is a step of the teacher network and then one of the student's.

Both halves are processes that move part of the state (`meta.descent.Training`); a step's adjoint is theirs, the later
one's first.
"""

from __future__ import annotations

from typing import Any

import torch

from meta.descent import Training
from meta.gradient_process import Cotangent, without_slots
from meta.held import Shelf
from meta.process import Adjoint, Process
from teachenv.batched import apart
from teachenv.dynamics import Dynamics
from teachenv.joint import BatchedJointDynamics, JointDynamics
from teachenv.state import Episode, StudentState


class JointTraining(Process):
    """The training of an environment's pair of networks, or of a batch of them, as a process over `StudentState`.

    Args:
        dynamics: of the environment.
        episode: which training.
    """

    hessian_vector_products = 2
    gradient_evaluations = 2

    def __init__(self, dynamics: JointDynamics, episode: Episode) -> None:
        """Makes a process of each half."""
        self.dynamics, self.episode = dynamics, episode
        self._halves = [Training(half, episode) for half in dynamics.halves]
        self._last = self._halves[-1]
        self.replays_exactly = dynamics.known_pure

    def batch(self, state: StudentState) -> tuple[int, ...]:
        """(B,) for a batch of pairs."""
        return self._last.batch(state)

    def singles(self, state: StudentState) -> list[tuple[Process, Any]]:
        """The trainings of pairs that are taken one after the other anyway."""
        if not isinstance(self.dynamics, BatchedJointDynamics) or self.dynamics.path == "vmap":
            return []
        return [(training_of(self.dynamics.single, episode), own) for own, episode in apart(state, self.episode)]

    def step(self, state: StudentState, action: torch.Tensor, t: int, shelf: Shelf | None = None) -> StudentState:
        """Both halves."""
        for half in self._halves:
            state = half.step(state, action, t)
        return state

    def value(self, state: StudentState) -> tuple[torch.Tensor, Cotangent]:
        """(J on dev, ∂J/∂x_T)."""
        return self._last.value(state)

    def linearize(self, state: StudentState, action: torch.Tensor, t: int) -> tuple[StudentState, Adjoint]:
        """(next state, adjoint)."""
        adjoints = []
        for half in self._halves:
            state, adjoint = half.linearize(state, action, t)
            adjoints.append(adjoint)

        def adjoint_of_both(cotangent: Cotangent) -> tuple[Cotangent, torch.Tensor]:
            of_action = torch.zeros_like(action)
            for adjoint in reversed(adjoints):
                cotangent, part = adjoint(cotangent)
                of_action = of_action + part
            return cotangent, of_action

        return state, adjoint_of_both

    def pull_back_by_differences(
        self, state: StudentState, action: torch.Tensor, t: int, cotangent: Cotangent
    ) -> tuple[Cotangent, torch.Tensor]:
        """The adjoint, each half's by central differences."""
        states = [state]
        for half in self._halves[:-1]:
            states.append(half.step(states[-1], action, t))
        of_action = torch.zeros_like(action)
        for half, at in zip(reversed(self._halves), reversed(states), strict=True):
            cotangent, part = half.pull_back_by_differences(at, action, t, cotangent)
            of_action = of_action + part
        return cotangent, of_action

    def push_forward(
        self, state: StudentState, action: torch.Tensor, t: int, tangent: Cotangent, of_action: torch.Tensor
    ) -> Cotangent:
        """Both halves, forward over reverse."""
        for half in self._halves:
            tangent = half.push_forward(state, action, t, tangent, of_action)
            state = half.step(state, action, t)
        return tangent


def needed_of(dynamics: Dynamics, state: StudentState) -> StudentState:
    """What has to be kept of a state to differentiate the step from it: of a pair all, since its halves are retaken."""
    return state if isinstance(dynamics, JointDynamics) else without_slots(state, dynamics.optimizer)


def training_of(dynamics: Dynamics, episode: Episode) -> Process:
    """The process that an environment's episode is."""
    return JointTraining(dynamics, episode) if isinstance(dynamics, JointDynamics) else Training(dynamics, episode)
