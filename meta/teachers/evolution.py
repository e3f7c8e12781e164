"""Evolution strategies as a teacher: the zeroth-order reference between gradient and RL teachers.

The gradient of the expected return of perturbed teachers (Salimans et al. 2017, "Evolution Strategies as a Scalable
Alternative to Reinforcement Learning", with antithetic pairs), for parameters θ of dimension d and returns R:

    ∇_θ E[R(θ + σε)] ≈ 1/m Σ_i (R(θ + σε_i) − R(θ − σε_i)) / 2σ · ε_i        ε_i ~ N(0, I)

It sees what an RL teacher sees of an episode, its return, and explores with whole teachers where RL explores with
single actions. Both of a pair teach the same student: the same split, initial weights and minibatches.

With `window` it is persistent evolution strategies (PES; Vicol, Metz and Sohl-Dickstein 2021, "Unbiased Gradient
Estimation in Unrolled Computation Graphs with Persistent Evolution Strategies", arXiv 2112.13835, eq. 11): each window
w of a training run has noise of its own, and what is gained in a window is credited to all noise until then,

    ∇_θ E[R] ≈ 1/m Σ_i Σ_w (r_w(θ + σε_iw) − r_w(θ − σε_iw)) / 2σ · Σ_{v ≤ w} ε_iv,

which has less variance than one noise for the whole training run where windows are nearly independent, and more where
they are not. The paper updates θ after each window; here a training run is taught from beginning to end by one θ.
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
        students_per_update: the number of training runs for each update, rounded up to a multiple of twice those that
            the environment has in parallel; None: twice as many as it has.
        max_grad_norm: the norm to which the estimate is clipped; None: not clipped.
        window: after how many actions of a training new noise is drawn (PES); None: never.
        **kwargs: further options of `EpisodicTeacher`.

    Raises:
        ValueError: a σ, norm or window that is not positive.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-2,
        sigma: float = 0.05,
        students_per_update: int | None = None,
        max_grad_norm: float | None = 1.0,
        *,
        window: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Checks the options and builds the policy."""
        self.sigma = checks.number("sigma", sigma, above=0)
        self.window = None if window is None else checks.integer("window", window, least=1)
        self._twin: torch.nn.Module | None = None
        self._center = torch.zeros(0)
        self._sign, self._actions_taken = 1, 0
        self._noise: list[list[torch.Tensor]] = []  # of the windows of each batch
        super().__init__(policy, env, learning_rate, students_per_update, max_grad_norm, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_center", "_twin", "_noise"]

    def _collect(self, callback: BaseCallback) -> list[TaughtStudent] | None:
        """Teaches the students of all pairs: those of θ + σε, then those of θ − σε, batch by batch."""
        assert self.env is not None
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        count = self.students_per_update or 2 * self.env.num_envs
        students: list[TaughtStudent] = []
        self._noise = []
        self._center = torch.nn.utils.parameters_to_vector(self.policy.parameters()).detach()
        # Called with other parameters, which an interruption can leave in it.
        self._twin = copy.deepcopy(self.policy)
        try:
            while len(students) < count:
                self._noise.append([])
                self._noise_of(0)
                seed = int(torch.randint(_SEEDS, ()))
                for self._sign in (1, -1):
                    self._actions_taken = 0
                    self.env.seed(seed)
                    self._last_obs = np.asarray(self.env.reset())
                    batch = self._collect_batch(self.env, callback)
                    if batch is None:
                        return None
                    students += batch
        finally:
            self._twin = None
        callback.on_rollout_end()
        return students

    def _noise_of(self, window: int) -> torch.Tensor:
        """Returns ε of a window of the present batch, (envs, d), drawn when the first student comes to it."""
        assert self.env is not None
        # From torch's global generator, as SB3's algorithms draw; a mark holds its state.
        drawn = self._noise[-1]
        while len(drawn) <= window:
            drawn.append(torch.randn(self.env.num_envs, len(self._center), dtype=self._center.dtype))
        return drawn[window]

    def _act(self, observations: np.ndarray) -> np.ndarray:
        twin = self._twin
        assert twin is not None
        window = 0 if self.window is None else self._actions_taken // self.window
        self._actions_taken += 1
        perturbed = self._center + self._sign * self.sigma * self._noise_of(window).to(self._center.device)
        tensor = torch.as_tensor(observations, device=self.device)
        parameters, begin = {}, 0
        for name, p in self.policy.named_parameters():
            parameters[name] = perturbed[:, begin : begin + p.numel()].view(-1, *p.shape)
            begin += p.numel()

        def act(weights: dict[str, torch.Tensor], observation: torch.Tensor) -> torch.Tensor:
            action: torch.Tensor = torch.func.functional_call(twin, weights, (observation.unsqueeze(0),))
            return action.squeeze(0)

        with torch.no_grad():
            actions: np.ndarray = torch.func.vmap(act)(parameters, tensor).cpu().numpy()
        return actions

    def _improve(self, students: list[TaughtStudent], /) -> None:
        assert self.env is not None
        # Students come batch by batch, those of θ + σε before those of θ − σε.
        signs = [students[i : i + self.env.num_envs] for i in range(0, len(students), self.env.num_envs)]
        batches = zip(self._noise, signs[::2], signs[1::2], strict=True)
        gradient = torch.stack([self._estimates(*batch) for batch in batches]).mean((0, 1)).to(self.device)
        begin = 0
        for p in self.policy.parameters():
            # The optimiser minimises.
            p.grad = -gradient[begin : begin + p.numel()].view_as(p).to(p.dtype)
            begin += p.numel()
        self._follow(self.max_grad_norm)
        self.logger.record("train/objective", float(np.mean([s.info["objective"] for s in students])))

    def _estimates(
        self, noise: list[torch.Tensor], plus: list[TaughtStudent], minus: list[TaughtStudent]
    ) -> torch.Tensor:
        """Returns an estimate of the gradient from each pair of a batch, (envs, d)."""
        credited = torch.stack(noise).cumsum(0)
        gained = [torch.stack([self._gained(student, len(noise)) for student in side]) for side in (plus, minus)]
        slopes = (gained[0] - gained[1]) / (2 * self.sigma)
        return (slopes.T.unsqueeze(-1) * credited).sum(0)

    def _gained(self, student: TaughtStudent, windows: int) -> torch.Tensor:
        """Returns what a student gained in each window, (windows,); one that diverged has no more of them."""
        rewards = torch.as_tensor(student.rewards)
        if self.window is None:
            return rewards.sum().unsqueeze(0)
        whole = torch.nn.functional.pad(rewards, (0, windows * self.window - len(rewards)))
        return whole.view(windows, self.window).sum(1)
