"""Teachers that follow the exact gradient of their students' return: L2T-DLF's, with double backward or without."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

from meta.hypergradients.action_gradient import ActionGradient, VectorActionGradient
from meta.teachers.episodic import LearningTeacher, TaughtStudent
from meta.teachers.policies import TeacherPolicy
from meta.wrappers.actions import check_actions_unchanged, is_wrapped, wrapped_once
from teachenv import checks
from teachenv.vector_env import TeachVectorEnv


class GradientTeacher(LearningTeacher):
    """A teacher that follows the gradient of its students' return.

    The action gradients dJ/da_t come with the environment's info; backpropagated through the policy, states held
    constant (as in L2T-DLF's eqs. 4-5), they are the gradient of the return with respect to θ, averaged over the
    students of an update.

    Logged: `train/gradient_norm` (before clipping; an update where it is not finite is not made),
    `train/learning_rate`, `train/objective` (mean final J), `train/skipped_students` (diverged or with a gradient that
    is not finite; they are left out of the update), `train/differentiated_steps` (if `last` is given),
    `train/predicted_change` (of J by an update, as its derivative says; one that is larger than J itself cannot be, and
    is warned of once: `meta.smoothness`).

    Args:
        policy: `"AttentionPolicy"`, `"MlpPolicy"`, or a policy class.
        env: a `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of environments in `meta.ActionGradient`.
        learning_rate: the step size of Adam on θ. The paper has 1e-4 for Φ itself; ours was measured on actions in the
            box.
        students_per_update: how many training runs are collected for each update; None: as many as the environment has
            in parallel.
        max_grad_norm: the norm to which the gradient of θ is clipped; None: not clipped.
        last: how many student steps at the end of each training run are differentiated; a number, or a function of the
            remaining progress (1 at the start of learning, 0 at the end). None: as the environment's wrapper says, by
            default all.
        **kwargs: further options of `EpisodicTeacher`.
    """

    method: ClassVar[str]

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-2,
        students_per_update: int | None = None,
        max_grad_norm: float | None = 1.0,
        last: int | Schedule | None = None,
        **kwargs: Any,
    ) -> None:
        """Builds the policy; wraps the environment in the action gradient if it is not yet."""
        self._warned_of_step = False
        self.last = last if last is None or callable(last) else checks.integer("last", last, least=1)
        super().__init__(policy, env, learning_rate, students_per_update, max_grad_norm, **kwargs)

    @classmethod
    def _wrap_env(cls, env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if isinstance(env, gym.vector.VectorEnv) and isinstance(env.unwrapped, TeachVectorEnv):
            env = wrapped_once(env, VectorActionGradient, cls.__name__, cls.method)
        elif isinstance(env, gym.Env):
            env = wrapped_once(env, ActionGradient, cls.__name__, cls.method)
        elif isinstance(env, VecEnv):
            for single in getattr(env.unwrapped, "envs", ()):  # those of a DummyVecEnv; others' are out of reach
                if is_wrapped(single, ActionGradient):
                    check_actions_unchanged(single, cls.__name__, until=ActionGradient)
        return super()._wrap_env(env, verbose, monitor_wrapper)

    def _collect(self, callback: BaseCallback) -> list[TaughtStudent] | None:
        if self.last is not None:
            assert self.env is not None
            last = round(self.last(self._current_progress_remaining)) if callable(self.last) else self.last
            self.env.env_method("differentiate_last", last)
            self.logger.record("train/differentiated_steps", last)
        return super()._collect(callback)

    def _improve(self, students: list[TaughtStudent], /) -> None:
        usable = [s for s in students if not s.info["diverged"] and np.isfinite(self._gradient_of(s)).all()]
        self.logger.record("train/skipped_students", len(students) - len(usable))
        self.logger.record("train/objective", float(np.mean([s.info["objective"] for s in students])))
        if not usable:
            return
        self.policy.set_training_mode(True)
        observations = torch.as_tensor(np.concatenate([s.observations for s in usable]), device=self.device)
        gradient = torch.as_tensor(np.concatenate([self._gradient_of(s) for s in usable]), device=self.device)
        if isinstance(self.policy, TeacherPolicy):
            gradient = gradient * torch.as_tensor(self.policy.reach, dtype=gradient.dtype, device=self.device)
        self.policy.optimizer.zero_grad()
        actions = self.policy(observations)
        # Its gradient with respect to θ is minus the return's: the optimiser minimises.
        (-(gradient * actions).sum() / len(usable)).backward()
        self._follow(self.max_grad_norm)
        with torch.no_grad():
            moved = self.policy(observations) - actions
        self._check_step(
            float((gradient * moved).sum()) / len(usable), float(np.mean([s.info["objective"] for s in usable]))
        )

    def _check_step(self, predicted: float, objective: float) -> None:
        """Logs the change of J that an update expects, and warns once of one that cannot be.

        Args:
            predicted: the change of J, by its derivative with respect to the actions and by how these have moved.
            objective: J, the mean over students.
        """
        self.logger.record("train/predicted_change", predicted)
        if abs(predicted) > abs(objective) and not self._warned_of_step:
            self._warned_of_step = True
            warnings.warn(
                f"an update of {type(self).__name__} predicts that J changes by {predicted:.3g}, more than J itself, "
                f"which is {objective:.3g}: its step is too large for the gradient to be valid. meta.smoothness(env) "
                "measures how large a step may be, and tries what helps: a smaller learning_rate of the teacher, a "
                "calmer or shorter training, last=...",
                stacklevel=2,
            )

    def _gradient_of(self, student: TaughtStudent) -> np.ndarray:
        if "action_gradient" not in student.info:
            raise ValueError(
                f"{type(self).__name__} needs the action gradient in the environment's info: pass a TeachEnv, a "
                "TeachVectorEnv, or wrap the environments of your VecEnv in meta.ActionGradient"
            )
        gradient: np.ndarray = student.info["action_gradient"]
        return gradient[: len(student.observations)]


class RMD(GradientTeacher):
    """L2T-DLF's teacher (Wu et al. 2018): exact reverse-mode differentiation of a training run, also with momentum."""

    method = "rmd"


class FiniteDifference(GradientTeacher):
    """As `RMD`, with Hessian-vector products by central differences: no double backward needed."""

    method = "finite-difference"
