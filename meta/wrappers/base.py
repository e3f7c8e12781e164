"""Wrappers that look into a `TeachEnv`: at the student as it is, beyond what the environment shows of it."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from teachenv.env import TeachEnv
from teachenv.rl import TeachControlEnv


class TeachWrapper(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """A wrapper of a `TeachEnv`, which may have other wrappers in between.

    Args:
        env: a `TeachEnv`, possibly wrapped.

    Raises:
        TypeError: the innermost environment is no `TeachEnv`, whose students learn from data.
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray]) -> None:
        """Wraps the environment, and checks that there is a `TeachEnv` at the bottom."""
        super().__init__(env)
        if isinstance(env.unwrapped, TeachControlEnv):
            raise TypeError(
                f"{type(self).__name__} needs a training run that is differentiable, found students that draw what "
                "they learn from by acting: teach them with agents.DDPG, meta.EvolutionStrategies or meta.Bandit; "
                "meta.self_tune follows the gradient through one update"
            )
        if not isinstance(env.unwrapped, TeachEnv):
            raise TypeError(
                f"{type(self).__name__} needs a TeachEnv, found {type(env.unwrapped).__name__}; make one, such as "
                'gym.make("TeachDigits-v0")'
            )
        self._teach: TeachEnv = env.unwrapped

    def _check_weighs_samples(self) -> None:
        """Checks that the next action weighs one minibatch, for wrappers that show its samples.

        Raises:
            ValueError: an action weighs the samples of several minibatches.
        """
        steps = self._teach.problem.settings.steps_per_action
        if steps != 1:
            raise ValueError(f"each minibatch has its own action: steps_per_action=1, found {steps}")


class RememberingWrapper(TeachWrapper):
    """A wrapper with a state of its own, which goes with the environment's snapshot.

    Attributes:
        state_name: the key of that state in a snapshot.
    """

    state_name: ClassVar[str]

    def get_state(self) -> dict[str, Any]:
        """Returns the environment's snapshot, and what this wrapper remembers of the episode."""
        return {"environment": self._teach.get_state(), self.state_name: self._remembered()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a snapshot of `get_state`.

        Raises:
            ValueError: the snapshot is of another environment.
        """
        if self.state_name not in state:
            raise ValueError(
                f"this is the state of an environment without {type(self).__name__}; use its own set_state"
            )
        self._teach.set_state(state["environment"])
        self._remember(state[self.state_name])

    def _remembered(self) -> dict[str, Any]:
        """Returns the wrapper's own state; what the wrapper does later must not change it."""
        raise NotImplementedError

    def _remember(self, remembered: dict[str, Any]) -> None:
        """Puts back a state that `_remembered` returned."""
        raise NotImplementedError
