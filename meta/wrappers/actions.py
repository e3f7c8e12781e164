"""What wrappers between a teacher and its `TeachEnv` do to actions, and the derivative of that.

A gradient teacher differentiates the action that reaches the environment. A wrapper in between that changes it has a
derivative of its own, and without it the teacher would learn something else: with a flipped sign, to harm. It is known
of `RescaleAction` (a constant) and of `ClipAction` (1 within the bounds, 0 beyond). Every other wrapper that is known
to change actions, rewards or the number of steps is refused when the gradient is asked for, by name; what another one
does is compared with what the environment got, at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import wrappers
from gymnasium.vector import VectorActionWrapper, VectorRewardWrapper, VectorWrapper
from gymnasium.wrappers import vector

_ROUNDING = 1e-5


def wrappers_of(env: Any, until: type[Any] | None = None) -> Iterator[Any]:
    """Yields the wrappers of an environment, single or vector, the outermost first.

    Args:
        env: the environment.
        until: the class of wrapper at which to stop; None: go through all of them.
    """
    while isinstance(env, gym.Wrapper | VectorWrapper) and not (until is not None and isinstance(env, until)):
        yield env
        env = env.env


def is_wrapped(env: Any, wrapper: type[Any]) -> bool:
    """Whether a wrapper of this class is around the environment."""
    return any(isinstance(outer, wrapper) for outer in wrappers_of(env))


def _of_rescaling(wrapper: Any, action: np.ndarray) -> np.ndarray:
    inner, outer = wrapper.env.action_space, wrapper.action_space
    return np.broadcast_to((inner.high - inner.low) / (outer.high - outer.low), action.shape)


def _of_clipping(wrapper: Any, action: np.ndarray) -> np.ndarray:
    bounds = wrapper.env.action_space
    return np.asarray((action >= bounds.low) & (action <= bounds.high), dtype=action.dtype)


_KNOWN: dict[type[Any], Callable[[Any, np.ndarray], np.ndarray]] = {
    wrappers.RescaleAction: _of_rescaling,
    wrappers.ClipAction: _of_clipping,
    vector.RescaleAction: _of_rescaling,
    vector.ClipAction: _of_clipping,
}
"""(wrapper, action that it is given) to the derivative of what it passes on, by exact class: a subclass may differ."""

_STEPPING = tuple(
    getattr(wrappers, name)
    for name in ("Autoreset", "RepeatAction", "MaxAndSkipObservation", "AtariPreprocessing")
    if hasattr(wrappers, name)  # Gymnasium 1.1 has not all of them
)
_REWARDING = (gym.RewardWrapper, VectorRewardWrapper, wrappers.NormalizeReward, vector.NormalizeReward)


def _changes_actions(wrapper: Any) -> bool:
    return isinstance(wrapper, gym.ActionWrapper | VectorActionWrapper)


def check_actions_unchanged(env: Any, caller: str, until: type[Any] | None = None) -> None:
    """Refuses an environment with a wrapper that changes actions, whether its derivative is known or not.

    Args:
        env: the environment with its wrappers.
        caller: the name of the teacher or wrapper that asks, for the message.
        until: only wrappers outside this one are of interest.

    Raises:
        ValueError: a wrapper changes actions.
    """
    for wrapper in wrappers_of(env, until):
        if _changes_actions(wrapper) or isinstance(wrapper, _STEPPING):
            remedy = f"put meta.{until.__name__} outside of it" if until else "leave it out"
            raise ValueError(f"{type(wrapper).__name__} changes the actions that {caller} learns from: {remedy}")


class Passage:
    """The way of actions through the wrappers inside of a gradient's.

    Args:
        env: the environment that the gradient's wrapper is put around.
        caller: the name of the gradient's wrapper, for messages.

    Raises:
        ValueError: a wrapper whose part in the gradient is not known.
    """

    def __init__(self, env: Any, caller: str) -> None:
        """Looks at each wrapper, and refuses those whose derivative is not known."""
        self.env, self.all, self.known = env, list(wrappers_of(env)), []
        for wrapper in self.all:
            name = type(wrapper).__name__
            if type(wrapper) in _KNOWN:
                self.known.append(wrapper)
            elif _changes_actions(wrapper):
                raise ValueError(
                    f"{name} changes actions in a way whose derivative is not known to {caller}: use RescaleAction or "
                    f"ClipAction, or leave it out"
                )
            elif isinstance(wrapper, _STEPPING):
                raise ValueError(f"{name} takes other steps than {caller} asks for: leave it out")
            elif isinstance(wrapper, _REWARDING):
                raise ValueError(
                    f"{name} changes rewards, but the gradient is that of the environment's own return: put it "
                    f"outside, {name}(meta.{caller}(env))"
                )

    @property
    def outermost_bounded(self) -> Any:
        """The outermost environment whose actions have bounds: teachers act in a box, which `ClipAction` hides."""
        env = self.env
        while env in self.known and not (np.isfinite(env.action_space.low) & np.isfinite(env.action_space.high)).all():
            env = env.env
        return env

    def through(self, action: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Takes an action through the wrappers: what each makes of it, the innermost last.

        Args:
            action: the action as it comes in, (n,) or (B, n).

        Returns:
            (the action that reaches the environment, its derivative with respect to the action that came in, of the
            same shape; None if that is 1).
        """
        inner_action, slope = np.asarray(action), None
        for wrapper in self.known:
            inner_slope = _KNOWN[type(wrapper)](wrapper, inner_action)
            slope = inner_slope if slope is None else slope * inner_slope
            change = wrapper.action if isinstance(wrapper, gym.ActionWrapper) else wrapper.actions
            inner_action = np.asarray(
                change(inner_action.copy())
            )  # a copy: vector wrappers write into what they are given
        return inner_action, slope

    def check(self, expected: np.ndarray, received: torch.Tensor) -> None:
        """Compares an action with what the environment received.

        Raises:
            RuntimeError: the two differ, since some wrapper changed the action.
        """
        if not np.allclose(expected, received.cpu().numpy(), rtol=0, atol=_ROUNDING):
            names = ", ".join(type(wrapper).__name__ for wrapper in self.all) or "nothing"
            raise RuntimeError(
                f"the action that reached the environment is not the one that was taken, so that its gradient would be "
                f"of another one: one of the wrappers in between ({names}) changes actions; leave it out"
            )


def wrapped_once(env: Any, wrapper: type[Any], teacher: str, *options: Any) -> Any:
    """Puts an environment into the wrapper that a teacher needs, or checks the wrappers outside one that is there.

    Args:
        env: the environment, single or vector.
        wrapper: the class of the wrapper.
        teacher: the name of the teacher's class, for messages.
        *options: arguments of the wrapper after the environment.

    Raises:
        ValueError: a wrapper outside of it changes actions.
    """
    if not is_wrapped(env, wrapper):
        return wrapper(env, *options)
    check_actions_unchanged(env, teacher, until=wrapper)
    return env
