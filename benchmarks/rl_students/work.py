"""One teacher: it learns from some students, and is measured by others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import meta
from agents import DDPG
from teachenv.experiment.cases import Outcome

# Fresh students of seed s have the seeds s · 1,000 + 1,000,000 and on: no teacher has learned from them.
_FRESH, _APART = 1_000_000, 1_000


@dataclass(frozen=True)
class Setting:
    """What is taught, and what is spent on it.

    Attributes:
        task: the control task.
        trainings: students that a teacher learns from.
        students: fresh students that it is measured by.
        options: of the environment, beside its defaults.
    """

    task: str
    trainings: int
    students: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> gym.Env[Any, Any]:
        """Makes the environment."""
        return gym.make("TeachControl-v0", task=self.task, **self.options)


class Taught(NamedTuple):
    """A student's training.

    Attributes:
        actions: (updates, coordinates).
        objectives: J before the first update and after each, (updates + 1,).
        numbers: what `evaluate("test")` gave.
        info: of the last step.
    """

    actions: np.ndarray
    objectives: list[float]
    numbers: dict[str, float]
    info: dict[str, Any]


def _bandit(env: Any, seed: int) -> Any:
    return meta.Bandit("ArmsPolicy", env, exploration=0.1, policy_kwargs={"arms": 16}, seed=seed)


def _evolution(env: Any, seed: int) -> Any:
    return meta.EvolutionStrategies("AttentionPolicy", env, learning_rate=0.1, sigma=0.5, seed=seed)


def _ddpg(env: Any, seed: int) -> Any:
    return DDPG(
        "AttentionPolicy",
        env,
        learning_rate=1e-3,
        noise=0.3,
        action_penalty=1.0,
        learning_starts=50,
        batch_size=64,
        policy_kwargs={"net_arch": {"pi": [], "qf": [64, 64]}},
        seed=seed,
    )


def _random(env: Any, seed: int) -> Any:
    return meta.RandomTeacher("RandomPolicy", env, policy_kwargs={"seed": seed}, seed=seed)


def _none(env: Any, seed: int) -> Any:
    return meta.ConstantTeacher("ConstantPolicy", env, seed=seed)


UNTAUGHT, SELF_TUNED = "ppo", "meta-gradient"
TEACHERS: dict[str, Callable[[Any, int], Any]] = {
    UNTAUGHT: _none,
    "random": _random,
    "bandit": _bandit,
    "evolution-strategies": _evolution,
    "ddpg": _ddpg,
}
LEARNING = ("bandit", "evolution-strategies", "ddpg")
METHODS = (*TEACHERS, SELF_TUNED)
"""Plain PPO, random actions, three teachers that learn from other students, and students that tune themselves."""


def teach(setting: Setting, method: str, seed: int, folder: Path) -> Outcome:
    """Lets a teacher learn, and measures it by fresh students.

    Args:
        setting: what is taught.
        method: who teaches, one of `METHODS`.
        seed: of teacher and students; fresh students of one seed are the same under each teacher.
        folder: not needed; a case takes minutes.

    Returns:
        `episode_return`, the mean over fresh students of their mean return in test episodes; `dev_objective`, the mean
        of their J; `teacher_moved`, the mean size of a coordinate of the actions that they got; `diverged`, the share
        that did. With them come the `curve` (update, mean J), the `actions` (updates, coordinates), means over
        students, and the students' `env_steps` in all, those that the teacher learned from included.
    """
    start, env, learned = time.perf_counter(), setting.make(), 0
    settings: Any = env.get_wrapper_attr("problem").settings
    teacher = TEACHERS[method](env, seed) if method in TEACHERS else None
    if teacher is not None and method in LEARNING:
        teacher.learn(setting.trainings * settings.horizon)
        learned = teacher.num_timesteps
    taught = [_taught(setting, teacher, seed * _APART + _FRESH + i) for i in range(setting.students)]
    actions = np.mean([_filled(one.actions, settings.horizon) for one in taught], axis=0)
    curve = np.mean([_filled(np.array(one.objectives), settings.horizon + 1) for one in taught], axis=0)
    updates = learned + sum(len(one.actions) for one in taught)
    return Outcome(
        values={
            "diverged": float(np.mean([one.info["diverged"] for one in taught])),
            "teacher_moved": float(np.mean([np.abs(one.actions).mean() for one in taught])),
            "dev_objective": float(np.mean([one.info["objective"] for one in taught])),
            "episode_return": float(np.mean([one.numbers["test_return"] for one in taught])),
        },
        student_steps=updates,
        seconds=time.perf_counter() - start,
        data={
            "curve": [[i, float(value)] for i, value in enumerate(curve)],
            "actions": actions.round(4).tolist(),
            "control": list(settings.control),
            "env_steps": updates * settings.copies * settings.rollout_steps,
        },
    )


def _taught(setting: Setting, teacher: Any, seed: int) -> Taught:
    """One fresh student's training under a teacher; None: it tunes itself."""
    env = setting.make()
    inner: Any = env.unwrapped
    if teacher is None:
        tuned = meta.self_tune(env, learning_rate=0.1, seed=seed)
        return Taught(tuned.actions, tuned.objectives, inner.evaluate("test"), tuned.info)
    observation, info = env.reset(seed=seed)
    actions, objectives, ended = [], [info["objective"]], False
    while not ended:
        action, _ = teacher.predict(observation, deterministic=True)
        observation, _, ended, _, info = env.step(action)
        actions.append(action)
        objectives.append(info["objective"])
    return Taught(np.stack(actions), objectives, inner.evaluate("test"), info)


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """A series as long as a whole training run; of a student that diverged, its last value goes on."""
    return np.concatenate([values, np.repeat(values[-1:], length - len(values), axis=0)])
