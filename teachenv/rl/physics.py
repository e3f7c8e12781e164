"""CartPole, Acrobot and Pendulum as pure functions of many states at once, equal to Gymnasium's step for step.

A student that learns by reinforcement is a value like every other student, and so is the world that it acts in: the
state of each copy is a row of numbers. All functions take states of shape (..., state coordinates).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

Stepped = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The next states, the rewards (...,), and whether the episodes have ended (...,); not by their time limit."""


class Physics(Protocol):
    """A control task.

    Attributes:
        state_size: how many numbers a state has.
        observation_size: how many numbers are observed.
        choices: how many actions there are to choose from; 0: an action is a number in [-bound, bound].
        bound: the largest size of an action that is a number.
        limit: steps after which an episode is cut off.
        returns: the lowest and the highest return of an episode that there can be.
    """

    state_size: ClassVar[int]
    observation_size: ClassVar[int]
    choices: ClassVar[int]
    bound: ClassVar[float]
    limit: ClassVar[int]
    returns: ClassVar[tuple[float, float]]

    def begin(self, uniform: np.ndarray) -> np.ndarray:
        """The first states of episodes, made of numbers that are uniform in [0, 1), of the states' shape."""
        ...

    def observe(self, state: np.ndarray) -> np.ndarray:
        """What is observed of states, (..., observation_size)."""
        ...

    def step(self, state: np.ndarray, action: np.ndarray) -> Stepped:
        """One step; actions are whole numbers (...,), or numbers (..., 1), which are clipped to their bound."""
        ...


@dataclass(frozen=True)
class CartPole:
    """`CartPole-v1` (Barto, Sutton and Anderson 1983): a reward of 1 for each step that the pole stands."""

    state_size: ClassVar[int] = 4
    observation_size: ClassVar[int] = 4
    choices: ClassVar[int] = 2
    bound: ClassVar[float] = 0.0
    limit: ClassVar[int] = 500
    returns: ClassVar[tuple[float, float]] = (0.0, 500.0)

    def begin(self, uniform: np.ndarray) -> np.ndarray:
        """Near the upright position at rest."""
        return 0.1 * uniform - 0.05

    def observe(self, state: np.ndarray) -> np.ndarray:
        """The state itself: position, speed, angle, angular speed."""
        return state

    def step(self, state: np.ndarray, action: np.ndarray) -> Stepped:
        """Euler's step of 0.02 s under a force of ±10 N."""
        x, speed, angle, turning = np.moveaxis(state, -1, 0)
        force = np.where(action == 1, 10.0, -10.0)
        cos, sin = np.cos(angle), np.sin(angle)
        push = (force + 0.05 * np.square(turning) * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3.0 - 0.1 * np.square(cos) / 1.1))
        pull = push - 0.05 * turn * cos / 1.1
        after = np.stack([x + 0.02 * speed, speed + 0.02 * pull, angle + 0.02 * turning, turning + 0.02 * turn], -1)
        fallen = (np.abs(after[..., 0]) > 2.4) | (np.abs(after[..., 2]) > 12 * 2 * np.pi / 360)
        return after, np.ones(fallen.shape), fallen


@dataclass(frozen=True)
class Acrobot:
    """`Acrobot-v1` (Sutton 1996): −1 for each step until the tip swings above the line."""

    state_size: ClassVar[int] = 4
    observation_size: ClassVar[int] = 6
    choices: ClassVar[int] = 3
    bound: ClassVar[float] = 0.0
    limit: ClassVar[int] = 500
    returns: ClassVar[tuple[float, float]] = (-500.0, 0.0)

    def begin(self, uniform: np.ndarray) -> np.ndarray:
        """Hanging down, nearly at rest."""
        return 0.2 * uniform - 0.1

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Cosine and sine of both angles, and their speeds."""
        first, second = state[..., 0], state[..., 1]
        angles = [np.cos(first), np.sin(first), np.cos(second), np.sin(second)]
        return np.stack([*angles, state[..., 2], state[..., 3]], -1)

    def step(self, state: np.ndarray, action: np.ndarray) -> Stepped:
        """A Runge-Kutta step of 0.2 s under a torque of −1, 0 or 1 on the joint."""
        torque, half = np.asarray(action) - 1.0, 0.1
        k1 = _swing(state, torque)
        k2 = _swing(state + half * k1, torque)
        k3 = _swing(state + half * k2, torque)
        k4 = _swing(state + 0.2 * k3, torque)
        after = state + 0.2 / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles = (after[..., :2] + np.pi) % (2 * np.pi) - np.pi
        fastest = np.array([4 * np.pi, 9 * np.pi])
        after = np.concatenate([angles, np.clip(after[..., 2:], -fastest, fastest)], -1)
        up = -np.cos(after[..., 0]) - np.cos(after[..., 1] + after[..., 0]) > 1.0
        return after, np.where(up, 0.0, -1.0), up


def _swing(state: np.ndarray, torque: np.ndarray) -> np.ndarray:
    """The derivative of Acrobot's state, as in Sutton and Barto's book."""
    first, second, speed, turning = np.moveaxis(state, -1, 0)
    cos, sin = np.cos(second), np.sin(second)
    d1 = 0.25 + (1.25 + cos) + 2.0
    d2 = 0.25 + 0.5 * cos + 1.0
    phi2 = 4.9 * np.cos(first + second - np.pi / 2)
    phi1 = -0.5 * np.square(turning) * sin - turning * speed * sin + 14.7 * np.cos(first - np.pi / 2) + phi2
    second_turn = (torque + d2 / d1 * phi1 - 0.5 * np.square(speed) * sin - phi2) / (1.25 - np.square(d2) / d1)
    return np.stack([speed, turning, -(d2 * second_turn + phi1) / d1, second_turn], -1)


@dataclass(frozen=True)
class Pendulum:
    """`Pendulum-v1`: minus a cost of angle, speed and torque for each of 200 steps."""

    state_size: ClassVar[int] = 2
    observation_size: ClassVar[int] = 3
    choices: ClassVar[int] = 0
    bound: ClassVar[float] = 2.0
    limit: ClassVar[int] = 200
    returns: ClassVar[tuple[float, float]] = (-200 * (np.pi**2 + 0.1 * 8.0**2 + 0.001 * 2.0**2), 0.0)

    def begin(self, uniform: np.ndarray) -> np.ndarray:
        """At any angle, with any speed up to 1."""
        first: np.ndarray = (2 * uniform - 1) * np.array([np.pi, 1.0])
        return first

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Cosine and sine of the angle, and its speed."""
        return np.stack([np.cos(state[..., 0]), np.sin(state[..., 0]), state[..., 1]], -1)

    def step(self, state: np.ndarray, action: np.ndarray) -> Stepped:
        """Euler's step of 0.05 s under a torque of at most 2."""
        angle, speed = state[..., 0], state[..., 1]
        torque = np.clip(action[..., 0], -2.0, 2.0)
        wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
        cost = np.square(wrapped) + 0.1 * np.square(speed) + 0.001 * np.square(torque)
        speed = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        return np.stack([angle + speed * 0.05, speed], -1), np.negative(cost), np.zeros(angle.shape, bool)


PHYSICS: dict[str, Physics] = {"CartPole-v1": CartPole(), "Acrobot-v1": Acrobot(), "Pendulum-v1": Pendulum()}
"""The control tasks, by Gymnasium's names."""
