"""Snapshots fit environments that train the same, and no others, however the settings are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import teachenv
from teachenv import Task, TeachEnv, TeachVectorEnv
from teachenv.losses import Bilinear
from teachenv.optimizers import OPTIMIZERS, SGD, Entry
from teachenv.tasks import TASKS

SMALL = {"task": "wine", "horizon": 4, "batch_size": 8, "dev_size": 40}


def made(vector: bool, settings: dict[str, Any]) -> Any:
    return TeachVectorEnv(2, **{**SMALL, **settings}) if vector else TeachEnv(**{**SMALL, **settings})


def snapshot(env: Any) -> dict[str, Any]:
    env.reset(seed=0)
    state: dict[str, Any] = env.get_state()
    return state


class Own(teachenv.LossFamily):
    """A loss that makes a table when it is first called, and counts its calls."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.table: torch.Tensor | None = None
        self.calls = 0
        self._kept: dict[int, int] = {}

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        return 1

    def __call__(self, action: torch.Tensor, prediction: Any, targets: torch.Tensor) -> torch.Tensor:
        self._count()
        return self.scale * F.cross_entropy(prediction.outputs, targets, weight=self.table) * (1 + action.sum())

    def _count(self) -> None:
        self.calls += 1
        self._kept[self.calls] = 1
        if self.table is None:
            self.table = torch.ones(3)

    def rescale(self, scale: float) -> None:
        self.scale = scale


EQUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a schedule's name": ({"lr_schedule": "linear"}, {"lr_schedule": {"name": "linear"}}),
    "a schedule's defaults": (
        {"lr_schedule": "step"},
        {"lr_schedule": {"name": "step", "milestones": (2, 3), "gamma": 0.1}},
    ),
    "an optimizer's defaults": ({"optimizer": "adam"}, {"optimizer": {"name": "adam", "betas": [0.9, 0.999]}}),
    "whole numbers in a loss": ({"loss_kwargs": {"scale": 1}}, {"loss": {"name": "bilinear", "scale": 1.0}}),
    "a loss's defaults": ({"loss": "mixture"}, {"loss": {"name": "mixture", "scale": 0.5}}),
    "a loss as an object": ({"loss": "bilinear", "loss_kwargs": {"scale": 2.0}}, {"loss": Bilinear(2.0)}),
    "a student's defaults": ({}, {"student": {"name": "mlp", "hidden": [32], "activation": "tanh"}}),
    "sizes": ({}, {"train_size": 88, "pool_size": 128, "dev_measured": 40, "augment": False}),
    "no imbalance": ({}, {"imbalance": 1}),
    "no noise": ({}, {"label_noise": 0.0, "label_noise_kind": "symmetric"}),
    "losses that keep something": ({"loss": Own()}, {"loss": Own()}),
}  # fmt: skip


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("name", EQUAL)
def test_snapshots_fit_settings_that_mean_the_same(name: str, vector: bool) -> None:
    one, other = (made(vector, settings) for settings in EQUAL[name])
    state = snapshot(one)
    other.set_state(state)
    assert other.get_state()["settings"] == state["settings"]


OPTIONS = {"act": nn.ReLU}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(13, 8), OPTIONS["act"](), nn.Linear(8, 3))


class Half(SGD):
    """Half of the step."""

    def update(self, parameters: Any, gradient: Any, *rest: Any, **options: Any) -> Any:
        return super().update(parameters, {name: g / 2 for name, g in gradient.items()}, *rest, **options)


def of_file(*, data_root: Any, dataset: Any, pool_size: Any, split_seed: Any) -> Task:
    """A task whose inputs are in a file, as an import path in the table of tasks names it."""
    return of_arrays(np.load(data_root), data()[1])


def other_optimizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, Callable[[], Any]]:
    monkeypatch.setitem(OPTIMIZERS, "mine", Entry(type("Mine", (SGD,), {"__module__": __name__})))

    def change() -> dict[str, Any]:
        monkeypatch.setitem(OPTIMIZERS, "mine", Entry(Half))
        return {"optimizer": "mine"}

    return {"optimizer": "mine"}, change


def other_global(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, Callable[[], Any]]:
    def change() -> dict[str, Any]:
        monkeypatch.setitem(OPTIONS, "act", nn.Tanh)
        return {"student": network}

    return {"student": network}, change


