"""PPO as a teacher: it learns from the rollouts of its present policy (Schulman et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import stable_baselines3
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import nn

from agents.base import NoiseLearner
from agents.policies import RolloutAttentionPolicy, RolloutMlpPolicy, RolloutSamplePolicy
from teachenv.problem import Problem

Self = TypeVar("Self", bound="PPO")


class _Shaped(VecEnvWrapper):
    """An environment with the rewards that the critic learns from."""

    def __init__(self, venv: VecEnv, shaped: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        super().__init__(venv)
        self.shaped = shaped

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, self.shaped(rewards, self.actions), dones, infos


class PPO(NoiseLearner, stable_baselines3.PPO):
    """SB3's PPO with what a teacher needs.

    A checkpoint lies between two rollouts: it needs no rollout buffer. Callbacks see the rewards that the critic learns
    from; monitors add up the environment's own.

    Args:
        policy: `"AttentionPolicy"`, `"MlpPolicy"`, `"SamplePolicy"`, another name of SB3's, or a policy class.
        env: The environment to learn in; `agents.base.RLTeacher` says which ones.
        learning_rate: The step size of Adam on actor and critic; None: 1e-3.
        noise: The standard deviation of the actions, before tanh, at the start; it is learned. With `use_sde=True` that
            in a state whose features have a mean square of 1. None: 0.1; in an environment that does not train students
            SB3's default, 1.
        **kwargs: Further options of `agents.base.RLTeacher` and of SB3's PPO. Where they are not given, and students
            are trained, a rollout is a whole training of each student (`n_steps`), and a minibatch is as large as one
            student's rollout (`batch_size`).

    Raises:
        ValueError: `noise` for a policy of SB3's, which has no such option.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **stable_baselines3.PPO.policy_aliases,
        "AttentionPolicy": RolloutAttentionPolicy,
        "MlpPolicy": RolloutMlpPolicy,
        "SamplePolicy": RolloutSamplePolicy,
    }

    def _teaching_defaults(self, env: Any, given: dict[str, Any]) -> dict[str, Any]:
        problem: Problem = env.get_attr("problem")[0] if isinstance(env, VecEnv) else env.unwrapped.problem
        count = env.num_envs if isinstance(env, VecEnv | gym.vector.VectorEnv) else 1
        # PPO normalises advantages, for which there must be two.
        steps = given.get("n_steps", max(problem.actions, 2))
        defaults = {"n_steps": steps, "batch_size": steps if steps > 1 else count}
        return super()._teaching_defaults(env, given) | defaults

    @property
    def actor_network(self) -> nn.Module:
        """The network of the mean; it ends before tanh."""
        return self.policy.action_net

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Runs SB3's `learn`; if it ends before its time, the model goes back to its last mark."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Marks the model, and runs SB3's `collect_rollouts`: whatever is saved before the next one is of the mark."""
        self.set_mark()

        def shaped(rewards: np.ndarray, actions: np.ndarray) -> np.ndarray:
            return self.shaped(rewards, self.policy.scale_action(actions))

        return super().collect_rollouts(_Shaped(env, shaped), callback, rollout_buffer, n_rollout_steps)
