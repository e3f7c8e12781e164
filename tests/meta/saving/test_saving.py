"""Models' files: nothing of them is run, and what is of something else is refused in one line."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from torch import nn

import agents
import meta
from meta.saving.codecs import declare
from meta.teachers.policies import AttentionPolicy
from teachenv import Task, TeachEnv, checkpoints


def task() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(40) % 3
    inputs = rng.normal(size=(40, 5))
    return Task("vectors", "made-up", (inputs[:30], targets[:30]), (inputs[30:], targets[30:]), 3)


def environment(**changes: Any) -> TeachEnv:
    return TeachEnv(**{"task": task(), "horizon": 2, "batch_size": 4, "dev_size": 8, **changes})


SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu", "seed": 0}
REPLAY: dict[str, Any] = {"buffer_size": 20, "policy_kwargs": {"net_arch": [8]}}
MODELS: dict[str, Callable[[], Any]] = {
    "RMD": lambda: meta.RMD("AttentionPolicy", environment(), seed=0),
    "FiniteDifference": lambda: meta.FiniteDifference("MlpPolicy", environment(), seed=0),
    "EvolutionStrategies": lambda: meta.EvolutionStrategies("AttentionPolicy", environment(), seed=0),
    "ConstantTeacher": lambda: meta.ConstantTeacher("ConstantPolicy", environment(), seed=0),
    "RandomTeacher": lambda: meta.RandomTeacher("RandomPolicy", environment(), seed=0),
    "DataTeacher": lambda: meta.DataTeacher("DataPolicy", environment(loss="sample-weights"), seed=0),
    "DynamicLossTeacher": lambda: meta.DynamicLossTeacher("LSTMPolicy", environment(), seed=0),
    "DDPG": lambda: agents.DDPG("AttentionPolicy", environment(), seed=0, **REPLAY),
    "TD3": lambda: agents.TD3("AttentionPolicy", environment(), seed=0, **REPLAY),
    "SAC": lambda: agents.SAC("AttentionPolicy", environment(), seed=0, **REPLAY),
    "LoTPPO": lambda: agents.LoTPPO("MlpPolicy", "CartPole-v1", student_steps=2, **SMALL),
}


class Planted:
    """Unpickling it makes a file."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.flag),)


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the JSON of a file."""
    with zipfile.ZipFile(path) as archive:
        about, tensors = json.loads(archive.read("value.json")), archive.read("tensors.safetensors")
    change(about["value"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("value.json", json.dumps(about))
        archive.writestr("tensors.safetensors", tensors)


def in_sb3s_format(path: Path, flag: Path) -> None:
    planted = base64.b64encode(pickle.dumps(Planted(flag))).decode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"action_noise": {":type:": "x", ":serialized:": planted}}))


@pytest.mark.parametrize("name", MODELS)
def test_a_planted_file_runs_nothing(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    flag, path = tmp_path / "flag", tmp_path / "model.zip"
    planted = base64.b64encode(pickle.dumps(Planted(flag))).decode()

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message) as error:
            type(model).load(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        with pytest.raises(ValueError, match=message):
            model.set_parameters(path)
        assert not flag.exists()

    for place in ("attributes", "parameters"):
        model.save(path)
        rewritten(path, lambda v, p=place: v[p].update(seed={"~": "pickle", "of": ["a lambda", planted]}))  # type: ignore[misc]
        refused("seed is a lambda, which only a pickle can hold; reading it runs code: load with trust=True")
    model.save(path)
    rewritten(path, lambda v: v["attributes"].update(policy_class={"~": "class", "of": "os:system"}))
    refused("policy_class is the class os:system, which is none of SB3's, torch's or this library's")
    in_sb3s_format(path, flag)
    refused("is a file of Stable-Baselines3's own format")
    path.write_bytes(pickle.dumps(Planted(flag)))
    refused("holds no model: it is no zip file")


def test_interrupted_ppo_and_a_taught_loss_run_nothing(tmp_path: Path) -> None:
    flag, path = tmp_path / "flag", tmp_path / "model.zip"
    for content in (lambda: in_sb3s_format(path, flag), lambda: path.write_bytes(pickle.dumps(Planted(flag)))):
        content()
        model = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", **SMALL)
        with pytest.raises(ValueError, match=r"model.zip (is a file of Stable|holds no model)"):
            agents.learn_in_segments(model, 8, path)
        shutil.copy(path, tmp_path / "taught_loss.zip")
        with pytest.raises(
            ValueError, match=r"taught_loss.zip holds no taught loss: it is (no zip file|a zip of data)"
        ):
            meta.TaughtLoss.load(tmp_path)
    assert not flag.exists()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_another_class_is_refused(name: str, tmp_path: Path) -> None:
    model, path = MODELS[name](), tmp_path / "model.zip"
    model.save(path)
    for other in MODELS:
        if other != name:
            cls = getattr(meta, other, None) or getattr(agents, other)
            with pytest.raises(ValueError, match=f"model.zip holds a model of class {name}, expected {other}; load it"):
                cls.load(path)
    assert isinstance(type(model).load(path), type(model))
    checkpoints.save(path, 1, "a lamp")
    with pytest.raises(ValueError, match=r"model.zip holds a lamp, expected a model"):
        type(model).load(path)


@pytest.mark.parametrize("damage", ["empty", "cut", "no tensors", "text"])
def test_a_damaged_file_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    MODELS["DDPG"]().save(path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[:-40], "text": b"hello", "no tensors": whole}[damage])
    if damage == "no tensors":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("tensors.safetensors", b"")
            archive.writestr("value.json", "{}")
    with pytest.raises(ValueError, match=r"model.zip (is empty|is damaged|holds no model)") as error:
        agents.DDPG.load(path)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"nothing.zip is not there"):
        agents.DDPG.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda attributes: attributes.pop("policy_kwargs"), "lacks policy_kwargs"),
        (lambda attributes: attributes.update(policy_kwargs={"no_such_option": 1}), "cannot be built"),
        (lambda attributes: attributes.update(policy_kwargs=7), "cannot be built"),
    ],
)
def test_a_file_that_was_changed_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.zip"
    MODELS["RMD"]().save(path)
    rewritten(path, lambda value: change(value["attributes"]))
    with pytest.raises(ValueError, match=f"model.zip .*{said}") as refused:
        meta.RMD.load(path)
    assert "\n" not in str(refused.value)


def test_learning_without_an_environment_is_told(tmp_path: Path) -> None:
    for name in ("RMD", "DDPG"):
        MODELS[name]().save(tmp_path / "model")
        cls = getattr(meta, name, None) or getattr(agents, name)
        with pytest.raises(ValueError, match=f"this {name} has no environment to learn in: load it with env="):
            cls.load(tmp_path / "model").learn(2)


class OwnPolicy(AttentionPolicy):
    pass


@declare
@dataclass(frozen=True)
class Halved:
    rate: float

    def __call__(self, remaining: float) -> float:
        return self.rate * (0.5 + remaining / 2)


def noisy(noise: Any) -> Any:
    return agents.DDPG("MlpPolicy", environment(), seed=0, action_noise=noise, **REPLAY)


PLAIN: dict[str, Callable[[], Any]] = {
    **MODELS,
    "options of the policy": lambda: agents.TD3(
        "MlpPolicy",
        environment(),
        buffer_size=20,
        policy_kwargs={"net_arch": [8], "activation_fn": nn.Tanh, "optimizer_class": torch.optim.SGD},
    ),
    "a class of policy": lambda: meta.RMD(AttentionPolicy, environment(), policy_kwargs={"keys": 3}),
    "noise": lambda: noisy(NormalActionNoise(np.zeros(9), np.ones(9), np.float64)),
    "noise with a memory": lambda: noisy(OrnsteinUhlenbeckActionNoise(np.zeros(9), np.ones(9))),
    "noise of several": lambda: noisy(VectorizedActionNoise(NormalActionNoise(np.zeros(9), np.ones(9)), 1)),
    "a declared schedule": lambda: meta.RMD("AttentionPolicy", environment(), learning_rate=Halved(0.1)),
    "gSDE and clipped values": lambda: agents.LoTPPO(
        "MlpPolicy", "Pendulum-v1", use_sde=True, clip_range_vf=0.2, policy_kwargs={"activation_fn": nn.ReLU}, **SMALL
    ),
    "episodes": lambda: agents.DDPG("MlpPolicy", environment(), train_freq=(1, "episode"), **REPLAY),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_common_needs_no_trust(name: str, tmp_path: Path) -> None:
    model = PLAIN[name]()
    model.learn(8)
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model")
    for key, value in model.get_parameters().items():
        assert describe(again.get_parameters()[key]) == describe(value)
    assert again.num_timesteps == model.num_timesteps
    assert again.policy_class is model.policy_class
    assert str(again.policy) == str(model.policy)
    assert repr(again.action_noise) == repr(model.action_noise)
    assert again.lr_schedule(0.5) == model.lr_schedule(0.5)
    assert (again.observation_space, again.action_space) == (model.observation_space, model.action_space)
    assert getattr(again, "train_freq", None) == getattr(model, "train_freq", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.zip"]


def describe(state: Any) -> str:
    if isinstance(state, dict):
        return str({key: describe(value) for key, value in state.items()})
    return f"{state.dtype} {state.tolist()}" if isinstance(state, torch.Tensor) else str(state)


@pytest.mark.parametrize(
    ("changes", "named", "replacement"),
    [
        ({"learning_rate": lambda remaining: 0.1 * remaining}, "learning_rate is a builtins.function", lambda _: 0.3),
        ({"policy": OwnPolicy}, "policy_class is the class OwnPolicy", OwnPolicy),
        (
            {"policy_kwargs": {"optimizer_class": lambda *a, **k: torch.optim.SGD(*a, **k)}},
            "optimizer_class is a ",
            None,
        ),
    ],
)
def test_what_only_pickle_can_hold_needs_trust(
    changes: dict[str, Any], named: str, replacement: Any, tmp_path: Path
) -> None:
    meta.RMD(**{"policy": "AttentionPolicy", "env": environment(), **changes}).save(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"model.zip: \S*{named}.*, which only a pickle can hold"):
        meta.RMD.load(tmp_path / "model")
    trusted = meta.RMD.load(tmp_path / "model", trust=True)
    assert trusted.lr_schedule(0.5) == (0.05 if "learning_rate" in changes else 1e-2)
    name = {"policy": "policy_class"}.get(next(iter(changes)), next(iter(changes)))
    given = {"optimizer_class": torch.optim.SGD} if replacement is None else replacement
    replaced = meta.RMD.load(tmp_path / "model", custom_objects={name: given})
    assert getattr(replaced, name) == given


def test_only_records_are_declared() -> None:
    with pytest.raises(TypeError, match="Planted is neither a dataclass nor a named tuple"):
        declare(Planted)


def test_learning_leaves_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in ("RMD", "DDPG", "LoTPPO"):
        MODELS[name]().learn(2)
    agents.learn_in_segments(stable_baselines3.PPO("MlpPolicy", "CartPole-v1", **SMALL), 8, tmp_path / "segments.zip")
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss_kwargs": {"scale": 0.1}}, r"loss_kwargs=\{'scale': 0.1\}"),
        ({"loss": "bilinear-generalized"}, "loss='bilinear-generalized'"),
        ({"loss": "bilinear-sigmoid"}, "loss='bilinear-sigmoid'"),
    ],
)
def test_a_teacher_is_not_loaded_for_another_loss(options, says, tmp_path) -> None:
    meta.RMD("AttentionPolicy", environment(), seed=0).learn(2).save(tmp_path / "teacher")
    default = environment().problem.dynamics.loss.scale
    meta.RMD.load(tmp_path / "teacher", environment(loss_kwargs={"scale": default}))
    with pytest.raises(ValueError, match=f"was trained on loss='bilinear', .* found an environment of .*{says}"):
        meta.RMD.load(tmp_path / "teacher", environment(**options))
