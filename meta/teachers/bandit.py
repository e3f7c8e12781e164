"""A bandit as a teacher: which one action, held for a whole training run, makes the best students?

UCB1 (Auer, Cesa-Bianchi and Fischer 2002) over some constant actions. Arm k has been tried n_k times out of n,
with a mean return of R_k; the next student has the arm of the largest

    R_k + c √(2 ln n / n_k)

and untried arms come first. The bounds of the paper are for returns in [0, 1] and c = 1; returns here differ by a few
hundredths, which c scales it to. It is what a search over constant settings does with the same budget of student steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from meta.teachers.episodic import EpisodicTeacher, TaughtStudent
from meta.teachers.policies import TeacherPolicy
from teachenv import checks


def _spread(count: int, coordinates: int) -> np.ndarray:
    """Actions that lie evenly in the box, (count, coordinates)."""
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (coordinates + 1))
    steps = root ** -np.arange(1.0, coordinates + 1)
    actions: np.ndarray = 2.0 * ((0.5 + np.arange(count)[:, None] * steps) % 1.0) - 1.0
    return actions


class ArmsPolicy(TeacherPolicy):
    """Takes the arm of the highest mean return so far, in every state; of equal ones the first.

    Option `arms` (16): how many actions there are. The first is the zero action, and they lie evenly in the box: arm i
    is 2 (½ + i α mod 1) − 1 with α_k = φ^{-k}, φ the root of φ^{n+1} = φ + 1 for n coordinates (of one coordinate the
    golden ratio).

    Attributes:
        arms: the actions, (arms, n).
    """

    defaults: ClassVar[Mapping[str, Any]] = {"arms": 16}
    arms: np.ndarray

    def _build(self, states: int, actions: int) -> nn.Module:
        count = checks.integer("arms", self._network["arms"], least=1)
        self.arms = _spread(count, actions)
        module = nn.Module()
        module.register_buffer("counts", torch.zeros(count, dtype=torch.float64))
        module.register_buffer("totals", torch.zeros(count, dtype=torch.float64))
        return module

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the best arm's action for each observation, (batch, n)."""
        counts, totals = self.tried
        best = int(torch.where(counts > 0, totals / counts.clamp(min=1), -math.inf).argmax())
        return torch.from_numpy(self.arms[best]).to(observation.device).expand(len(observation), -1)

    @property
    def tried(self) -> tuple[torch.Tensor, torch.Tensor]:
        """How often each arm was tried, and the sum of its returns, (arms,) each."""
        actor: Any = self.actor
        return actor.counts, actor.totals


class Bandit(EpisodicTeacher):
    """UCB1 over some actions, each held for whole training runs (Auer et al. 2002).

    Logged: `train/best_return` (the mean of the best arm so far), `train/untried` (arms without a student).

    Args:
        policy: `"ArmsPolicy"`; its option `arms` says how many actions are tried.
        env: a `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of them; each of its parallel students has
            an arm of its own.
        exploration: c, in units of the return; 0: always the best so far, once each arm was tried.
        **kwargs: further options of `EpisodicTeacher`; `learning_rate` has no effect.

    Raises:
        ValueError: an exploration below 0.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"ArmsPolicy": ArmsPolicy}

    def __init__(self, policy: str | type[BasePolicy], env: Any, exploration: float = 0.05, **kwargs: Any) -> None:
        """Checks the options and builds the policy."""
        self.exploration = checks.number("exploration", exploration, least=0)
        self._drawn: list[np.ndarray] = []
        super().__init__(policy, env, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_drawn"]

    def _collect(self, callback: BaseCallback) -> list[TaughtStudent] | None:
        self._drawn = []
        return super()._collect(callback)

    def _collect_batch(self, env: VecEnv, callback: BaseCallback) -> list[TaughtStudent] | None:
        self._drawn.append(self._choose(env.num_envs))
        return super()._collect_batch(env, callback)

    def _choose(self, students: int) -> np.ndarray:
        """Chooses an arm for each of some students; those that are being tried count as tried, at the arm's mean."""
        counts, totals = (tensor.cpu().numpy() for tensor in self._arms.tried)
        means = totals / np.maximum(counts, 1)
        counts = counts + sum(np.bincount(drawn, minlength=len(counts)) for drawn in self._drawn)
        chosen = np.empty(students, dtype=int)
        for i in range(students):
            bonus = self.exploration * np.sqrt(2 * math.log(max(counts.sum(), 1)) / np.maximum(counts, 1))
            chosen[i] = np.where(counts > 0, means + bonus, np.inf).argmax()
            counts[chosen[i]] += 1
        return chosen

    @property
    def _arms(self) -> ArmsPolicy:
        assert isinstance(self.policy, ArmsPolicy)
        return self.policy

    def _act(self, observations: np.ndarray) -> np.ndarray:
        space = self.action_space
        actions: np.ndarray = self._arms.arms[self._drawn[-1]].astype(space.dtype)
        return actions

    def _improve(self, students: list[TaughtStudent], /) -> None:
        counts, totals = self._arms.tried
        for arm, student in zip(np.concatenate(self._drawn).tolist(), students, strict=True):
            counts[arm] += 1
            totals[arm] += student.total
        tried = counts > 0
        self.logger.record("train/best_return", float((totals[tried] / counts[tried]).max()))
        self.logger.record("train/untried", int((~tried).sum()))
