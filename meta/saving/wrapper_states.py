"""What SB3's and Gymnasium's wrappers around an environment remember of the episodes under way, as a value.

A snapshot of an environment (`get_state`) knows nothing of a monitor around it, which adds up the episode's rewards, or
of a time limit. Without them a training run that goes on in mid-episode logs a wrong episode, or ends it late.

Of SB3's wrappers the tables below say what they remember. Of all others, Gymnasium's and your own, it is whatever
attributes are plain values: numbers, text, arrays, and containers and objects of these. A wrapper that has `get_state`
and `set_state` is left to them. Out of reach are wrappers in the processes of a `SubprocVecEnv`, but for those in the
tables.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize

from meta.wrappers.vec_env import GymVecEnv
from teachenv.fingerprints import describe

_OF_BATCHES: dict[type[VecEnvWrapper], tuple[str, ...]] = {
    VecMonitor: ("episode_returns", "episode_lengths", "episode_count"),
    VecNormalize: ("obs_rms", "ret_rms", "returns", "old_obs", "old_reward"),
    VecFrameStack: ("stacked_obs.stacked_obs",),
}
_OF_SINGLE: dict[type[gym.Wrapper[Any, Any, Any, Any]], tuple[str, ...]] = {
    Monitor: ("rewards", "needs_reset", "total_steps"),
    TimeLimit: ("_elapsed_steps",),
}


_PLAIN = (bool, int, float, str, bytes, np.random.Generator, torch.Tensor)
# What `gymnasium.make` puts around everything: no step depends on what they remember.
_OF_NO_MATTER = (OrderEnforcing, PassiveEnvChecker)
# Of Gymnasium's wrappers: the arguments that they were made with.
_ARGUMENTS = "_saved_kwargs"


def wrapper_states(env: VecEnv) -> list[Any]:
    """Returns (name, attribute, value) of wrappers around the batch; then of those around its parts, values a list.

    Last those that are in no table: of these the attribute is `""` and the value a dictionary by attribute.
    """
    # VecNormalize has some of its attributes only from the first reset on.
    states = [[type(w).__name__, name, copy.deepcopy(recursive_getattr(w, name, None))] for w, name in _around(env)]
    for kind, name, where in _single(env):
        states.append([kind.__name__, name, copy.deepcopy(env.get_attr(name, where))])
    return states + [[type(w).__name__, "", _remembered(w)] for w in _others(env)]


def set_wrapper_states(env: VecEnv, states: list[Any]) -> None:
    """Puts the values of `wrapper_states` back.

    Raises:
        ValueError: the environment has other wrappers, or Gymnasium's were made with other arguments.
    """
    around, single, untabled = list(_around(env)), list(_single(env)), list(_others(env))
    present = [(type(w).__name__, name) for w, name in around] + [(kind.__name__, name) for kind, name, _ in single]
    present += [(type(wrapper).__name__, "") for wrapper in untabled]
    saved = [(kind, name) for kind, name, _ in states]
    if present != saved:
        raise ValueError(
            f"this checkpoint is of an environment with the wrappers {_listed(saved)}, found {_listed(present)}; wrap "
            "the environment as it was, or start anew with reset_num_timesteps=True"
        )
    values = [copy.deepcopy(value) for _, _, value in states]
    of_parts, of_others = values[len(around) :], values[len(around) + len(single) :]
    for wrapper, value in zip(untabled, of_others, strict=True):
        _check_arguments(wrapper, value)
    for (batch, name), value in zip(around, values, strict=False):
        recursive_setattr(batch, name, value)
    for (_, name, where), part_values in zip(single, of_parts, strict=False):
        for i, value in zip(where, part_values, strict=True):
            env.env_method("set_wrapper_attr", name, value, indices=i)
    for wrapper, value in zip(untabled, of_others, strict=True):
        _remember(wrapper, value)


def _around(env: VecEnv) -> Iterator[tuple[VecEnvWrapper, str]]:
    """Yields the wrappers of a batch, the outermost first, each with the name of an attribute."""
    while isinstance(env, VecEnvWrapper):
        for kind, names in _OF_BATCHES.items():
            if isinstance(env, kind):
                yield from ((env, name) for name in names)
        env = env.venv


def _single(env: VecEnv) -> Iterator[tuple[type, str, list[int]]]:
    """Yields the wrappers around single environments that the table has: class, attribute, environments' indices."""
    for kind, names in _OF_SINGLE.items():
        where = np.flatnonzero(env.env_is_wrapped(kind)).tolist()
        yield from ((kind, name, where) for name in names if where)


def _others(env: VecEnv) -> Iterator[Any]:
    """Yields the wrappers in no table, the outermost first, which may remember what no snapshot has."""
    chains = []
    while isinstance(env, VecEnvWrapper):
        if not isinstance(env, tuple(_OF_BATCHES)):
            chains.append(env)
        env = env.venv
    yield from chains
    for part in [env.venv] if isinstance(env, GymVecEnv) else getattr(env, "envs", []):
        while isinstance(part, gym.Wrapper | gym.vector.VectorWrapper):
            if not isinstance(part, (*_OF_SINGLE, *_OF_NO_MATTER)) and not hasattr(type(part), "get_state"):
                yield part
            part = part.env


def _remembered(holder: Any) -> dict[str, Any]:
    """Returns copies of an object's attributes that are plain values; objects made of such become dictionaries."""
    plain = {}
    for name, value in vars(holder).items():
        if _is_plain(value):
            plain[name] = copy.deepcopy(value)
        elif _is_record(value):
            plain[name] = _remembered(value)
    return plain


def _remember(holder: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name == _ARGUMENTS:
            continue
        if name in vars(holder) and _is_record(vars(holder)[name]):
            _remember(vars(holder)[name], value)
        else:
            setattr(holder, name, value)


def _check_arguments(wrapper: Any, values: dict[str, Any]) -> None:
    present, saved = _remembered(wrapper).get(_ARGUMENTS), values.get(_ARGUMENTS)
    if describe(present) != describe(saved):
        raise ValueError(
            f"this checkpoint is of an environment in a {type(wrapper).__name__} with {saved}, found one with "
            f"{present}; wrap the environment as it was, or start anew with reset_num_timesteps=True"
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject and value.dtype.kind not in "USMmV"
    if type(value) in (list, tuple, deque):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, np.bool_ | np.number) or type(value) in _PLAIN


def _is_record(value: Any) -> bool:
    """Whether an object is made of plain values alone, as running means are."""
    return hasattr(value, "__dict__") and not callable(value) and bool(vars(value)) and _is_plain(vars(value))


def _listed(names: list[tuple[str, str]]) -> str:
    return ", ".join(dict.fromkeys(kind for kind, _ in names)) or "of none"
