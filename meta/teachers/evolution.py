"""Evolution strategies as a teacher: the zeroth-order reference between gradient and RL teachers.

The gradient of the expected return of perturbed teachers (Salimans et al. 2017, "Evolution Strategies as a Scalable
Alternative to Reinforcement Learning", with antithetic pairs), for parameters θ of dimension d and returns R:

    ∇_θ E[R(θ + σε)] ≈ 1/m Σ_i (R(θ + σε_i) − R(θ − σε_i)) / 2σ · ε_i        ε_i ~ N(0, I)

It sees what an RL teacher sees of an episode, its return, and explores with whole teachers where RL explores with
single actions. Both of a pair teach the same student: the same split, initial weights and minibatches.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from meta.teachers.episodic import LearningTeacher, TaughtStudent
from teachenv import checks

_SEEDS = 2**31 - 1


class EvolutionStrategies(LearningTeacher):
    """A teacher that follows antithetic estimates of the gradient of its students' return (Salimans et al. 2017).

    Logged: `train/gradient_norm` (before clipping), `train/learning_rate`, `train/objective` (mean final J of the
    perturbed teachers' students).

    Args:
        policy: `"AttentionPolicy"`, `"MlpPolicy"`, or a policy class.
        env: a `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of them; each of its parallel students has
            a perturbation of its own.
        learning_rate: the step size of Adam on θ.
        sigma: σ, the standard deviation of the perturbations.
        students_per_update: the number of trainings for each update, rounded up to a multiple of twice those that the
            environment has in parallel; None: twice as many as it has.
        max_grad_norm: the norm to which the estimate is clipped; None: not clipped.
        **kwargs: further options of `EpisodicTeacher`.

    Raises:
        ValueError: a σ or norm that is not positive.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-2,
        sigma: float = 0.05,
        students_per_update: int | None = None,
        max_grad_norm: float | None = 1.0,
        **kwargs: Any,
    ) -> None:
        """Checks the options and builds the policy."""
        self.sigma = checks.number("sigma", sigma, above=0)
        self._perturbed: torch.Tensor | None = None
        self._twin: torch.nn.Module | None = None
        self._noise: list[torch.Tensor] = []
        super().__init__(policy, env, learning_rate, students_per_update, max_grad_norm, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_perturbed", "_twin", "_noise"]

    def _collect(self, callback: BaseCallback) -> list[TaughtStudent] | None:
        """Teaches the students of all pairs: those of θ + σε, then those of θ − σε, batch by batch."""
        assert self.env is not None
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        count = self.students_per_update or 2 * self.env.num_envs
        students: list[TaughtStudent] = []
        self._noise = []
        center = torch.nn.utils.parameters_to_vector(self.policy.parameters()).detach()
        # Called with other parameters, which an interruption can leave in it.
        self._twin = copy.deepcopy(self.policy)
        try:
            while len(students) < count:
                # From torch's global generator, as SB3's algorithms draw; a mark holds its state.
                noise = torch.randn(self.env.num_envs, len(center), dtype=center.dtype)
                seed = int(torch.randint(_SEEDS, ()))
                for sign in (1, -1):
                    self._perturbed = center + sign * self.sigma * noise.to(center.device)
                    self.env.seed(seed)
                    self._last_obs = np.asarray(self.env.reset())
                    batch = self._collect_batch(self.env, callback)
                    if batch is None:
                        return None
                    students += batch
                self._noise.append(noise)
        finally:
            self._perturbed = self._twin = None
        callback.on_rollout_end()
        return students

    def _act(self, observations: np.ndarray) -> np.ndarray:
        assert self._perturbed is not None
        twin = self._twin
        assert twin is not None
        tensor = torch.as_tensor(observations, device=self.device)
        parameters, begin = {}, 0
        for name, p in self.policy.named_parameters():
            parameters[name] = self._perturbed[:, begin : begin + p.numel()].view(-1, *p.shape)
            begin += p.numel()

        def act(weights: dict[str, torch.Tensor], observation: torch.Tensor) -> torch.Tensor:
            action: torch.Tensor = torch.func.functional_call(twin, weights, (observation.unsqueeze(0),))
            return action.squeeze(0)

        with torch.no_grad():
            actions: np.ndarray = torch.func.vmap(act)(parameters, tensor).cpu().numpy()
        return actions

    def _improve(self, students: list[TaughtStudent], /) -> None:
        assert self.env is not None
        returns = torch.tensor([s.info["episode"]["r"] for s in students]).view(-1, 2, self.env.num_envs)
        noise = torch.stack(self._noise)
        slopes = (returns[:, 0] - returns[:, 1]) / (2 * self.sigma)
        gradient = (slopes.unsqueeze(-1) * noise).mean((0, 1)).to(self.device)
        begin = 0
        for p in self.policy.parameters():
            # The optimiser minimises.
            p.grad = -gradient[begin : begin + p.numel()].view_as(p).to(p.dtype)
            begin += p.numel()
        self._follow(self.max_grad_norm)
        self.logger.record("train/objective", float(np.mean([s.info["objective"] for s in students])))
