"""DoReMi (Xie et al. 2023, arXiv:2305.10429): a mixture of domains by group distributionally robust optimisation.

A reference student is trained first; then a proxy student, while the mixture α moves to the domains on which the proxy
is behind the reference (the paper's algorithm 1)::

    λ_k = max(l_k − l_k of the reference, 0)
    α_k ← α_k exp(η λ_k),   divided by the sum over domains
    α   ← (1 − c) α + c / K

and the student learns from the loss that weighs domain k by α_k. The mean of α over the proxy's training is what is
learned: the mixture for the students to come.

It is worst-case: DoReMi asks of all domains that they are learned as well as the reference learned them, and reads no
dev set. It does not know of a target domain, and where one domain cannot be learned (corrupted text), nothing says so
but the reference's own loss there.

Departures from the paper: l_k is the mean loss over the domain's observed training samples and clipped at 0 as a whole,
where the paper clips each token's excess; the reference is that at the end of its training, averaged over the students
that are trained at a time, and the excess is measured once an action, not at every step; weights are those that the
action's box reaches (`teachenv.losses.DomainWeights`); and there are as many proxies as the budget pays for, over which
the mean is taken. As in the paper α begins uniform, and c is 1e-3.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from meta.teachers.episodic import EpisodicTeacher, TaughtStudent
from meta.teachers.policies import SameActionPolicy
from teachenv import checks
from teachenv.domain_observer import domain_losses
from teachenv.losses import DomainWeights
from teachenv.problem import Problem
from teachenv.problem_checks import check_loss_alone


class MixturePolicy(SameActionPolicy):
    """The same action always: that of the learned mixture, and the zero action before there is one."""

    def _build(self, states: int, actions: int) -> nn.Module:
        module = nn.Module()
        for name, size in (("action", actions), ("reference", actions), ("total", actions), ("count", 1)):
            module.register_buffer(name, torch.zeros(size, dtype=torch.float64))
        return module


class DoReMi(EpisodicTeacher):
    """DoReMi's mixture of domains as a teacher: the first update trains references, each further one proxies.

    Logged: `train/mixture_NAME` of each domain, and `train/excess`, the mean of λ over domains and actions.

    Args:
        policy: `"MixturePolicy"`.
        env: environments with `loss="domain-weights"`, as `EpisodicTeacher` takes them.
        step_size: η; 1 in the paper, whose proxies have thousands of updates of α where an episode has some ten.
        smoothing: c in [0, 1], the part of the uniform mixture.
        **kwargs: further options of `EpisodicTeacher`; `learning_rate` has no effect.

    Raises:
        ValueError: an option out of its range, or another loss.

    Example:
        >>> import gymnasium as gym, meta, teachenv
        >>> students = gym.make_vec("TeachLanguage-v0", num_envs=2, horizon=20, steps_per_action=5)
        >>> teacher = meta.DoReMi("MixturePolicy", students, seed=0).learn(16)  # one reference and one proxy each
        >>> {name: round(share, 2) for name, share in teacher.mixture.items()}.keys()
        dict_keys(['target', 'near', 'far', 'near-corrupted'])
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MixturePolicy": MixturePolicy}

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        step_size: float = 1.0,
        smoothing: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        """Checks the options and builds the policy."""
        self.step_size = checks.number("step_size", step_size, above=0)
        self.smoothing = checks.number("smoothing", smoothing, least=0, most=1)
        self._mixtures = np.zeros((0, 0))
        super().__init__(policy, env, **kwargs)
        if self.env is not None:
            self._check_fits()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_mixtures"]

    @property
    def mixture(self) -> dict[str, float]:
        """The learned share of each domain, by its name; those of the pool before any proxy was trained."""
        names, shares = self._domains
        total, count = (self._state[name].numpy() for name in ("total", "count"))
        return dict(zip(names, (total / count if count else np.asarray(shares)).tolist(), strict=True))

    @property
    def _state(self) -> dict[str, torch.Tensor]:
        return dict(self.actor_network.named_buffers())

    @property
    def _problem(self) -> Problem:
        assert self.env is not None
        problem: Problem = self.env.get_attr("problem")[0]
        return problem

    def _check_fits(self) -> None:
        problem = self._problem
        check_loss_alone(problem, type(self).__name__)
        if not isinstance(problem.dynamics.loss, DomainWeights):
            raise ValueError(
                f"{type(self).__name__} weighs the domains of a task, found loss={problem.settings.loss!r}; make the "
                'environment with loss="domain-weights"'
            )

    @property
    def _domains(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The names of the domains, and their shares in the pool."""
        task = self._problem.task
        assert task.domains is not None
        return task.domains.names, task.domains.shares(len(task.pool[0]))

    def _losses(self, observations: np.ndarray) -> np.ndarray:
        """The mean loss on each domain's training samples, (…, K), of observations (…, fields)."""
        assert self.env is not None
        fields = self.env.get_attr("OBSERVATION_FIELDS")[0]
        return domain_losses(observations, fields, self._domains[0], self._problem.task.num_outputs)

    def _moved(self, mixtures: np.ndarray, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the mixtures after an observation, the excess losses λ), (…, K) each."""
        excess = np.maximum(self._losses(observations) - self._state["reference"].numpy(), 0.0)
        moved = mixtures * np.exp(self.step_size * excess)
        moved = (1 - self.smoothing) * moved / moved.sum(-1, keepdims=True) + self.smoothing / moved.shape[-1]
        return moved, excess

    def _collect_batch(self, env: VecEnv, callback: BaseCallback) -> list[TaughtStudent] | None:
        domains = len(self._domains[0])
        self._mixtures = np.full((env.num_envs, domains), 1.0 / domains)
        return super()._collect_batch(env, callback)

    def _act(self, observations: np.ndarray) -> np.ndarray:
        space = self.action_space
        if not self._n_updates:  # references
            return np.zeros((len(observations), *(space.shape or ())), dtype=space.dtype)
        loss = self._problem.dynamics.loss
        assert isinstance(loss, DomainWeights)
        self._mixtures, _ = self._moved(self._mixtures, observations)
        return loss.action_of(self._mixtures).astype(space.dtype)

    def _improve(self, students: list[TaughtStudent], /) -> None:
        state = self._state
        if not self._n_updates:
            last = np.stack([student.info["terminal_observation"] for student in students])
            state["reference"].copy_(torch.from_numpy(self._losses(last).mean(0)))
            return
        excesses = []
        for student in students:
            mixture = np.full(len(state["total"]), 1.0 / len(state["total"]))
            for observation in student.observations:
                mixture, excess = self._moved(mixture, observation)
                state["total"] += torch.from_numpy(mixture)
                state["count"] += 1
                excesses.append(excess)
        loss = self._problem.dynamics.loss
        assert isinstance(loss, DomainWeights)
        action = loss.action_of((state["total"] / state["count"]).numpy())
        state["action"].copy_(torch.from_numpy(action))
        for name, share in self.mixture.items():
            self.logger.record(f"train/mixture_{name}", share)
        self.logger.record("train/excess", float(np.mean(excesses)))
