"""What Stable-Baselines3's algorithms need to be teachers, whether they learn from a replay buffer or from rollouts."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from agents.policies import Gaussian, Small
from meta.saving.resume import Resumable
from meta.wrappers.vec_env import as_vec_env
from teachenv import checks
from teachenv.teacher import HasActor, Resumes

Self = TypeVar("Self", bound="RLTeacher")


def trains_students(env: Any) -> bool:
    """Whether an environment is a teaching one, or SB3's of them, which is asked through all its wrappers."""
    if isinstance(env, gym.Env):
        return hasattr(env.unwrapped, "problem")
    return isinstance(env, VecEnv) and env.has_attr("problem")


def _check_actions(env: Any) -> None:
    space = env.action_space
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"expected actions in a Box, found {space}; SB3's PPO and A2C take such actions")
    if not space.is_bounded():
        raise ValueError(
            f"expected actions between finite bounds, found {space}; give its action space bounds, for "
            "example by gymnasium.wrappers.TransformAction"
        )


class RLTeacher(Resumable):
    """An algorithm of SB3 as a teacher; everything that is not named here, and every other argument, is SB3's.

    These defaults hold where an environment trains students (`TeachEnv`, `TeachVectorEnv`, `TeachControlEnv`, and what
    else has a `problem` that is `teachenv.teacher.Taught`). In every other environment all defaults are SB3's:
    `"MlpPolicy"` is then SB3's algorithm to the last bit. What is given holds everywhere.

    * Rewards are increases of accuracy, 0.01 or so a step: `reward_scale` brings them to the size that the critic is
      made for.
    * `action_penalty` keeps the actor from saturating at the edge of the box before the critic knows better.
    * The discount is 1, since the episode's return is the objective, and progress is observed.
    * A checkpoint holds the environment's state, so that training goes on exactly.

    Args:
        policy: `"AttentionPolicy"` (L2T-DLF's actor), `"MlpPolicy"`, or a policy class; SB3's other names, too.
        env: a `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of them; or any other with Box actions.
        learning_rate: the step size of Adam on actor and critic; None: 1e-3.
        noise: the standard deviation of the exploration at the start; None: 0.1.
        reward_scale: the factor on the rewards that the critic learns from; None: 100, or 1 where SB3's `VecNormalize`
            brings them to size.
        action_penalty: the factor c ≥ 0: c · mean(a²) is subtracted from each scaled reward that the critic learns
            from.
        policy_kwargs: options of the policy class, laid over the teacher's own defaults.
        **kwargs: further options of SB3's algorithm; where they are not given, and students are trained, `gamma` is 1
            and `device` "cpu".

    Raises:
        ValueError: a negative penalty or noise, or actions that are not a Box with finite bounds.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule | None = None,
        *,
        noise: float | None = None,
        reward_scale: float | None = None,
        action_penalty: float = 0.0,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Builds the algorithm."""
        self._check_options(kwargs)
        if kwargs.get("_init_setup_model", True):
            self._check_env(env)
        action_penalty = checks.number("action_penalty", action_penalty, least=0)
        noise = None if noise is None else checks.number("noise", noise, least=0)
        reward_scale = None if reward_scale is None else checks.number("reward_scale", reward_scale)
        env = as_vec_env(maybe_make_env(env, kwargs.get("verbose", 0)))
        if env is not None:
            _check_actions(env)
        teaching = trains_students(env)
        if teaching:
            kwargs = {**self._teaching_defaults(env, kwargs), **kwargs}
        if learning_rate is not None:
            kwargs["learning_rate"] = learning_rate
        self.noise = 0.1 if noise is None and teaching else noise
        self.action_penalty = action_penalty
        if isinstance(policy, str):
            policy = self._get_policy_from_name(policy)
        options = self._policy_defaults(policy, teaching, noise) | (policy_kwargs or {})
        taken = checks.options_of(policy)
        with checks.suggesting(f"{policy.__name__} of policy_kwargs", options, taken, f"help({policy.__name__})"):
            super().__init__(policy, env, policy_kwargs=options, **kwargs)
        normalized = self._vec_normalize_env is not None and self._vec_normalize_env.norm_reward
        self.reward_scale = (100.0 if teaching and not normalized else 1.0) if reward_scale is None else reward_scale

    def _teaching_defaults(self, env: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Returns options of SB3's algorithm that are others where students are trained.

        Args:
            env: the environment that trains students.
            given: the options that the user gave.
        """
        return {"learning_rate": 1e-3, "gamma": 1.0, "device": "cpu"}

    def _policy_defaults(self, policy: type[BasePolicy], teaching: bool, noise: float | None) -> dict[str, Any]:
        """Returns the policy's default options; `noise` is the caller's, None if none was given."""
        as_sb3s = not teaching and issubclass(policy, Small) and policy.sb3s_network
        return {"initial_scale": None} if as_sb3s else {}

    @property
    @abstractmethod
    def actor_network(self) -> nn.Module:
        """The network of the deterministic action, with tanh at its end or before it."""

    def shaped(self, rewards: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Returns the rewards that the critic learns from.

        Args:
            rewards: the environments' rewards, (envs,).
            actions: the actions, scaled to [-1, 1], (envs, ...).
        """
        squares = np.square(actions).reshape(len(rewards), -1)
        shaped_rewards: np.ndarray = self.reward_scale * rewards - self.action_penalty * squares.mean(axis=1)
        return shaped_rewards

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Runs SB3's `learn`; if it ends before its time, the model goes back to its last mark.

        Raises:
            ValueError: `total_timesteps` is not an integer of at least 0, there is no environment, or the training to
                go on with does not fit the environment.
        """
        name = tb_log_name or type(self).__name__
        with self._learning():
            # SB3 takes None for "no log", too, and has an algorithm's `learn` next in the order of classes.
            super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)  # type: ignore[safe-super,arg-type]
            if self.num_timesteps >= self._total_timesteps:  # else a callback stopped it
                self.set_mark(last=True)
        return self


if TYPE_CHECKING:

    def _kept(teacher: RLTeacher) -> tuple[Resumes, HasActor]:
        """Lets mypy check that these teachers keep the protocols."""
        return teacher, teacher


class NoiseLearner(RLTeacher):
    """A stochastic actor, whose noise is learned with it."""

    def _policy_defaults(self, policy: type[BasePolicy], teaching: bool, noise: float | None) -> dict[str, Any]:
        if issubclass(policy, Gaussian):
            return super()._policy_defaults(policy, teaching, noise) | {"initial_noise": self.noise}
        if noise is not None:
            raise ValueError(
                f"noise={noise} is an option of the teachers' policies (AttentionPolicy, MlpPolicy, SamplePolicy), "
                f"found {policy.__name__}; leave it out, or choose one of these"
            )
        return super()._policy_defaults(policy, teaching, noise)
