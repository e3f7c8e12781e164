"""What students cost, and what ale-py's batches of games save: environment steps a second, side by side."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from agents import AtariVecEnv
from agents.atari import register_games
from benchmarks.lot_atari.methods import Method
from benchmarks.lot_atari.work import Training, make_model
from teachenv.experiment.cases import Outcome
from teachenv.experiment.processes import alone
from teachenv.experiment.timing import Times, in_turns, seconds_of

GAME_STEPS = 2_048
"""Steps of all games together in a turn of the environments."""
LEARNERS = {
    "ppo": Method(),
    "lot:n-1": Method(students=1),
    "lot:n-5": Method(students=1, student_steps=5),
}
"""Methods whose learning is timed, by name; each is compared with the first."""
ENVIRONMENTS = ("make_atari_env", "ale-vector")
"""Ways to run games that are timed; each is compared with the first, SB3's stack of wrappers around single games."""


def measure(baseline: str, training: Training, turns: int, folder: Path) -> Outcome:
    """Steps a second of learners, or of environments, and their ratio to the first of them.

    Args:
        baseline: the contender that the others are compared with.
        training: the game, with PPO's settings there.
        turns: how many each takes.
        folder: is not used.
    """
    steps, times = alone(learners if baseline in LEARNERS else environments, training=training, turns=turns)
    outcomes = {
        name: Outcome(
            values={"ratio": times.ratio(baseline, name), "steps_per_second": steps / times.median(name)},
            student_steps=0,
            seconds=0.0,
            versions={"matmul_precision": "medium"},
        )
        for name in times.turns
    }
    return replace(outcomes.pop(baseline), others=outcomes)


def learners(training: Training, turns: int) -> tuple[int, Times]:
    """Runs in a process of its own: steps of a rollout, and times of it with its updates, with and without students."""
    env = training.make_env(0)
    models = {name: make_model(training, method, env, 0) for name, method in LEARNERS.items()}
    steps = training.num_envs * training.options["n_steps"]
    calls = {
        name: partial(seconds_of, partial(model.learn, steps, reset_num_timesteps=False))
        for name, model in models.items()
    }
    times = in_turns(calls, turns)
    env.close()
    return steps, times


def environments(training: Training, turns: int) -> tuple[int, Times]:
    """Runs in a process of its own: steps of all games in a turn, and times of them under random actions."""
    register_games()
    game, num_envs = training.environment, training.num_envs
    envs: dict[str, VecEnv] = {
        "make_atari_env": VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", num_envs, seed=0), 4),
        "ale-vector": AtariVecEnv(game, num_envs, seed=0, threads=torch.get_num_threads()),
    }
    for env in envs.values():
        env.reset()
    rng = np.random.default_rng(0)

    def play(env: VecEnv) -> None:
        for _ in range(GAME_STEPS // num_envs):
            env.step(rng.integers(env.action_space.n, size=num_envs))  # type: ignore[attr-defined]

    times = in_turns({name: partial(seconds_of, play, env) for name, env in envs.items()}, turns)
    for env in envs.values():
        env.close()
    return GAME_STEPS, times
