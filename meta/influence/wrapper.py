"""A wrapper that shows one number of each sample that the next action weighs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from meta.wrappers.actions import check_actions_unchanged
from meta.wrappers.base import TeachWrapper


class SampleInfluence(TeachWrapper):
    """Shows what each sample of the minibatch that the next action weighs does to dev; what exactly, a subclass says.

    Observation, (batch,) in [-1, 1]: the influences over the largest size in the minibatch; zeros at the end, and where
    no sample has any. Reward, action and info stay as they are.

    Args:
        env: a `TeachEnv` whose actions weigh the samples of one minibatch, one student step an action.

    Raises:
        TypeError: the environment is no `TeachEnv`.
        ValueError: several student steps an action, or a wrapper that changes actions.
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray]) -> None:
        """Wraps the environment, and checks that its actions weigh the samples of one minibatch."""
        super().__init__(env)
        check_actions_unchanged(env, type(self).__name__)
        self._check_fits()
        self._check_weighs_samples()
        settings = self._teach.problem.settings
        dtype = np.float64 if settings.dtype == "float64" else np.float32
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (settings.batch_size,), dtype)

    @abstractmethod
    def influence(self) -> torch.Tensor:
        """Computes the influence of each sample of the next minibatch, (batch,), not divided by the largest."""

    @abstractmethod
    def _check_fits(self) -> None:
        """Raises a `ValueError` if the environment's loss or task has no such influence."""

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the training of a new student, and shows the influences in its first minibatch."""
        _, info = self.env.reset(**kwargs)
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Trains the student on the minibatch, weighed by the action, and shows the influences in the next one."""
        _, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            return np.zeros_like(self.observation_space.low), reward, terminated, truncated, info  # type: ignore[attr-defined]
        return self._observe(), reward, terminated, truncated, info

    def _observe(self) -> np.ndarray:
        influences = self.influence()
        scaled = influences / influences.abs().max().clamp(min=torch.finfo(influences.dtype).tiny)
        observation: np.ndarray = np.nan_to_num(scaled.cpu().numpy()).astype(self.observation_space.dtype)
        return observation
