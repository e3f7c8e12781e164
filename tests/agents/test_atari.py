"""Atari games for Stable-Baselines3; skipped where ale-py is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents import AtariVecEnv, LoTPPO
from agents.atari import GAMES, record_game, rom_name, single_game

pytest.importorskip("ale_py")

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 1, "device": "cpu"}


def play(env: AtariVecEnv, steps: int, seed: int = 0) -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(seed)
    env.seed(seed)
    found: list[tuple[Any, ...]] = [(env.reset(),)]
    found += [env.step(rng.integers(env.action_space.n, size=env.num_envs)) for _ in range(steps)]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("game", GAMES)
def test_the_papers_games(game: str) -> None:
    env = AtariVecEnv(game, 2)
    (observation,), *_ = play(env, 30)
    assert observation.shape == (2, 4, 84, 84)
    assert env.observation_space.shape == (4, 84, 84)
    assert all(env.observation_space.contains(o) for o in observation)
    assert single_game(game).observation_space.shape == (4, 84, 84)
    assert {rom_name(game)} == {rom_name(name) for name in (f"ALE/{game}-v5", f"{game}NoFrameskip-v4", env.game)}


def test_games_are_a_function_of_the_seed() -> None:
    first, again, other = (play(AtariVecEnv("Breakout", 2), 100, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_returns_are_those_of_whole_games() -> None:
    env = AtariVecEnv("Gravitar", 2, max_frames=3000)
    plain = AtariVecEnv("Gravitar", 2, max_frames=3000, lives=False, clip_rewards=False)
    true, lengths = np.zeros(2), np.zeros(2, dtype=int)
    lost = ended = 0
    # Only fire presses after a lost life tell the two apart: so play with nothing but FIRE.
    for each in (env, plain):
        each.seed(2)
        each.reset()
    for _ in range(900):
        observations, rewards, dones, infos = env.step(np.ones(2, dtype=int))
        same, theirs, over, _ = plain.step(np.ones(2, dtype=int))
        assert np.array_equal(observations, same)
        assert np.array_equal(rewards, np.sign(theirs))
        true, lengths = true + theirs, lengths + 1
        for i in np.flatnonzero(dones):
            assert ("episode" in infos[i]) == over[i]
            assert infos[i]["terminal_observation"].shape == (4, 84, 84)
            lost += not over[i]
        for i in np.flatnonzero(over):
            assert infos[i]["episode"]["r"] == true[i]
            assert infos[i]["episode"]["l"] == lengths[i]
            true[i] = lengths[i] = 0
            ended += 1
    assert lost > 2
    assert ended > 1


def test_a_game_that_is_too_long_is_truncated() -> None:
    env = AtariVecEnv("Breakout", 1, max_frames=120)
    _, *steps = play(env, 60)
    last = [(observation, info) for observation, _, dones, (info,) in steps if dones[0] and "episode" in info]
    assert last
    for begun, info in last:
        assert info["TimeLimit.truncated"]
        assert not np.array_equal(info["terminal_observation"], begun[0])


def test_the_first_action_of_a_life_is_fire() -> None:
    """With NOOP alone the ball of Breakout would lie still after the first life."""
    env = AtariVecEnv("Breakout", 1, seed=0)
    env.reset()
    lives = [int(env.step(np.zeros(1, dtype=int))[3][0]["lives"]) for _ in range(400)]
    assert {4, 3, 2, 1, 0} <= set(lives)


def test_lot_ppo_without_the_regulariser_is_ppo_bitwise_on_breakout() -> None:
    plain = PPO("CnnPolicy", AtariVecEnv("Breakout", 2), **SMALL).learn(96)
    ours = LoTPPO("CnnPolicy", AtariVecEnv("Breakout", 2), alpha=0.0, student_steps=2, **SMALL).learn(96)
    theirs = plain.policy.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.policy.state_dict().items())
    assert ours.lot.teacher_steps == 6


def test_a_trained_policy_is_filmed(tmp_path: Path) -> None:
    model = PPO("CnnPolicy", AtariVecEnv("Breakout", 1), **SMALL)
    for _ in range(2):
        record_game(model, "Breakout", tmp_path / "breakout.mp4", max_steps=20)
    assert [file.name for file in tmp_path.iterdir()] == ["breakout.mp4"]
    assert (tmp_path / "breakout.mp4").stat().st_size > 1000


def test_an_unknown_game_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown Atari game 'Brakeout'; known are, for example, breakout"):
        AtariVecEnv("Brakeout")
