"""Rows are known by options of methods: whatever is made of them, the tables that hold them stay as they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from benchmarks.compare.main import DISTILLATION, LOSSES
from benchmarks.l2t_dlf_images.methods import methods as images
from benchmarks.l2t_dlf_translation import work as translation
from benchmarks.l2t_dlf_translation.main import SIZES
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
