"""What students cost, and what ale-py's batches of games save: environment steps a second, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from agents import AtariVecEnv
from agents.atari import register_games
from benchmarks.lot_atari.methods import Method
from benchmarks.lot_atari.work import Training, make_model

LEARNERS = {
    "ppo": Method(),
    "lot:n-1": Method(students=1),
    "lot:n-5": Method(students=1, student_steps=5),
}
"""Compared with the first."""
ENVIRONMENTS = ("make_atari_env", "ale-vector")
"""Compared with the first, which is SB3's stack of wrappers around single games."""


def learners(training: Training, turns: int, threads: int) -> dict[str, list[float]]:
    """Steps a second of PPO with and without students, in turns in one process.

    Args:
        training: the game.
        turns: rollouts, with their updates, of each.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    env = training.make_env(0)
    models = {name: make_model(training, method, env, 0) for name, method in LEARNERS.items()}
    steps = training.num_envs * training.options["n_steps"]
    calls: dict[str, Callable[[], Any]] = {
        name: partial(model.learn, steps, reset_num_timesteps=False) for name, model in models.items()
    }
    found = _in_turns(calls, steps, turns)
    env.close()
    return found


def environments(game: str, num_envs: int, steps: int, turns: int, threads: int) -> dict[str, list[float]]:
    """Steps a second of games under random actions, in turns in one process.

    Args:
        game: as `AtariVecEnv` takes it.
        num_envs: games side by side.
        steps: of all games, in a turn.
        turns: of each.
        threads: of ale-py.
    """
    register_games()
    made: dict[str, VecEnv] = {
        "make_atari_env": VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", num_envs, seed=0), 4),
        "ale-vector": AtariVecEnv(game, num_envs, seed=0, threads=threads),
    }
    for env in made.values():
        env.reset()
    rng = np.random.default_rng(0)

    def played(env: VecEnv) -> None:
        for _ in range(steps // num_envs):
            env.step(rng.integers(env.action_space.n, size=num_envs))  # type: ignore[attr-defined]

    found = _in_turns({name: partial(played, env) for name, env in made.items()}, steps, turns)
    for env in made.values():
        env.close()
    return found


def _in_turns(calls: dict[str, Callable[[], Any]], steps: int, turns: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            # The first turn warms up.
            if turn:
                found[name].append(steps / (time.perf_counter() - start))
    return found
