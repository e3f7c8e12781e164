"""The action gradient as an environment wrapper: what a gradient teacher sees beyond what an RL teacher sees."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

from meta.hypergradient import check_method, hypergradient
from teachenv.dynamics import StudentState, take
from teachenv.env import TeachEnv
from teachenv.vector_env import TeachVectorEnv


class ActionGradient(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Adds `info["action_gradient"]` to the step that ends an episode: d(return)/d(actions), (actions taken, n).

    Row t is the derivative of the episode's return J(ω_T) − J(ω_0) with respect to the action taken at step t, the
    other actions held. An episode whose student diverged gets zeros: its return is a penalty, which does not depend
    on the actions.

    The wrapper keeps the student's state before each action (a reference to a value, no copy, no graph).

    Args:
        env: a `TeachEnv`, possibly wrapped by what changes neither actions nor rewards.
        method: `"rmd"` (exact) or `"finite-difference"`; see `meta.hypergradient`.

    Raises:
        TypeError: the environment is no `TeachEnv`.
        ValueError: an unknown method.
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray], method: str = "rmd") -> None:
        """Wraps the environment."""
        super().__init__(env)
        self.method = check_method(method)
        if not isinstance(env.unwrapped, TeachEnv):
            raise TypeError(f"ActionGradient differentiates a TeachEnv, found {type(env.unwrapped).__name__}")
        self._teach: TeachEnv = env.unwrapped
        self._states: list[StudentState] = []
        self._actions: list[torch.Tensor] = []
        self._expected: StudentState | None = None

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Steps, and differentiates when the episode ends.

        Raises:
            RuntimeError: the episode ends, but its first steps were not taken under this wrapper.
        """
        before = self._teach.student
        # After a reset, or a set_state, the student is not the one that the last step left.
        if before is not self._expected:
            self._states, self._actions = [], []
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._expected = self._teach.student
        self._states.append(before)
        self._actions.append(self._teach.action)
        if terminated or truncated:
            info["action_gradient"] = self._gradient(bool(info["diverged"]))
            self._states, self._actions = [], []
        return observation, reward, terminated, truncated, info

    def _gradient(self, diverged: bool) -> np.ndarray:
        teach, per_action = self._teach, self._teach.teaching.settings.steps_per_action
        taken = int(teach.student.step) // per_action
        if taken != len(self._actions):
            raise RuntimeError(
                f"the action gradient needs the whole episode, but {taken - len(self._actions)} of its {taken} actions "
                "were taken before this wrapper saw it (set_state in mid-episode?); reset, or set_state to a state at "
                "its start"
            )
        if diverged:
            return np.zeros((taken, *self._actions[0].shape), dtype=teach.action_space.dtype)
        result = hypergradient(
            teach.dynamics,
            teach.episode,
            self._states,
            self._actions,
            teach.student,
            steps_per_action=per_action,
            method=self.method,
        )
        return result.actions.cpu().numpy()


class VectorActionGradient(gym.vector.VectorWrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """`ActionGradient` for a batch: differentiates all students that end in a step in one computation.

    Adds `info["action_gradient"]`, (B, actions in an episode, n), with Gymnasium's mask `info["_action_gradient"]`, to
    steps that end an episode. Rows outside the mask are zeros, as are those of diverged students.

    Args:
        env: a `TeachVectorEnv`.
        method: `"rmd"` (exact) or `"finite-difference"`; see `meta.hypergradient`.

    Raises:
        TypeError: the environment is no `TeachVectorEnv`.
        ValueError: an unknown method.
    """

    def __init__(self, env: gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray], method: str = "rmd") -> None:
        """Wraps the environment."""
        super().__init__(env)
        self.method = check_method(method)
        if not isinstance(env.unwrapped, TeachVectorEnv):
            found = type(env.unwrapped).__name__
            raise TypeError(f"VectorActionGradient differentiates a TeachVectorEnv, found {found}")
        self._teach: TeachVectorEnv = env.unwrapped
        self._recorded: list[tuple[StudentState, torch.Tensor]] = []
        self._expected: StudentState | None = None

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps, and differentiates the episodes that end.

        Raises:
            RuntimeError: an episode ends whose first steps were not taken under this wrapper.
        """
        teach, length = self._teach, self._teach.teaching.actions
        before, episodes = teach.students, teach.episodes
        # After a reset, or a set_state, the students are not those that the last step left.
        if before is not self._expected:
            self._recorded = []
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        self._expected = teach.students
        self._recorded = [*self._recorded, (before, teach.actions)][-length:]
        ended = terminated | truncated
        if ended.any():
            action_size = teach.teaching.neutral_action.numel()
            gradient = np.zeros((teach.num_envs, length, action_size), dtype=teach.single_action_space.dtype)
            # Students that did not diverge and end together began together, a whole episode ago.
            rows = np.flatnonzero(ended & ~infos["final_info"]["diverged"])
            if len(rows):
                gradient[rows] = self._gradient(rows.tolist(), episodes)
            infos["action_gradient"], infos["_action_gradient"] = gradient, ended
        return observation, rewards, terminated, truncated, infos

    def _gradient(self, rows: list[int], episodes: Any) -> np.ndarray:
        teach = self._teach
        final = teach.final_students
        assert final is not None
        if len(self._recorded) < teach.teaching.actions:
            raise RuntimeError(
                f"the action gradient needs whole episodes, but only the last {len(self._recorded)} of "
                f"{teach.teaching.actions} actions were taken under this wrapper; reset, or set_state to their start"
            )
        states = [state for state, _ in self._recorded]
        actions = [action for _, action in self._recorded]
        if len(rows) < teach.num_envs:
            states, final, episodes = [take(s, rows) for s in states], take(final, rows), take(episodes, rows)
            actions = [a[rows] for a in actions]
        result = hypergradient(
            teach.dynamics,
            episodes,
            states,
            actions,
            final,
            steps_per_action=teach.teaching.settings.steps_per_action,
            method=self.method,
        )
        return result.actions.cpu().numpy()
