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
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import LoTPPO, Segments, learn_in_segments
from teachenv import TeachEnv, checks
from teachenv.rl import TeachControlEnv

TOTAL = 4 * 64
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 3, "device": "cpu"}

_SCRIPT = f"""
import sys, time
from pathlib import Path
from stable_baselines3.common.buffers import RolloutBuffer
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
    with pytest.raises(ValueError, match="rollouts must be an integer of at least 1, found 0"):
        Segments("x.zip", rollouts=0)


@pytest.fixture(scope="module")
def of_pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of `pendulum()`, trained for one segment."""
    path = tmp_path_factory.mktemp("pendulum") / "model.zip"
    learn_in_segments(pendulum(), 64, path)
    return path


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": lambda remaining: 1e-2 * remaining}, "learning_rate"),
        ({"policy_kwargs": {"net_arch": [5]}}, "policy_kwargs"),
        ({"policy_kwargs": {"log_std_init": -1.0}}, "policy_kwargs"),  # no part of what a network is as text
        ({"policy_kwargs": {"activation_fn": torch.nn.ReLU}}, "policy_kwargs"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, "policy_kwargs"),
        ({"policy_kwargs": {"optimizer_kwargs": {"eps": 1e-3}}}, "policy_kwargs"),
        ({"env": {"g": 5.0}}, "environment"),
        ({"env": {"max_episode_steps": 50}}, "environment"),
        ({"normalize": {"gamma": 0.5}}, "environment"),
        ({"wrapper": gym.wrappers.FlattenObservation}, "environment"),
    ],
)
def test_a_file_of_other_settings_is_refused(changed: dict[str, Any], named: str, of_pendulum: Path) -> None:
    with pytest.raises(ValueError, match=rf"other settings than the one to train \(they differ in {named}\)"):
        learn_in_segments(pendulum(**changed), 128, of_pendulum)


class OtherPolicy(ActorCriticPolicy):
    """Another class than the default."""


class Buffer(RolloutBuffer):
    """A buffer with an option of its own."""

    def __init__(self, *args: Any, mark: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class OtherBuffer(Buffer):
    """Another class than `Buffer`."""


BEFORE: dict[str, Any] = {**SMALL, "term_share": 0.05, "rollout_buffer_class": Buffer}
CHANGED: dict[str, Any] = {
    "policy": OtherPolicy,
    "policy_kwargs": {"net_arch": [5]},
    "use_sde": True,
    "sde_sample_freq": 4,
    "learning_rate": 1e-2,
    "n_steps": 16,
    "batch_size": 32,
    "n_epochs": 3,
    "gamma": 0.5,
    "gae_lambda": 0.5,
    "clip_range": 0.1,
    "clip_range_vf": 0.1,
    "normalize_advantage": False,
    "ent_coef": 0.1,
    "vf_coef": 0.1,
    "max_grad_norm": 1.0,
    "target_kl": 0.1,
    "seed": 4,
    "rollout_buffer_class": OtherBuffer,
    "rollout_buffer_kwargs": {"mark": 1},
    "alpha": 0.1,
    "term_share": 0.5,
    "student_steps": 2,
    "temperature": 2.0,
    "students": 2,
    "labels": True,
    "student_policy": OtherPolicy,
    "student_policy_kwargs": {"net_arch": [5]},
    "student_weight_decay": 0.1,
    "replay": 3,
    "warm_up": 2,
}
"""Another value for each option of LoTPPO on which a result depends."""
FREE = {"device", "verbose", "stats_window_size", "tensorboard_log", "env"}
"""The options on which none does; the environment has tests of its own."""


def students(policy: Any = "MlpPolicy", **options: Any) -> LoTPPO:
    return LoTPPO(policy, "Pendulum-v1", **{**BEFORE, **options})


@pytest.fixture(scope="module")
def of_students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of `students()`, trained for one segment."""
    path = tmp_path_factory.mktemp("students") / "model.zip"
    learn_in_segments(students(), 64, path)
    return path


def test_every_option_is_known_here() -> None:
    assert {*CHANGED, *FREE} == checks.options_of(LoTPPO)


@pytest.mark.parametrize("option", CHANGED)
def test_a_file_of_another_option_is_refused(option: str, of_students: Path) -> None:
    beside = {"term_share": None} if option == "alpha" else {}  # one of them is given
    with pytest.raises(ValueError, match=rf"differ in (\w+, )*{option}\b"):
        learn_in_segments(students(**{option: CHANGED[option]}, **beside), 128, of_students)


def test_an_option_on_which_no_result_depends_may_differ(of_students: Path) -> None:
    assert learn_in_segments(students(stats_window_size=5), 64, of_students).num_timesteps == 64


def test_a_file_of_other_segments_is_refused(of_students: Path) -> None:
    with pytest.raises(ValueError, match=r"they differ in rollouts\)"):
        learn_in_segments(students(), 128, of_students, rollouts=7)


class Forgetful(PPO):
    """It does not keep an option of its own."""

    def __init__(self, *args: Any, extra: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def test_an_option_that_is_not_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"option extra of Forgetful is not an attribute .* add self.extra = extra"):
        learn_in_segments(Forgetful("MlpPolicy", "CartPole-v1", **SMALL), 64, tmp_path / "model.zip")


@pytest.mark.parametrize("total", [-1, "10", None, 1.5])
def test_another_total_is_refused(total: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="total_timesteps must be an integer of at least 0, found"):
        learn_in_segments(cart_pole(), total, tmp_path / "model.zip")


def taught(made: Any, **options: Any) -> PPO:
    return PPO("MlpPolicy", made(**options), n_steps=4, batch_size=4, n_epochs=1, policy_kwargs={"net_arch": [4]})


@pytest.mark.parametrize(
    ("made", "before", "after"),
    [
        (TeachEnv, {"horizon": 4, "batch_size": 8}, {"horizon": 4, "batch_size": 16}),
        (TeachControlEnv, {"horizon": 2, "rollout_steps": 8}, {"horizon": 2, "rollout_steps": 16}),
    ],
)
def test_a_file_of_an_unregistered_environments_other_settings_is_refused(
    made: Any, before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    learn_in_segments(taught(made, **before), 4, tmp_path / "model.zip")
    assert learn_in_segments(taught(made, **before), 8, tmp_path / "model.zip").num_timesteps == 8
    with pytest.raises(ValueError, match=r"they differ in environment\)"):
        learn_in_segments(taught(made, **after), 12, tmp_path / "model.zip")


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
