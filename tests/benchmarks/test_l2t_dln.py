"""The benchmark of L2T-DLN, on digits and shapes in miniature."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main as command_line
from benchmarks.l2t_dln import cost, imitation, main, report, work
from benchmarks.l2t_dln.main import PRESETS, Options, Task
from benchmarks.l2t_dln.methods import ARCHITECTURES, METHODS, REPLAYED, WINDOWS
from teachenv.experiment.cases import Outcome
from teachenv.experiment.evidence import MOVED, MOVED_MOST
from teachenv.experiment.rows import read_rows
from teachenv.experiment.setting import Configuration, Setting, candidate_of

DIGITS = Setting(
    "TeachDigits-v0",
    {"steps_per_action": 2, "horizon": 6, "batch_size": 4, "dev_size": 20, "pool_size": 60, "label_noise": 0.4},
    loss=None,
)
WRAPPER = {"dev_batch": 10}
RATES = (0.05, 0.1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(DIGITS, RATES, "error", ("cross-entropy", "l2t-dlf", "l2t-dln"), WRAPPER, 2, True, 2)
    monkeypatch.setitem(main.PRESETS, "smoke", {"digits-noisy-40": task})


@pytest.fixture
def still(undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither figures nor animations are drawn."""
    monkeypatch.setattr(report, "animate", lambda rows, folder: None)


@pytest.fixture
def one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method has two configurations left, which are its own two candidates."""
    task = PRESETS["smoke"]["digits-noisy-40"]
    monkeypatch.setitem(PRESETS, "smoke", {"digits-noisy-40": replace(task, rates=RATES[:1])})


def final(method: str, candidate: int, seed: int, folder: Path) -> Outcome:
    configuration = Configuration({"learning_rate": 0.1}, candidate)
    return work.run(DIGITS, method, METHODS[method], configuration, WRAPPER, 2, seed, final=True, folder=folder)


def command(out: Path, *more: str) -> list[str]:
    return ["l2t_dln", "--preset", "smoke", "--backend", "inline", "--out", str(out), *more]


def test_methods_are_tuned_trained_and_shown_and_the_run_goes_on(
    one_rate: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    assert command_line(command(tmp_path)) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    final = [row for row in rows if row.config["stage"] == "training"]
    assert {row.method for row in final} == {"cross-entropy", "l2t-dlf", "l2t-dln", REPLAYED}
    assert {(row.method, row.seed) for row in final if row.metric == "test_error"} == {
        (method, seed) for method in ("cross-entropy", "l2t-dlf", "l2t-dln", REPLAYED) for seed in (0, 1)
    }
    # Only what is reported has seen the test split.
    assert not [row for row in rows if row.config["stage"] == "tuning" and row.metric.startswith("test")]
    spent = {row.method: row.student_steps for row in final}
    assert spent == {"cross-entropy": 6, "l2t-dlf": 6 + 2 * 6, "l2t-dln": 2 * 6 + 6, REPLAYED: 2 * 6 + 6}
    dln = next(row for row in final if row.method == "l2t-dln" and row.data)
    assert [step for step, *_ in dln.data["errors"]] == [2, 4, 6]
    assert np.array(dln.data["pictures"][0][1]).shape == (11, 11)
    # Of the others nothing is shown but the curve.
    assert {bool(row.data["pictures"]) for row in final if row.data and row != dln} == {False}
    assert not list((tmp_path / "checkpoints").glob("*"))
    for name in ("test.png", "curves.png", "errors.png", "loss-digits-noisy-40.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "loss-digits-noisy-40.gif").read_bytes().startswith(b"GIF")
    # In three windows the LSTM moves the network by less than a percent.
    assert "| l2t-dln:replayed (untaught) |" in (tmp_path / "table.md").read_text()
    measured = {(row.method, row.metric): row.value for row in final}
    assert all(0 < measured[name, MOVED] <= measured[name, MOVED_MOST] for name in ("l2t-dlf", "l2t-dln", REPLAYED))
    assert -1 <= measured["l2t-dln", work.COSINE] <= 1
    assert ("cross-entropy", MOVED) not in measured
    assert "l2t-dln" in capsys.readouterr().out
    request.getfixturevalue("still")
    assert command_line(command(tmp_path)) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows


def test_what_was_best_on_dev_is_trained(still: None, tmp_path: Path) -> None:
    assert command_line(command(tmp_path, "--methods", "cross-entropy", "--seeds", "1")) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    scores = {
        (row.config["learning_rate"], json.dumps(row.config["own"])): row.value
        for row in rows
        if (row.config["stage"], row.metric) == ("tuning", "dev_error")
    }
    assert len(scores) == 2 * len(RATES)
    chosen = next(row.config for row in rows if row.metric == "test_error")
    assert scores[chosen["learning_rate"], json.dumps(chosen["own"])] == min(scores.values())


def test_the_studies_of_teachers_and_windows(
    still: None, one_rate: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every kind of teacher and rule of update has tests in `meta`; here one of each.
    some = ("l2t-dln:gru", "l2t-dln:adam", "l2t-dln:bptt-5")
    assert {*some} < {*ARCHITECTURES}
    monkeypatch.setattr(main, "ARCHITECTURES", some)
    monkeypatch.setattr(main, "WINDOWS", (1,))
    task = PRESETS["smoke"]["digits-noisy-40"]
    monkeypatch.setitem(PRESETS, "smoke", {"digits-noisy-40": replace(task, teacher_students=1)})
    assert command_line(command(tmp_path, "--study", "architectures", "windows", "--seeds", "1")) == 0
    rows = [row for row in read_rows(tmp_path / "results.jsonl") if row.metric == "test_error"]
    found = {row.method for row in rows if not row.method.startswith(REPLAYED)}
    assert found == {"l2t-dln", *some, "l2t-dln:n-1"}
    bptt = next(row.config for row in rows if row.method == "l2t-dln:bptt-5")
    plain = next(row.config for row in rows if row.method == "l2t-dln")
    assert (bptt["learning_rate"], bptt["own"]) == (plain["learning_rate"], plain["own"])


def test_an_interrupted_online_teacher_goes_on_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "KEPT_EVERY", 1)
    expected = final("l2t-dln", 1, 0, tmp_path / "whole")
    add = work.History.__call__

    def stop(history: work.History, moment: Any) -> None:
        if moment.number == 2:
            raise KeyboardInterrupt
        add(history, moment)

    with monkeypatch.context() as patch:
        patch.setattr(work.History, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            final("l2t-dln", 1, 0, tmp_path / "part")
    assert list((tmp_path / "part").iterdir())
    for _ in range(2):  # once more after the teacher has ended, but before the rows are there
        found = final("l2t-dln", 1, 0, tmp_path / "part")
        assert (found.values, found.data, found.student_steps) == (
            expected.values,
            expected.data,
            expected.student_steps,
        )
        assert found.others[REPLAYED].values == expected.others[REPLAYED].values


def test_a_replay_is_the_same_sequence_of_losses_on_the_whole_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a step size of next to nothing, hence under the loss that is not taught."""
    online, fixed = METHODS["l2t-dln"], METHODS["loss-network"]
    assert fixed.environment == online.environment
    monkeypatch.setitem(
        METHODS, "l2t-dln", replace(online, candidates=({"policy": {"step_size": 1e-30}}, online.candidates[1]))
    )
    found = final("l2t-dln", 0, 0, tmp_path / "a")
    untaught = {**final("loss-network", 0, 0, tmp_path / "b").values, MOVED: 0.0, MOVED_MOST: 0.0}
    assert found.others[REPLAYED].values == untaught


