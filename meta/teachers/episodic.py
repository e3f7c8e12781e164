"""Teachers that learn from the whole training runs of some students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

from meta.teachers.base import Teacher, checked_norm
from meta.teachers.policies import AttentionPolicy, FreePolicy, MlpPolicy, SamplePolicy
from meta.teachers.sample_policies import LossPolicy
from teachenv import checks


@dataclass(frozen=True)
class TaughtStudent:
    """One student's training, as its teacher saw it.

    Attributes:
        observations: (actions taken, observation coordinates).
        rewards: (actions taken,); as the environment gave them, where SB3's `VecNormalize` has changed them since.
        info: the `info` of the step that ended the episode.
    """

    observations: np.ndarray
    rewards: np.ndarray
    info: dict[str, Any]

    @property
    def total(self) -> float:
        """The return of the training."""
        return float(self.rewards.sum(dtype=np.float64))


class EpisodicTeacher(Teacher[list[TaughtStudent]]):
    """Collects the training runs of some students under a fixed teacher, then improves the teacher by them.

    Args:
        policy: the name of a policy in `policy_aliases`, or a policy class.
        env: a `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of them.
        learning_rate: the step size of the optimiser of θ: a number, or a function of the remaining progress.
        students_per_update: the number of training runs for each update, rounded up to a multiple of those that the
            environment has in parallel; None: as many as it has.
        **kwargs: further options of `Teacher`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        kind.__name__: kind for kind in (AttentionPolicy, FreePolicy, LossPolicy, MlpPolicy, SamplePolicy)
    }

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-2,
        students_per_update: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Checks the options and builds the policy."""
        if students_per_update is not None:
            students_per_update = checks.integer("students_per_update", students_per_update, least=1)
        self.students_per_update = students_per_update
        super().__init__(policy, env, learning_rate, **kwargs)

    def _collect(self, callback: BaseCallback) -> list[TaughtStudent] | None:
        """Teaches `students_per_update` students from beginning to end; None if a callback asked to stop."""
        assert self.env is not None
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        count = self.students_per_update or self.env.num_envs
        students: list[TaughtStudent] = []
        while len(students) < count:
            batch = self._collect_batch(self.env, callback)
            if batch is None:
                return None
            students += batch
        callback.on_rollout_end()
        return students

    def _collect_batch(self, env: VecEnv, callback: BaseCallback) -> list[TaughtStudent] | None:
        """Teaches one student in each environment, all from the beginning."""
        observations, self._last_obs = self._last_obs, None  # if interrupted, the next learn() resets the environment
        assert isinstance(observations, np.ndarray)
        history: list[np.ndarray] = []
        rewards: list[np.ndarray] = []
        normalizer = self.get_vec_normalize_env()
        taught: dict[int, TaughtStudent] = {}
        dones = np.zeros(env.num_envs, dtype=bool)
        while len(taught) < env.num_envs:
            actions = self._act(observations)
            history.append(observations)
            step = self._step(actions)
            rewards.append(step.rewards if normalizer is None else normalizer.get_original_reward())
            observations, dones = step.observations, step.dones
            if not self._report_episode(step, callback):
                return None
            for i in np.flatnonzero(dones).tolist():
                if i not in taught:
                    taught[i] = TaughtStudent(
                        np.stack([s[i] for s in history]), np.stack([r[i] for r in rewards]), step.infos[i]
                    )
        if not dones.all():
            # Some student diverged and made room for another one, who is in mid-training: all begin together.
            observations = np.asarray(env.reset())
        self._last_obs = observations
        return [taught[i] for i in range(env.num_envs)]

    def _act(self, observations: np.ndarray) -> np.ndarray:
        """Returns the actions that the teacher takes while its students are collected."""
        return self.predict(observations, deterministic=True)[0]


class LearningTeacher(EpisodicTeacher):
    """A teacher that follows some gradient of its parameters θ.

    Logged: `train/gradient_norm` (before clipping; an update where it is not finite is not made) and
    `train/learning_rate`.

    Args:
        policy: the name of a policy in `policy_aliases`, or a policy class.
        env: a `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of them.
        learning_rate: the step size of the policy's optimiser, Adam by default.
        students_per_update: how many training runs are collected for each update; None: as many as the environment has
            in parallel.
        max_grad_norm: the norm to which the gradient of θ is clipped; None: not clipped.
        **kwargs: further options of `Teacher`.

    Raises:
        ValueError: a norm that is not positive.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-2,
        students_per_update: int | None = None,
        max_grad_norm: float | None = 1.0,
        **kwargs: Any,
    ) -> None:
        """Checks the options and builds the policy."""
        self.max_grad_norm = checked_norm(max_grad_norm)
        super().__init__(policy, env, learning_rate, students_per_update, **kwargs)
