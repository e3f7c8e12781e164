"""PPO as a teacher: it learns from the rollouts of its present policy (Schulman et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import stable_baselines3
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import nn

from agents.base import NoiseLearner
from agents.policies import Attentive, Gaussian, Shared, log_std
from meta.teachers.policies import INITIAL_SCALE
from teachenv.teacher import Taught

Self = TypeVar("Self", bound="PPO")


class _Rollout(Gaussian, ActorCriticPolicy):
    """SB3's policy of PPO with the teachers' network for the mean, and tanh after the noise, as SAC has it.

    The standard deviation is one parameter a coordinate. The value network is SB3's.
    """

    log_std_start = 0.0
    log_std_always = True

    def __init__(self, *args: Any, initial_scale: float | None = INITIAL_SCALE, **kwargs: Any) -> None:
        """Builds the networks; with gSDE it is SB3's distribution that squashes."""
        if initial_scale is not None and kwargs.get("use_sde", False):
            kwargs["squash_output"] = True
        super().__init__(*args, initial_scale=initial_scale, **kwargs)

    def _layers(self) -> dict[str, Any]:
        return {"net_arch": self._net_arch_of("pi"), "activation_fn": self.activation_fn}

    def _net_arch_of(self, part: str) -> list[int]:
        return self.net_arch.get(part, []) if isinstance(self.net_arch, dict) else self.net_arch

    def _build_mlp_extractor(self) -> None:
        if self.initial_scale is None:
            super()._build_mlp_extractor()
            return
        # The actor's layers are the network's own.
        layers = {"pi": [], "vf": self._net_arch_of("vf")}
        self.mlp_extractor = MlpExtractor(self.features_dim, layers, self.activation_fn, self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        network, actions = self._network(), get_action_dim(self.action_space)
        if network is not None and not self.use_sde:
            self.action_dist, self._squash_output = SquashedDiagGaussianDistribution(actions), True
        super()._build(lr_schedule)
        if network is not None:
            self.action_net = network(self.features_dim, actions, squash=False)
        if self.initial_noise is not None:
            width = self.mlp_extractor.latent_dim_pi if self.use_sde else None
            nn.init.constant_(self.log_std, log_std(self.initial_noise, width))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]


class RolloutMlpPolicy(_Rollout):
    """SB3's MlpPolicy of PPO; the actor's last layer is drawn small; option `initial_noise` (0.1)."""

    sb3s_network = True


class RolloutAttentionPolicy(Attentive, _Rollout):
    """PPO's policy with L2T-DLF's actor for the mean; options `keys` (10) and `initial_noise` (0.1)."""


class RolloutSamplePolicy(Shared, _Rollout):
    """PPO's policy with `meta.teachers.policies.PerSample` for the mean.

    Its options are `features` (as many as observed) and `initial_noise` (0.1).
    """


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
        env: the environment to learn in; `agents.base.RLTeacher` says which ones.
        learning_rate: the step size of Adam on actor and critic; None: 1e-3.
        noise: the standard deviation of the actions, before tanh, at the start; it is learned. With `use_sde=True` that
            in a state whose features have a mean square of 1. None: 0.1; in an environment that does not train students
            SB3's default, 1.
        **kwargs: further options of `agents.base.RLTeacher` and of SB3's PPO. Where they are not given, and students
            are trained, a rollout is a whole training run of each student (`n_steps`), a minibatch is as large as one
            student's rollout (`batch_size`), and an update ends before ratios of probabilities overflow (`target_kl`,
            100), as they did in 1,000 coordinates.

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
        problem: Taught = env.get_attr("problem")[0] if isinstance(env, VecEnv) else env.unwrapped.problem
        count = env.num_envs if isinstance(env, VecEnv | gym.vector.VectorEnv) else 1
        # PPO normalises advantages, for which there must be two.
        steps = given.get("n_steps", max(problem.actions, 2))
        defaults = {"n_steps": steps, "batch_size": steps if steps > 1 else count, "target_kl": 100.0}
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
