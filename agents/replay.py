"""What Stable-Baselines3's off-policy algorithms need to be teachers."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn, Schedule

from meta.resume import Resumable

Self = TypeVar("Self", bound="ReplayTeacher")

_TRANSITION = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class ReplayTeacher(Resumable, OffPolicyAlgorithm):
    """An off-policy algorithm as a teacher; everything that is not named here, and every other argument, is SB3's.

    * The first `learning_starts` actions are the actor's own with its exploration, where SB3 takes uniformly random
      ones, which in a box of loss coefficients wreck the student.
    * Rewards are increases of accuracy, 0.01 or so a step: `reward_scale` brings them to the size that the critic is
      made for.
    * `action_penalty` keeps the actor from saturating at the edge of the box before the critic knows better.
    * The discount is 1, since the episode's return is the objective, and progress is observed.
    * A checkpoint holds the replay buffer and the environment's state, so that training goes on exactly.

    Args:
        policy: `"AttentionPolicy"` (L2T-DLF's actor), `"MlpPolicy"`, or a policy class.
        env: a `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of them.
        learning_rate: of Adam on actor and critic.
        noise: standard deviation of the exploration at the start.
        reward_scale: factor on the rewards that the critic learns from.
        action_penalty: c ≥ 0; c · mean(a²) is subtracted from each (scaled) reward that the critic learns from.
        gamma: discount.
        buffer_size: transitions kept.
        device: of the networks.
        **kwargs: SB3's.
    """

    saved_transitions: dict[str, np.ndarray] | None = None
    """The replay buffer's content while saving, and from `load` until `learn` puts it back."""

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-3,
        noise: float = 0.1,
        reward_scale: float = 100.0,
        action_penalty: float = 0.0,
        gamma: float = 1.0,
        buffer_size: int = 200_000,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> None:
        """Builds actor, critic and replay buffer."""
        self.noise = noise
        self.reward_scale = reward_scale
        self.action_penalty = action_penalty
        super().__init__(policy, env, learning_rate, gamma=gamma, buffer_size=buffer_size, device=device, **kwargs)

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """SB3's `learn`."""
        name = tb_log_name or type(self).__name__
        super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)
        if self.num_timesteps >= self._total_timesteps:  # else a callback stopped it, before the last step was stored
            self.set_mark()
        return self

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """SB3's; at its start buffer, networks and environment agree, whenever a callback saves during it."""
        self.set_mark()
        self.saved_transitions = None
        return super().collect_rollouts(*args, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        return super()._sample_action(0, action_noise, n_envs)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        shaped = self.reward_scale * reward - self.action_penalty * np.square(buffer_action).mean(axis=1)
        super()._store_transition(replay_buffer, buffer_action, new_obs, shaped, dones, infos)

    def _own_mark(self) -> dict[str, Any]:
        assert self.replay_buffer is not None
        return {"position": self.replay_buffer.pos, "full": self.replay_buffer.full}

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """SB3's `save`, with the transitions that the replay buffer held at the last mark."""
        buffer, loaded = self.replay_buffer, self.saved_transitions
        if self.mark is not None and buffer is not None and loaded is None:
            filled = len(buffer.observations) if self.mark.own["full"] else self.mark.own["position"]
            self.saved_transitions = {name: getattr(buffer, name)[:filled] for name in _TRANSITION}
        try:
            super().save(path, exclude, include)
        finally:
            self.saved_transitions = loaded

    def _return_to_mark(self) -> None:
        super()._return_to_mark()
        assert self.mark is not None
        assert self.replay_buffer is not None
        if self.saved_transitions is not None:
            for name, values in self.saved_transitions.items():
                getattr(self.replay_buffer, name)[: len(values)] = values
            self.saved_transitions = None
        self.replay_buffer.pos, self.replay_buffer.full = self.mark.own["position"], self.mark.own["full"]


class NoisyTeacher(ReplayTeacher):
    """A deterministic actor: Gaussian action noise is on by default, where SB3's default is none.

    Args:
        policy: see `ReplayTeacher`.
        env: see `ReplayTeacher`.
        learning_rate: see `ReplayTeacher`.
        noise: standard deviation of the Gaussian noise; ignored if `action_noise` is given.
        action_noise: SB3's noise, in place of the Gaussian.
        **kwargs: see `ReplayTeacher`.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-3,
        noise: float = 0.1,
        action_noise: ActionNoise | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        """Adds the noise."""
        super().__init__(
            policy, env, learning_rate, noise, action_noise=action_noise, _init_setup_model=False, **kwargs
        )
        if self.action_noise is None and self.env is not None:
            size = self.action_space.shape
            assert size is not None
            self.action_noise = NormalActionNoise(np.zeros(size), np.full(size, noise))
        if _init_setup_model:
            self._setup_model()
