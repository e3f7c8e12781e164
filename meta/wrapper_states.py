"""What SB3's and Gymnasium's wrappers around an environment remember of the episodes under way, as a value.

A snapshot of an environment (`get_state`) knows nothing of a monitor around it, which adds up the episode's rewards, or
of a time limit. Without them a training that goes on in mid-episode logs a wrong episode, or ends it late.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize

_OF_BATCHES: dict[type[VecEnvWrapper], tuple[str, ...]] = {
    VecMonitor: ("episode_returns", "episode_lengths", "episode_count"),
    VecNormalize: ("obs_rms", "ret_rms", "returns", "old_obs", "old_reward"),
    VecFrameStack: ("stacked_obs.stacked_obs",),
}
_OF_SINGLE: dict[type[gym.Wrapper[Any, Any, Any, Any]], tuple[str, ...]] = {
    Monitor: ("rewards", "needs_reset", "total_steps"),
    TimeLimit: ("_elapsed_steps",),
}


def wrapper_states(env: VecEnv) -> list[Any]:
    """(name, attribute, value) of wrappers around the batch; then, values a list, of those around its parts."""
    states = [[type(w).__name__, name, copy.deepcopy(recursive_getattr(w, name))] for w, name in _around(env)]
    for kind, names in _OF_SINGLE.items():
        where = np.flatnonzero(env.env_is_wrapped(kind)).tolist()
        if where:
            states += [[kind.__name__, name, copy.deepcopy(env.get_attr(name, where))] for name in names]
    return states


def set_wrapper_states(env: VecEnv, states: list[Any]) -> None:
    """Puts the values of `wrapper_states` back.

    Raises:
        ValueError: the environment has other wrappers.
    """
    here = [(wrapper, name) for wrapper, name in _around(env)]
    single = [
        (kind, name, np.flatnonzero(env.env_is_wrapped(kind)).tolist())
        for kind, names in _OF_SINGLE.items()
        for name in names
        if any(env.env_is_wrapped(kind))
    ]
    present = [(type(w).__name__, name) for w, name in here] + [(kind.__name__, name) for kind, name, _ in single]
    saved = [(kind, name) for kind, name, _ in states]
    if present != saved:
        raise ValueError(
            f"this checkpoint is of an environment with the wrappers {_listed(saved)}, found {_listed(present)}; wrap "
            "the environment as it was, or start anew with reset_num_timesteps=True"
        )
    for (wrapper, name), (_, _, value) in zip(here, states, strict=False):
        recursive_setattr(wrapper, name, copy.deepcopy(value))
    for (_, name, where), (_, _, values) in zip(single, states[len(here) :], strict=True):
        for i, value in zip(where, values, strict=True):
            env.env_method("set_wrapper_attr", name, copy.deepcopy(value), indices=i)


def _around(env: VecEnv) -> Iterator[tuple[VecEnvWrapper, str]]:
    """The wrappers of a batch, the outermost first, each with its attributes."""
    while isinstance(env, VecEnvWrapper):
        for kind, names in _OF_BATCHES.items():
            if isinstance(env, kind):
                yield from ((env, name) for name in names)
        env = env.venv


def _listed(names: list[tuple[str, str]]) -> str:
    return ", ".join(dict.fromkeys(kind for kind, _ in names)) or "of none"
