"""A training that was killed ends where an unbroken one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import LoTPPO, Segments, learn_in_segments

TOTAL = 4 * 64
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 3, "device": "cpu"}

_SCRIPT = f"""
import sys, time
from pathlib import Path
from stable_baselines3.common.callbacks import BaseCallback
from agents import LoTPPO, learn_in_segments

class Slow(BaseCallback):
    def _on_step(self):
        if self.num_timesteps > 200:  # in the middle of the second segment
            Path(sys.argv[1]).with_suffix(".there").touch()
            time.sleep(600)
        return True

model = LoTPPO("MlpPolicy", "CartPole-v1", student_steps=2, **{SMALL!r})
learn_in_segments(model, {TOTAL}, sys.argv[1], rollouts=4, callback=Slow())
"""


class StopAt(BaseCallback):
    """Ends the training early, as an interruption does."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.timesteps:
            raise KeyboardInterrupt
        return True


def same(a: PPO, b: PPO) -> bool:
    found, expected = a.get_parameters(), b.get_parameters()
    assert found.keys() == expected.keys()
    return all(
        torch.equal(value, expected[name][key])
        for name, tensors in found.items()
        for key, value in tensors.items()
        if isinstance(value, torch.Tensor)
    )


def pendulum(env: Any = None, normalize: Any = None, wrapper: Any = lambda made: made, **options: Any) -> PPO:
    venv = DummyVecEnv([lambda: wrapper(gym.make("Pendulum-v1", **(env or {})))] * 2)
    env = VecNormalize(venv, **(normalize or {}))
    return PPO("MlpPolicy", env, use_sde=True, **{**SMALL, **options})


def cart_pole(**options: Any) -> LoTPPO:
    return LoTPPO("MlpPolicy", "CartPole-v1", student_steps=2, **{**SMALL, **options})


def test_a_killed_training_ends_where_an_unbroken_one_ends(tmp_path: Path) -> None:
    unbroken = learn_in_segments(cart_pole(), TOTAL, tmp_path / "unbroken.zip", rollouts=4)
    path = tmp_path / "killed.zip"
    # As many threads add up as many parts of a sum.
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(path)], env=threads)
    try:
        while not path.with_suffix(".there").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = cart_pole()
    resumed = learn_in_segments(resumed, TOTAL, path, rollouts=4)
    assert same(unbroken, resumed)
    assert resumed.num_timesteps == unbroken.num_timesteps == TOTAL
    assert resumed.lot.updates == unbroken.lot.updates == 2 * resumed.lot.teacher_steps
    assert [i["r"] for i in resumed.ep_info_buffer or ()] == [i["r"] for i in unbroken.ep_info_buffer or ()]
    finished = learn_in_segments(cart_pole(), TOTAL, path, rollouts=4)
    assert same(finished, unbroken)


@pytest.mark.parametrize("make", [pendulum, cart_pole])
def test_wherever_it_stops(make: Any, tmp_path: Path) -> None:
    unbroken = learn_in_segments(make(), TOTAL, tmp_path / "unbroken.zip", rollouts=2)
    for stop in (40, 140, 230):  # in the first segment, soon after another has begun, and in the last one
        file = tmp_path / f"{stop}.zip"
        with pytest.raises(KeyboardInterrupt):
            learn_in_segments(make(), TOTAL, file, rollouts=2, callback=[StopAt(stop)])
        resumed = learn_in_segments(make(), TOTAL, file, rollouts=2)
        assert same(unbroken, resumed), stop


def test_what_wrappers_remember_goes_on(tmp_path: Path) -> None:
    """Running means of Gymnasium's wrapper, which go on through all segments."""

    def made() -> PPO:
        env = DummyVecEnv([lambda: gym.wrappers.NormalizeObservation(gym.make("CartPole-v1"))])
        return PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=1, policy_kwargs={"net_arch": [4]})

    unbroken = learn_in_segments(made(), 64, tmp_path / "unbroken.zip", rollouts=1)
    with pytest.raises(KeyboardInterrupt):
        learn_in_segments(made(), 64, tmp_path / "stopped.zip", rollouts=1, callback=[StopAt(40)])
    assert same(unbroken, learn_in_segments(made(), 64, tmp_path / "stopped.zip", rollouts=1))


def test_a_segment_without_rollouts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 rollout, found rollouts=0"):
        Segments("x.zip", rollouts=0)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"gamma": 0.5}, "gamma"),
        ({"learning_rate": 1e-2}, "learning_rate"),
        ({"learning_rate": lambda remaining: 1e-2 * remaining}, "learning_rate"),
        ({"clip_range_vf": 0.1}, "clip_range_vf"),
        ({"policy_kwargs": {"net_arch": [5]}}, "policy"),
        ({"policy_kwargs": {"activation_fn": torch.nn.ReLU}}, "policy"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, "optimizer"),
        ({"policy_kwargs": {"optimizer_kwargs": {"eps": 1e-3}}}, "optimizer"),
        ({"env": {"g": 5.0}}, "environment"),
        ({"env": {"max_episode_steps": 50}}, "environment"),
        ({"normalize": {"gamma": 0.5}}, "environment"),
        ({"wrapper": gym.wrappers.FlattenObservation}, "environment"),
    ],
)
def test_a_file_of_other_settings_is_refused(changed: dict[str, Any], named: str, tmp_path: Path) -> None:
    learn_in_segments(pendulum(), 64, tmp_path / "model.zip")
    with pytest.raises(ValueError, match=rf"other settings than the one to train \(they differ in {named}\)"):
        learn_in_segments(pendulum(**changed), 128, tmp_path / "model.zip")


def test_a_file_of_other_students_is_refused(tmp_path: Path) -> None:
    learn_in_segments(cart_pole(), 64, tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"they differ in students\)"):
        learn_in_segments(cart_pole(student_policy_kwargs={"net_arch": [5]}), 128, tmp_path / "model.zip")


def test_a_file_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    learn_in_segments(pendulum(), 64, tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"model.zip holds a model of class PPO, expected LoTPPO"):
        learn_in_segments(cart_pole(), 64, tmp_path / "model.zip")


def test_functions_are_those_of_the_model_that_is_given(tmp_path: Path) -> None:
    """Nothing but a pickle can hold them, and none is read."""
    options = {"learning_rate": lambda remaining: 1e-3 * remaining, "clip_range": lambda remaining: 0.1}
    learn_in_segments(cart_pole(**options), 64, tmp_path / "model.zip")
    model = cart_pole(**options)
    again = learn_in_segments(model, 128, tmp_path / "model.zip")
    assert again is not model
    assert (again.num_timesteps, again.learning_rate) == (128, options["learning_rate"])
