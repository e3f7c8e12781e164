"""Sixty slips of a newcomer, each with the one line that answers it: its point first, what was expected, what to do."""

import functools
import json
import re
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import stable_baselines3
import torch
from torch import nn

import agents
import meta
import teachenv
from benchmarks.__main__ import main as benchmarks_main
from teachenv.experiment import fixed
from teachenv.experiment.command import main as teachenv_main

SMALL = {"horizon": 2, "batch_size": 8, "dev_size": 40}
SHORT = 360
"""How many characters a line may have; Gymnasium adds all options of the environment to what `gym.make` raises."""


@functools.cache
def env():
    return gym.make("TeachDigits-v0", **SMALL)


@functools.cache
def students():
    return gym.make_vec("TeachDigits-v0", num_envs=2, **SMALL)


@functools.cache
def saved(folder: Path) -> Path:
    """A folder of checkpoints: whole, cut, newer, of others."""
    meta.RMD("AttentionPolicy", env()).save(folder / "rmd.zip")
    content = (folder / "rmd.zip").read_bytes()
    (folder / "cut.zip").write_bytes(content[: len(content) // 2])
    (folder / "flipped.zip").write_bytes(content[:-3000] + b"?" * 20 + content[-2980:])
    (folder / "empty.zip").write_bytes(b"")
    (folder / "notes.zip").write_text("notes")
    with zipfile.ZipFile(folder / "rmd.zip") as archive:
        about, tensors = json.loads(archive.read("value.json")), archive.read("tensors.safetensors")
    for name, other in {
        "newer": about | {"format": 2},
        "alien": about | {"value": about["value"] | {"class": "Alien"}},
    }.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr("value.json", json.dumps(other))
            archive.writestr("tensors.safetensors", tensors)
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("beach.png", b"")
    torch.save({"weight": torch.zeros(3)}, folder / "weights.pt")
    safetensors.torch.save_file({"weight": torch.zeros(3)}, folder / "weights.safetensors")
    model = stable_baselines3.PPO("MlpPolicy", meta.GymVecEnv(students()), n_steps=2, batch_size=4, device="cpu")
    model.save(folder / "sb3.zip")
    return folder


def rmd(**options):
    return meta.RMD("AttentionPolicy", env(), **options)


def compared(**options):
    return teachenv.compare("TeachDigits-v0", **({"methods": {"plain": fixed("cross-entropy")}} | options))


SLIPS = {
    # --- environments
    "gym.make, a setting": (
        lambda f: gym.make("TeachDigits-v0", momentun=0.5),
        "the environment got an unexpected keyword argument 'momentun', did you mean 'momentum'. All",
    ),
    "gym.make, a probe": (
        lambda f: gym.make("TeachDigits-v0", frameskip=1),
        "the environment got an unexpected keyword argument 'frameskip': all .* are in teachenv.Settings",
    ),
    "make_vec, a setting": (lambda f: gym.make_vec("TeachDigits-v0", horizn=3), "'horizn', did you mean 'horizon'"),
    "make_vec, a mode": (lambda f: gym.make_vec("TeachDigits-v0", autoreset_mode="NEXT_STEP"), "unknown autoreset"),
    "make_vec, a count": (lambda f: gym.make_vec("TeachDigits-v0", num_envs=0), "num_envs must be an integer of at"),
    "make_vec, frames": (lambda f: gym.make_vec("TeachDigits-v0", render_mode="human"), "does not render"),
    "an id": (lambda f: gym.make("TeachDigit-v0"), "Environment `TeachDigit` doesn't exist. Did you mean: `TeachDig"),
    "a render mode": (lambda f: teachenv.TeachEnv(render_mode="human"), "render_mode must be None or one of"),
    "a task": (lambda f: teachenv.TeachEnv(task="mnsit"), "unknown task 'mnsit', did you mean 'mnist'?"),
    "a student": (lambda f: teachenv.TeachEnv(student="resnet9"), "'resnet9', did you mean 'resnet8', .* All"),
    "no student": (lambda f: teachenv.TeachEnv(student="zzz"), "'zzz': all .* are in teachenv.STUDENTS"),
    "a network": (lambda f: teachenv.TeachEnv(student=nn.Linear(64, 10)), "student must be a name or a function that"),
    "a loss": (lambda f: teachenv.TeachEnv(loss="bilinaer"), "'bilinaer', did you mean 'bilinear'. All"),
    "a torch loss": (lambda f: teachenv.TeachEnv(loss=nn.CrossEntropyLoss()), "unknown loss CrossEntropyLoss"),
    "an optimizer": (lambda f: teachenv.TeachEnv(optimizer="adma"), "unknown optimizer 'adma', did you mean 'adam'"),
    "an optimizer's option": (
        lambda f: teachenv.TeachEnv(optimizer={"name": "adam", "lr": 1}),
        "optimizer 'adam' got an unexpected keyword argument 'lr': expected one of 'betas', 'epsilon', 'learning_rate'",
    ),
    "a student's option": (lambda f: teachenv.TeachEnv(student_kwargs={"hiden": [3]}), "'hiden', did you mean 'hid"),
    "a loss's option": (lambda f: teachenv.TeachEnv(loss_kwargs={"scal": 1}), "'scal', did you mean 'scale'"),
    "a schedule": (lambda f: teachenv.TeachEnv(lr_schedule="linaer"), "did you mean 'linear'"),
    "a text for a number": (lambda f: teachenv.TeachEnv(learning_rate="0.1"), "learning_rate must be a finite number"),
    "a number below zero": (lambda f: teachenv.TeachEnv(horizon=-1), "horizon must be an integer of at least 1"),
    "a text for a truth value": (lambda f: teachenv.TeachEnv(resplit="no"), "resplit must be True or False"),
    "no effect": (lambda f: teachenv.TeachEnv(optimizer="adam", momentum=0.9), "momentum=0.9 has no effect"),
    "too large a split": (lambda f: teachenv.TeachEnv(dev_size=5000), "the splits are larger than the data"),
    "step before reset": (lambda f: teachenv.TeachEnv(**SMALL).step(np.zeros(100, "f")), "call env.reset"),
    "an action's shape": (lambda f: stepped(np.zeros(3, "f")), "an action has shape .100,. here, found .3,."),
    "an action beyond": (lambda f: stepped(np.full(100, 2, "f")), "actions lie in .-1, 1.*np.clip"),
    "whole numbers": (lambda f: stepped(np.zeros(100, int)), "an action is an array of float32 numbers, found int64"),
    "an option of reset": (lambda f: env().reset(options={"seed": 1}), "reset has no option 'seed'"),
    "a snapshot": (lambda f: env().unwrapped.set_state(3), "expected what get_state.. returns, found int"),
    "a split": (lambda f: evaluated("tset"), "unknown split 'tset', did you mean 'test'"),
    # --- teachers
    "RMD, an option": (
        lambda f: rmd(learning_rat=1),
        "RMD got an unexpected keyword argument 'learning_rat', did you mean 'learning_rate'. All .* are in help.RMD.",
    ),
    "RMD, an option of others": (lambda f: rmd(use_sde=True), "RMD got an unexpected keyword argument 'use_sde'"),
    "RMD, a policy": (lambda f: meta.RMD("AttentionPolcy", env()), "'AttentionPolcy', did you mean 'AttentionPolicy'"),
    "RMD, a policy's option": (
        lambda f: rmd(policy_kwargs={"kes": 3}),
        "policy_kwargs of AttentionPolicy got an unexpected keyword argument 'kes', did you mean 'keys'?",
    ),
    "RMD, no environment": (lambda f: meta.RMD("AttentionPolicy", None), "RMD needs an environment, found None; make"),
    "RMD, another environment": (
        lambda f: meta.RMD("AttentionPolicy", gym.make("Pendulum-v1")),
        "ActionGradient needs a TeachEnv, found PendulumEnv; make one",
    ),
    "RMD, another mode": (
        lambda f: meta.RMD("AttentionPolicy", teachenv.TeachVectorEnv(2, autoreset_mode="NextStep", **SMALL)),
        "needs? a vector environment that resets in the step that ends an episode",
    ),
    "EvolutionStrategies, an option": (
        lambda f: meta.EvolutionStrategies("AttentionPolicy", env(), sigm=1),
        "EvolutionStrategies got an unexpected keyword argument 'sigm', did you mean 'sigma'",
    ),
    "DDPG, an option": (
        lambda f: agents.DDPG("AttentionPolicy", env(), rewardscale=1),
        "DDPG got an unexpected keyword argument 'rewardscale', did you mean 'reward_scale'",
    ),
    "PPO, an option": (lambda f: agents.PPO("AttentionPolicy", env(), n_step=2), "did you mean 'n_steps'"),
    "PPO, a policy's option": (
        lambda f: agents.PPO("AttentionPolicy", env(), policy_kwargs={"kes": 3}),
        "AttentionPolicy.* got an unexpected keyword argument 'kes', did you mean 'keys'",
    ),
    "TD3, no environment": (lambda f: agents.TD3("AttentionPolicy", None), "TD3 needs an environment, found None"),
    "PPO of SB3": (
        lambda f: stable_baselines3.PPO("MlpPolicy", students()),
        "The environment is of type .*TeachVectorEnv', which Stable-Baselines3 takes as meta.GymVecEnv",
    ),
    "a method": (lambda f: meta.ActionGradient(env(), "rdm"), "unknown method 'rdm', did you mean 'rmd'"),
    # --- files
    "load, another class": (
        lambda f: agents.DDPG.load(saved(f) / "rmd.zip"),
        "rmd.zip holds a model of class RMD, expected DDPG; load it with RMD.load",
    ),
    "load, none": (lambda f: meta.RMD.load(f / "none"), "none.zip is not there; expected a file that holds a model"),
    "load, cut": (lambda f: meta.RMD.load(saved(f) / "cut.zip"), "cut.zip is damaged, cut off"),
    "load, flipped": (lambda f: meta.RMD.load(saved(f) / "flipped.zip"), "flipped.zip is damaged, cut off"),
    "load, empty": (lambda f: meta.RMD.load(saved(f) / "empty.zip"), "empty.zip is empty; expected a file that holds"),
    "load, newer": (
        lambda f: meta.RMD.load(saved(f) / "newer.zip"),
        "newer.zip: found format 2, expected 1; a newer version of teachenv wrote it: update teachenv",
    ),
    "load, text": (lambda f: meta.RMD.load(saved(f) / "notes.zip"), "notes.zip holds no model: it is no zip file"),
    "load, a zip": (lambda f: meta.RMD.load(saved(f) / "photos.zip"), "photos.zip holds no model: it is a zip"),
    "load, torch.save": (lambda f: meta.RMD.load(saved(f) / "weights.pt"), "weights.pt holds no model: it is a file"),
    "load, safetensors": (lambda f: meta.RMD.load(saved(f) / "weights.safetensors"), "weights.safetensors holds no mo"),
    "load, SB3's": (lambda f: agents.PPO.load(saved(f) / "sb3.zip"), "sb3.zip is a file of Stable-Baselines3's own"),
    "load, an alien": (lambda f: meta.RMD.load(saved(f) / "alien.zip"), "alien.zip holds a model of class Alien"),
    "load, another space": (
        lambda f: meta.RMD.load(saved(f) / "rmd.zip", gym.make("TeachWine-v0", **SMALL)),
        "Observation spaces do not match",
    ),
    "a taught loss of a file": (
        lambda f: meta.TaughtLoss.load(saved(f) / "rmd.zip"),
        "rmd.zip is a file, expected the folder that TaughtLoss.save wrote",
    ),
    "save beside a file": (
        lambda f: meta.RMD.load(saved(f) / "rmd.zip").save(f / "notes.zip" / "rmd"),
        "Not a directory; the file was not written: .*rmd.zip",
    ),
    # --- comparisons
    "compare, an option": (lambda f: compared(horizn=3), "'horizn', did you mean 'horizon'"),
    "compare, what is tuned": (lambda f: compared(tune={"learning_rat": [1]}), "'learning_rat', did you mean 'lea"),
    "compare, a method": (lambda f: compared(methods={"rmd": meta.RMD}), "methods.'rmd'. must be a method such as"),
    "a method's option": (lambda f: meta.methods.rmd(learning_rat=[1]), "RMD got an unexpected keyword argument 'lear"),
    "a method's lists": (lambda f: meta.methods.rmd(learning_rate=[1, 2], last=[1]), "found 2 of learning_rate and 1"),
}  # fmt: skip


def stepped(action):
    env().reset(seed=0)
    return env().step(action)


def evaluated(split):
    env().reset(seed=0)
    return env().unwrapped.evaluate(split)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_answered_by_a_line_that_begins_with_its_point(slip: str, folder: Path) -> None:
    make, point = SLIPS[slip]
    with pytest.raises((ValueError, TypeError, OSError, gym.error.Error)) as error:
        make(folder)
    line = str(error.value).partition(" was raised from the environment creator")[0].replace(str(folder), "")
    assert "\n" not in line
    assert len(line) <= SHORT
    found = re.search(point, line)
    assert found, line
    assert found.start() < 100


COMMANDS = [
    (teachenv_main, ["compare", "CartPole-v1"], "environment 'CartPole-v1' trains no student: found a CartPoleEnv"),
    (
        teachenv_main,
        ["compare", "TeachDigit-v0"],
        "unknown environment 'TeachDigit-v0', did you mean 'TeachDigits-v0'?",
    ),
    (
        teachenv_main,
        ["compare", "Games/Pong-v5"],
        "unknown environment 'Games/Pong-v5': expected one of 'TeachCIFAR-v0'",
    ),
    (teachenv_main, ["compare", "TeachDigits-v0", "--set", "horizn=3"], "'horizn', did you mean 'horizon'"),
    (benchmarks_main, ["compare", "--env", "CartPole-v1"], "found --env CartPole-v1, which trains no student"),
    (benchmarks_main, ["compare", "--env", "zzz"], "unknown environment 'zzz': expected one of 'TeachCIFAR-v0'"),
]


@pytest.mark.parametrize(("main", "arguments", "point"), COMMANDS, ids=[" ".join(each[1]) for each in COMMANDS])
def test_a_command_answers_a_slip_in_a_line(main, arguments, point, tmp_path, capsys) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert len(told) <= SHORT
    assert point in told


def test_there_are_sixty() -> None:
    assert len(SLIPS) + len(COMMANDS) >= 60