def other_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, Callable[[], Any]]:
    monkeypatch.setitem(TASKS, "file", f"{__name__}:of_file")
    for name, factor in (("a", 1), ("b", 2)):
        np.save(tmp_path / f"{name}.npy", factor * data()[0])

    def settings(name: str) -> dict[str, Any]:
        return {"task": {"name": "file", "data_root": tmp_path / f"{name}.npy"}}

    return settings("a"), lambda: settings("b")


def other_scale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, Callable[[], Any]]:
    loss = Own()

    def change() -> dict[str, Any]:
        return {"loss": Own(4.0)}

    return {"loss": loss}, change


@pytest.mark.parametrize("kind", [other_optimizer, other_global, other_file, other_scale])
def test_snapshots_do_not_fit_what_trains_otherwise(
    kind: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, change = kind(monkeypatch, tmp_path)
    one, same = made(False, settings), made(False, settings)
    state = snapshot(one)
    same.set_state(state)
    other = made(False, change())
    with pytest.raises(ValueError, match="state of another environment"):
        other.set_state(state)


@pytest.mark.parametrize("change", [lambda loss: setattr(loss, "scale", 4.0), lambda loss: loss.rescale(4.0)])
def test_a_loss_that_is_changed_from_outside_is_another_one(change: Callable[[Own], None]) -> None:
    loss = Own()
    one, fresh, changed = made(False, {"loss": loss}), made(False, {"loss": Own()}), made(False, {"loss": Own(4.0)})
    one.reset(seed=0)
    one.step(np.zeros(1, dtype=np.float32))
    fresh.set_state(one.get_state())
    change(loss)
    with pytest.raises(ValueError, match=r"loss: .*scale=4.0.* there, .*scale=1.0.* here"):
        fresh.set_state(one.get_state())
    with pytest.raises(ValueError, match="loss: "):
        changed.set_state(snapshot(fresh))


def data() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3


def of_arrays(inputs: Any, targets: Any) -> Task:
    return Task("mine", "mine", (inputs, targets), (inputs[:6], targets[:6]), 3)


def test_a_task_keeps_its_data_when_the_arrays_change() -> None:
    inputs, targets = data()
    one = made(False, {"task": of_arrays(inputs, targets)})
    state = snapshot(one)
    inputs *= -3
    made(False, {"task": of_arrays(*data())}).set_state(state)
    again = snapshot(one)
    assert again["standing"]["objective"] == state["standing"]["objective"]
    with pytest.raises(ValueError, match="task: "):
        made(False, {"task": of_arrays(inputs, targets)}).set_state(state)


def test_tensors_that_change_in_place_are_other_data() -> None:
    inputs, targets = (torch.from_numpy(array) for array in data())
    one = made(False, {"task": of_arrays(inputs, targets)})
    state = snapshot(one)
    inputs.mul_(-3)
    with pytest.raises(ValueError, match="task: "):
        one.set_state(state)


# --- damaged snapshots -----------------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(5).bit_generator.state
DAMAGES: dict[str, Callable[[dict[str, Any], bool], dict[str, Any]]] = {
    "settings are None": lambda state, vector: {"settings": None},
    "an unknown setting": lambda state, vector: {"settings": {**state["settings"], "colour": '"red"'}},
    "random is None": lambda state, vector: {"random": None},
    "the last generator": lambda state, vector: {"random": [GENERATOR, {}] if vector else {}},
    "too few generators": lambda state, vector: {"random": [GENERATOR] if vector else []},
    "no standing": lambda state, vector: {"standing": 3},
    "no seeds": lambda state, vector: {
        "standing": {name: value for name, value in state["standing"].items() if name != "seeds"}
    },
    "too few seeds": lambda state, vector: {"standing": {**state["standing"], "seeds": ()}},
    "other seeds": lambda state, vector: {"standing": {**state["standing"], "seeds": ("a", "b")[: 1 + vector]}},
    "no students": lambda state, vector: {
        "standing": {name: value for name, value in state["standing"].items() if name != "students"}
    },
}  # fmt: skip


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_snapshots_are_refused_and_change_nothing(name: str, vector: bool) -> None:
    env = made(vector, {})
    state = snapshot(env)
    before = repr(env.get_state())
    with pytest.raises(ValueError, match=r"this state (is damaged|has a setting 'colour')"):
        env.set_state({**state, **DAMAGES[name](state, vector)})
    assert repr(env.get_state()) == before
    env.set_state(state)
