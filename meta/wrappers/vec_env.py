"""The batched environment as a Stable-Baselines3 `VecEnv`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

Indices = None | int | Iterable[int]


class GymVecEnv(VecEnv):
    """Adapts a Gymnasium vector environment to Stable-Baselines3.

    Both reset ended episodes on their own; SB3 does so within the step, so the vector environment must too.

    `env_method`, `get_attr` and `set_attr` act once, on the whole batch, and give a list of one: the students are no
    environments of their own.

    Args:
        venv: a vector environment with `AutoresetMode.SAME_STEP`.

    Raises:
        ValueError: another autoreset mode.
    """

    def __init__(self, venv: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        """Checks that ended episodes are reset within the step."""
        mode = venv.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                "teachers and Stable-Baselines3 need a vector environment that resets in the step that ends an episode "
                f'(AutoresetMode.SAME_STEP), found {mode}; leave autoreset_mode out, or make it "SameStep"'
            )
        self.venv = venv
        self._actions = np.zeros(0)
        super().__init__(venv.num_envs, venv.single_observation_space, venv.single_action_space)

    def reset(self) -> np.ndarray:
        """Starts all episodes anew, with the seeds given to `seed()` since the last reset."""
        seeds = self._seeds if any(s is not None for s in self._seeds) else None
        observations, infos = self.venv.reset(seed=seeds)  # type: ignore[arg-type]  # Gymnasium's own take lists too
        self.reset_infos = _rows(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return np.asarray(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Steps all students; the infos of those that ended are their final ones, with SB3's `terminal_observation`."""
        observations, rewards, terminated, truncated, infos = self.venv.step(self._actions)
        dones = terminated | truncated
        rows = _rows(infos, self.num_envs)
        for i, row in enumerate(rows):
            if dones[i]:
                # The action gradient, like the final observation and info, is of the episode that ended.
                ended = {k: row.pop(k) for k in ("final_obs", "final_info", "action_gradient") if k in row}
                self.reset_infos[i] = row
                rows[i] = ended.pop("final_info") | {"terminal_observation": ended.pop("final_obs")} | ended
            rows[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return observations, rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        """Closes the environment."""
        self.venv.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Returns an attribute of the whole batch, in a list of one."""
        if attr_name == "render_mode":  # SB3 asks each VecEnv for this one, and expects one a student
            return [self.venv.render_mode] * self.num_envs
        return [getattr(self._holder(attr_name), attr_name)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of the whole batch."""
        setattr(self._holder(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of the whole batch, once, and returns its result in a list of one."""
        return [getattr(self._holder(method_name), method_name)(*method_args, **method_kwargs)]

    def _holder(self, name: str) -> gym.vector.VectorEnv[Any, Any, Any]:
        """Returns the outermost wrapper that has the attribute, or the environment itself."""
        env = self.venv
        while isinstance(env, gym.vector.VectorWrapper) and not hasattr(env, name):
            env = env.env
        return env

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Returns False for each student: wrappers of single environments are never around a batch."""
        return [False] * self.num_envs

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Returns None for each student: the batch does not render."""
        return [None] * self.num_envs


def as_vec_env(env: Any) -> Any:
    """Adapts a Gymnasium vector environment as a monitored `VecEnv`; everything else is returned as it is.

    The environments of a `SyncVectorEnv` go into SB3's own vector environment, which shows what each of them has.

    Raises:
        ValueError: a vector environment that does not reset in the step that ends an episode, or students in one of
            Gymnasium's own that hides them, since it has other processes or wrappers around all.
    """
    if not isinstance(env, gym.vector.VectorEnv):
        return env
    if isinstance(env, gym.vector.SyncVectorEnv):
        return VecMonitor(DummyVecEnv([partial(_itself, member) for member in env.envs]))
    batch = env.unwrapped
    gyms = gym.vector.SyncVectorEnv, gym.vector.AsyncVectorEnv
    if isinstance(batch, gyms) and any(batch.call("has_wrapper_attr", "problem")):
        raise ValueError(
            f"found {env}, behind which teachers cannot see the students: its environments are in other processes, or "
            "in wrappers around all of them; make it by "
            "stable_baselines3.common.vec_env.SubprocVecEnv([lambda: gym.make(...)] * 4), and wrap each environment"
        )
    return VecMonitor(GymVecEnv(env))


def _itself(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env


def _rows(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Returns each student's part of a vector environment's infos, numbers as Python numbers."""
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        column = _rows(value, count) if isinstance(value, dict) else value
        if isinstance(column, np.ndarray) and column.ndim == 1:
            column = column.tolist()
        mask = infos.get(f"_{key}")
        for i in range(count) if mask is None or mask.all() else np.flatnonzero(mask).tolist():
            rows[i][key] = column[i]
    return rows
