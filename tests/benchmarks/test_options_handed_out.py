"""Rows are known by options of methods: whatever is made of them, the tables that hold them stay as they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.main import DISTILLATION, LOSSES
from benchmarks.l2t_dlf_images.methods import methods as images
from benchmarks.l2t_dlf_translation import work as translation
from benchmarks.l2t_dlf_translation.main import SIZES
from benchmarks.l2t_dln import methods as dln_methods
from benchmarks.l2t_dln import work as dln
from benchmarks.lgtm import methods as lgtm_methods
from benchmarks.lot_atari import work as atari
from benchmarks.lot_atari.main import ENVIRONMENTS
from benchmarks.lot_atari.methods import LOT
from teachenv.experiment.methods import Method
from teachenv.experiment.setting import Configuration, Setting

TABLES: dict[str, tuple[Mapping[str, Method], str]] = {
    "compare": (LOSSES.methods, "TeachDigits-v0"),
    "distillation": (DISTILLATION.methods, "TeachDistill-v0"),
    "images": (images((0.1,)), "TeachDigits-v0"),
}


def as_text(method: Any) -> str:
    """All options of a method, those in closures left out."""
    return json.dumps(asdict(method), default=lambda _: "a function", sort_keys=True)


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table, (found, _) in TABLES.items() for name in found if found[name].make]
)
def test_a_teacher_of_a_comparison_changes_no_table(table: str, name: str) -> None:
    methods, env = TABLES[table]
    loss = "bilinear" if env == "TeachDigits-v0" else "distillation"
    setting = Setting(env, {"horizon": 4, "steps_per_action": 1}, loss)
    before = as_text(methods[name])
    for candidate in range(len(methods[name].candidates)):
        configuration = Configuration({"learning_rate": 0.1, "lr_schedule": "linear"}, candidate)
        teacher = setting.teacher(methods[name], configuration, 0, 1)
        _spoil(getattr(teacher, "policy_kwargs", None))
    assert as_text(methods[name]) == before


def _spoil(options: Any) -> None:
    """Writes into options as the rudest of teachers would."""
    if isinstance(options, dict):
        for value in options.values():
            _spoil(value)
        options["spoiled"] = True
    elif isinstance(options, list):
        options.append("spoiled")


@pytest.mark.parametrize("name", dln_methods.METHODS)
def test_an_environment_of_l2t_dln_changes_no_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dln.gym, "make", lambda _, **options: _spoil(options))
    monkeypatch.setattr(dln.gym, "make_vec", lambda _, **options: _spoil(options))
    made = dln_methods.METHODS[name]
    setting = dln.Setting("TeachDigits-v0", {"task_kwargs": {"a": [1]}})
    before = as_text(made), as_text(setting)
    for own in (0, 1):
        setting.make_crowd(made, dln.Configuration(0.1, own))
        with pytest.raises(AttributeError):  # what was made is None
            setting.make(made, dln.Configuration(0.1, own))
    assert (as_text(made), as_text(setting)) == before


@pytest.mark.parametrize("name", [name for name, made in dln_methods.METHODS.items() if made.kind != "fixed"])
def test_a_teacher_of_l2t_dln_changes_no_table(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def make(policy: str, env: Any, **options: Any) -> None:
        _spoil(options)
        raise Stop

    monkeypatch.setattr(dln.meta, "RMD", make)
    monkeypatch.setattr(dln.meta, "DynamicLossTeacher", make)
    monkeypatch.setattr(dln.meta, "WindowGradient", lambda env, **options: env)
    monkeypatch.setattr(dln.Setting, "make", lambda *_, **__: None)
    monkeypatch.setattr(dln.Setting, "make_crowd", lambda *_: None)
    before = as_text(dln_methods.METHODS[name])
    for own in (0, 1):
        with pytest.raises(Stop):
            dln.run(dln.Setting("TeachDigits-v0", {}), name, dln.Configuration(0.1, own), 0, False, tmp_path / "x")
    assert as_text(dln_methods.METHODS[name]) == before


def test_an_environment_of_translation_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation.gym, "make", lambda _, **options: _spoil(options))
    setting = SIZES["laptop"].setting
    before = as_text(setting)
    with pytest.raises(AttributeError):
        setting.make(student="lstm")
    assert as_text(setting) == before


def test_a_policy_of_lot_atari_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PPO", "LoTPPO"):
        monkeypatch.setattr(atari, name, lambda *_, **options: _spoil(options))
    training = replace(ENVIRONMENTS["CartPole-v1"], options={"policy_kwargs": {"net_arch": [8]}})
    before = copy.deepcopy(training)
    for method in (LOT, replace(LOT, students=0)):
        atari.make_model(training, method, None, 0)  # type: ignore[arg-type]
    assert training == before


def test_a_distiller_of_lgtm_changes_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(lgtm_methods.METHODS["pkd"], options={"nested": {"a": [1]}})
    monkeypatch.setitem(lgtm_methods.DISTILLERS, "pkd", lambda *_, **options: _spoil(options))
    made.build(None, None, None, [])  # type: ignore[arg-type]
    assert made.options == {"nested": {"a": [1]}}
