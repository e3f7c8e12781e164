"""Meta-Weight-Net's teacher: one step ahead at every student step (Shu et al. 2019).

One student step, from the student ω_t and the teacher's parameters Θ_t:

    1. look ahead:   ω̂(Θ) = ω_t − η ∇ℓ under the weights that Θ gives to the minibatch (eqs. 3-4)
    2. teacher:      Θ_{t+1} = Θ_t − β ∇_Θ L_dev(ω̂(Θ)) by Adam (eq. 5)
    3. student:      ω_{t+1} by its own optimiser under the weights that Θ_{t+1} gives (eq. 6)

`meta.hypergradients.look_ahead` says what the step ahead and L_dev are.

Followed from the released code where the paper does not say it: the weights are divided by their sum over the minibatch
(`normalise=True`), Adam at 1e-3 with a weight decay of 1e-4, a look ahead without momentum. Not followed: dev is all
that the environment measures, not a minibatch; the very first step of a training run is taken before the first update;
and with several students at a time Θ follows their mean, where the paper has one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from meta.hypergradients.look_ahead import LookAhead, likelihood, look_ahead
from meta.teachers.base import Teacher
from meta.teachers.episodic import EpisodicTeacher
from meta.wrappers.actions import check_actions_unchanged
from teachenv.env import TeachEnv
from teachenv.vector_env import TeachVectorEnv


class MetaWeightNet(Teacher[torch.Tensor]):
    """Meta-Weight-Net's teacher, which learns within the training that it steers, one step ahead; see the module.

    The paper's is `"LossPolicy"` on `loss="sample-weights"` with `normalise=True` and `observe_samples=True`. Any other
    policy and loss family is learned in the same way, which needs no more of them than RMD does. The paper reports the
    student that was trained along, which here is that of the first training of `learn` (the example evaluates it); in
    `teachenv.compare` fresh students are taught by Θ as it ended.

    Logged: `train/error_ahead` (the dev loss after the step ahead), `train/gradient_norm` and `train/learning_rate`.

    Args:
        policy: `"LossPolicy"` (the paper's), `"SamplePolicy"`, `"AttentionPolicy"`, `"MlpPolicy"`, `"FreePolicy"`, or a
            policy class.
        env: a `TeachEnv` of classification (or its id) with one student step an action, a `TeachVectorEnv`, or an SB3
            `VecEnv` of them in this process.
        learning_rate: the step size of Adam on Θ; 1e-3 in the released code.
        policy_kwargs: options of the policy; by default Adam's weight decay is 1e-4,
            `{"optimizer_kwargs": {"weight_decay": 1e-4}}`.
        **kwargs: further options of `Teacher`.

    Raises:
        TypeError: an environment that is no `TeachEnv`.
        ValueError: several student steps an action, a task without one label a sample, a wrapper that changes actions,
            or environments in other processes.

    Example:
        >>> import gymnasium as gym, meta, teachenv
        >>> options = {"label_noise": 0.4, "trusted_dev": 100, "horizon": 60, "observe_samples": True}
        >>> loss = {"name": "sample-weights", "normalise": True}
        >>> students = gym.make_vec("TeachDigits-v0", num_envs=1, loss=loss, **options)
        >>> teacher = meta.MetaWeightNet("LossPolicy", students, seed=0).learn(60)
        >>> error = students.evaluate_final("test")["test_error"]  # of the student that was trained along
        >>> bool(0.0 <= error[0] <= 1.0)
        True
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = EpisodicTeacher.policy_aliases

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-3,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Checks the environment and builds the policy."""
        policy_kwargs = {"optimizer_kwargs": {"weight_decay": 1e-4}, **(policy_kwargs or {})}
        super().__init__(policy, env, learning_rate, policy_kwargs, **kwargs)

    @classmethod
    def _wrap_env(cls, env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if isinstance(env, gym.Env | gym.vector.VectorEnv):
            check_actions_unchanged(env, cls.__name__)
        wrapped = super()._wrap_env(env, verbose, monitor_wrapper)
        _students_of(wrapped, cls.__name__)
        return wrapped

    def _collect(self, callback: BaseCallback) -> torch.Tensor | None:
        """Takes a student step, and looks one ahead: a function of Θ whose gradient is that of the mean dev loss."""
        assert self.env is not None
        assert isinstance(self._last_obs, np.ndarray)
        callback.on_rollout_start()
        actions, _ = self.predict(self._last_obs, deterministic=True)
        step = self._step(actions)
        self._last_obs = step.observations
        if not self._report_episode(step, callback):
            return None
        callback.on_rollout_end()
        self.policy.set_training_mode(True)
        moved: torch.Tensor = self.policy(torch.as_tensor(step.observations, device=self.device))
        ahead = self._look_ahead(moved.detach())
        self.logger.record("train/error_ahead", float(ahead.error.mean()))
        gradient = ahead.action.to(moved)
        # A student that is about to diverge says nothing.
        return (gradient.nan_to_num(posinf=0.0, neginf=0.0) * moved).sum() / len(moved)

    def _improve(self, error: torch.Tensor, /) -> None:
        self.policy.optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        self._follow(None)

    def _look_ahead(self, actions: torch.Tensor) -> LookAhead:
        """Looks one step ahead of each student under its action, (students, n)."""
        assert self.env is not None
        looked = []
        for env, action in zip(students := _students_of(self.env, type(self).__name__), actions, strict=False):
            neutral, measure = env.problem.neutral_action, likelihood(env.problem)
            if isinstance(env, TeachVectorEnv):
                return look_ahead(env.dynamics, measure, env.students, env.episodes, actions.to(neutral))
            looked.append(look_ahead(env.dynamics, measure, env.student, env.episode, action.to(neutral)))
        assert len(looked) == len(students) == len(actions)
        return LookAhead(torch.stack([one.error for one in looked]), torch.stack([one.action for one in looked]))


def _students_of(env: VecEnv, teacher: str) -> list[TeachEnv | TeachVectorEnv]:
    """Returns the environments behind a `VecEnv`: one of each student, or one of all of them."""
    if isinstance(env.unwrapped, SubprocVecEnv):
        raise ValueError(
            f"{teacher} looks into its students, found a SubprocVecEnv, whose students are in other processes; pass a "
            "TeachVectorEnv or a DummyVecEnv"
        )
    students: list[TeachEnv | TeachVectorEnv] = env.get_attr("unwrapped")
    for one in students:
        if not isinstance(one, TeachEnv | TeachVectorEnv):
            raise TypeError(f"{teacher} looks one student step ahead: expected a TeachEnv, found {type(one).__name__}")
        steps = one.problem.settings.steps_per_action
        if steps != 1:
            raise ValueError(f"{teacher} looks one student step ahead: expected steps_per_action=1, found {steps}")
        if not one.problem.classifies:
            raise ValueError(
                f"{teacher} learns from the cross-entropy on dev: expected samples of one label and no teacher "
                f"network, found task {one.problem.task.name!r} with loss={one.problem.settings.loss!r}"
            )
    return students