def test_the_cosine_is_that_of_a_move_with_minus_the_gradient_before_it() -> None:
    gradients = [np.array([1.0, 0.0]), np.array([0.0, 2.0]), np.array([5.0, 5.0])]
    down = work.History([np.zeros(2), np.array([-1.0, 0.0]), np.array([-1.0, -3.0])], gradients=gradients)
    assert down.measures == {work.COSINE: pytest.approx(1.0)}
    across = work.History([np.zeros(2), np.array([0.0, 1.0]), np.array([0.0, 1.0])], gradients=gradients)
    assert across.measures == {work.COSINE: pytest.approx(0.0)}
    assert work.History([np.zeros(2)], gradients=gradients[:1]).measures == {}


def test_costs_and_imitation_are_rows_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(cost, "LENGTHS", (1, 2))
    monkeypatch.setattr(cost, "TURNS", 1)
    monkeypatch.setattr(cost, "CASES", {"mlp": ("TeachDigits-v0", {"batch_size": 5})})
    monkeypatch.setattr(imitation, "STEPS", (0, 20))
    monkeypatch.setattr(imitation, "SEEDS", 1)
    assert command_line(command(tmp_path, "--study", "cost", "imitation")) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.metric for row in rows if row.task == "cost"} == {
        "plain_seconds",
        "hypergradient_seconds",
        "iteration_seconds",
    }
    slopes = {row.method: row.value for row in rows if row.metric == "slope_error"}
    assert slopes["steps-20"] < slopes["steps-0"]
    assert "| mlp | 2 |" in (tmp_path / "table.md").read_text()
    for name in ("cost", "imitation"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    request.getfixturevalue("still")
    assert command_line(command(tmp_path, "--study", "cost", "imitation")) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows


@pytest.mark.parametrize("name", METHODS)
def test_what_is_made_of_a_method_leaves_it_as_it_is(name: str) -> None:
    before, method = repr(METHODS[name]), METHODS[name]
    for candidate in (0, 1):
        chosen = candidate_of(method.shared, Configuration({}, candidate))
        for options in (chosen.environment, chosen.teacher):
            for value in options.values():
                if isinstance(value, dict):
                    value["spoiled"] = True
    assert repr(METHODS[name]) == before


def test_presets_fit_their_tasks() -> None:
    for preset, tasks in PRESETS.items():
        for name, task in tasks.items():
            options = task.setting.options
            assert options["horizon"] % options["steps_per_action"] == 0, (preset, name)
            assert set(task.methods) <= set(METHODS)
            if task.architectures and preset != "smoke":
                assert all(options["horizon"] % n == 0 for n in WINDOWS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("segmentation-shapes",)}, "unknown task 'segmentation-shapes', did you mean 'segmentation-camvid'"),
        ({"methods": ("l2t-dlm",)}, "did you mean 'l2t-dln'"),
        ({"workers": 0}, "expected at least 1"),
    ],
)
def test_what_is_unknown_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(preset="laptop", **options)
