"""Atari games for Stable-Baselines3; skipped where ale-py is not installed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from agents import AtariVecEnv, LoTPPO, learn_in_segments
from agents.atari import AtariOptions, record_game, register_games
from agents.atari_game import GAMES, rom_name
from teachenv.checks import options_of

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
    assert {rom_name(game)} == {rom_name(name) for name in (f"ALE/{game}-v5", f"{game}NoFrameskip-v4", env.options.rom)}


def test_games_are_a_function_of_the_seed() -> None:
    first, again, other = (play(AtariVecEnv("Breakout", 2), 100, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("game", "steps", "threads"), [(g, 350 if g == "Breakout" else 60, i % 2) for i, g in enumerate(GAMES)]
)
def test_games_are_sb3s_frame_by_frame(game: str, steps: int, threads: int) -> None:
    """Observations, rewards, ends and returns of the wrappers that SB3's own results are made with."""
    register_games()
    # Without idle frames at the start, whose number each draws from a generator of its own.
    single = make_atari_env(f"{game}NoFrameskip-v4", 2, wrapper_kwargs={"noop_max": 0})
    sb3s, ours = VecFrameStack(single, 4), AtariVecEnv(game, 2, noop_max=0, threads=threads)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(ours.reset(), sb3s.reset().transpose(0, 3, 1, 2))
    ends = games = 0
    for _ in range(steps):
        actions = rng.integers(ours.action_space.n, size=2)  # type: ignore[attr-defined]
        wanted, wanted_rewards, wanted_dones, wanted_infos = sb3s.step(actions)
        found, rewards, dones, infos = ours.step(actions)
        np.testing.assert_array_equal(found, wanted.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(rewards, wanted_rewards)
        np.testing.assert_array_equal(dones, wanted_dones)
        for i in np.flatnonzero(dones):
            ends += 1
            last, wanted_last = (row[i]["terminal_observation"] for row in (infos, wanted_infos))
            assert ("episode" in infos[i]) == ("episode" in wanted_infos[i])
            if "episode" in infos[i]:
                games += 1
                assert infos[i]["episode"]["r"] == wanted_infos[i]["episode"]["r"]
                last, wanted_last = last[:-1], wanted_last[..., :-1]  # what ale-py does not draw
            np.testing.assert_array_equal(last, wanted_last.transpose(2, 0, 1))
    if game == "Breakout":
        assert ends > games > 0


def test_a_truncated_games_last_frame_is_drawn() -> None:
    ends = [AtariVecEnv("Breakout", 1, noop_max=0, max_frames=frames) for frames in (80, 120)]
    for env in ends:
        env.reset()
    for _ in range(40):
        (_, _, dones, (info,)), (longer, _, _, _) = (env.step(np.full(1, 3)) for env in ends)
        if dones[0] and info["TimeLimit.truncated"]:
            np.testing.assert_array_equal(info["terminal_observation"], longer[0])
            return
    raise AssertionError("no game was truncated")


def test_a_game_that_is_too_long_is_truncated() -> None:
    env = AtariVecEnv("Breakout", 1, max_frames=120)
    _, *steps = play(env, 60)
    # A game may also reach the limit in the hidden moves after a lost life, as in SB3.
    last = [(seen, info) for seen, _, _, (info,) in steps if info.get("TimeLimit.truncated")]
    assert last
    for begun, info in last:
        assert "episode" in info
        assert not np.array_equal(info["terminal_observation"], begun[0])


def test_every_life_begins_with_fire() -> None:
    """With NOOP alone the ball of Breakout would lie still after the first life."""
    env = AtariVecEnv("Breakout", 1, seed=0)
    env.reset()
    lives = [int(env.step(np.zeros(1, dtype=int))[3][0]["lives"]) for _ in range(400)]
    assert {4, 3, 2, 1, 0} <= set(lives)


def test_whole_games_and_true_rewards() -> None:
    env = AtariVecEnv("UpNDown", 1, seed=0, lives=False, clip_rewards=False)
    steps = play(env, 700)[1:]
    (rewards, dones, infos) = zip(*((r[0], d[0], i[0]) for _, r, d, i in steps), strict=True)
    assert max(rewards) > 1
    first = dones.index(True)
    assert infos[first]["lives"] == 0
    assert infos[first]["episode"]["l"] == first + 1
    assert infos[first]["episode"]["r"] == pytest.approx(sum(rewards[: first + 1]), abs=100)


def test_lot_ppo_without_the_regulariser_is_ppo_bitwise_on_breakout() -> None:
    plain = PPO("CnnPolicy", AtariVecEnv("Breakout", 2), **SMALL).learn(64)
    ours = LoTPPO("CnnPolicy", AtariVecEnv("Breakout", 2), alpha=0.0, student_steps=2, **SMALL).learn(64)
    theirs = plain.policy.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.policy.state_dict().items())
    assert ours.lot.teacher_steps == 4


def test_a_trained_policy_is_filmed(tmp_path: Path) -> None:
    model = PPO("CnnPolicy", AtariVecEnv("Breakout", 1), **SMALL)
    for _ in range(2):
        record_game(model, "Breakout", tmp_path / "breakout.mp4", max_steps=20)
    assert [file.name for file in tmp_path.iterdir()] == ["breakout.mp4"]
    assert (tmp_path / "breakout.mp4").stat().st_size > 1000


def test_an_unknown_game_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown Atari game 'Brakeout'; known are, for example, breakout"):
        AtariVecEnv("Brakeout")


@pytest.mark.parametrize(
    "changed",
    [
        {"game": "Gravitar", "num_envs": 1},
        {"lives": False},
        {"clip_rewards": False},
        {"noop_max": 5},
        {"frame_skip": 2},
        {"max_frames": 400},
        {"sticky": 0.25},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_file_of_another_game_is_refused(changed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    def model(**options: Any) -> PPO:
        env = AtariVecEnv(**{"game": "Breakout", "num_envs": 1, **options})
        return PPO("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, **SMALL)

    path = tmp_path_factory.getbasetemp() / "of_breakout.zip"
    learn_in_segments(model(), 16, path)
    with pytest.raises(ValueError, match=r"they differ in .*environment"):
        learn_in_segments(model(**changed), 32, path)


def test_options_are_those_of_its_constructor() -> None:
    """All of them but seed, threads and the number of games."""
    beside = {"num_envs", "seed", "threads", "game"}
    assert options_of(AtariVecEnv) - beside == {each.name for each in fields(AtariOptions)} - {"rom"}
