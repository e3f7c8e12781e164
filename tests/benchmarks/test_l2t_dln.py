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
from benchmarks.l2t_dln.work import Configuration, Setting
from teachenv.experiment.rows import ResultsFile, read_rows

DIGITS = Setting(
    "TeachDigits-v0",
    {"steps_per_action": 2, "horizon": 6, "batch_size": 4, "dev_size": 20, "pool_size": 60, "label_noise": 0.4},
    {"dev_batch": 10},
    2,
)
RATES = (0.05, 0.1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(DIGITS, RATES, "error", ("cross-entropy", "l2t-dlf", "l2t-dln"), True, 2)
    monkeypatch.setitem(main.PRESETS, "smoke", {"digits-noisy-40": task})


def command(out: Path, *more: str) -> list[str]:
    return ["l2t_dln", "--preset", "smoke", "--workers", "1", "--out", str(out), *more]


def test_methods_are_tuned_trained_and_shown_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert "| l2t-dln:replayed |" in (tmp_path / "table.md").read_text()
    assert "l2t-dln" in capsys.readouterr().out
    assert command_line(command(tmp_path)) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows


def test_what_was_best_on_dev_is_trained(tmp_path: Path) -> None:
    assert command_line(command(tmp_path, "--methods", "cross-entropy", "--seeds", "1")) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    scores = {
        (row.config["learning_rate"], json.dumps(row.config["own"])): row.value
        for row in rows
        if (row.config["stage"], row.metric) == ("tuning", "dev_accuracy")
    }
    assert len(scores) == 2 * len(RATES)
    chosen = next(row.config for row in rows if row.metric == "test_error")
    assert scores[chosen["learning_rate"], json.dumps(chosen["own"])] == max(scores.values())


def test_the_studies_of_teachers_and_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "WINDOWS", (1,))
    assert command_line(command(tmp_path, "--study", "architectures", "windows", "--seeds", "1")) == 0
    rows = [row for row in read_rows(tmp_path / "results.jsonl") if row.metric == "test_error"]
    found = {row.method for row in rows if not row.method.startswith(REPLAYED)}
    assert found == {"l2t-dln", *ARCHITECTURES, "l2t-dln:n-1"}
    bptt = next(row.config for row in rows if row.method == "l2t-dln:bptt-5")
    plain = next(row.config for row in rows if row.method == "l2t-dln")
    assert (bptt["learning_rate"], bptt["own"]) == (plain["learning_rate"], plain["own"])


def test_an_interrupted_online_teacher_goes_on_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work._Followed.__init__, "__defaults__", (1,))
    arguments: dict[str, Any] = {
        "setting": DIGITS,
        "method": "l2t-dln",
        "configuration": Configuration(0.1, 1),
        "seed": 3,
        "final": True,
    }
    expected = work.run(**arguments, checkpoint=tmp_path / "whole")
    taken = []

    def stop(self: Any) -> bool:
        taken.append(self.num_timesteps)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return bool(on_step(self))

    on_step = work._Followed._on_step
    with monkeypatch.context() as patch:
        patch.setattr(work._Followed, "_on_step", stop)
        with pytest.raises(KeyboardInterrupt):
            work.run(**arguments, checkpoint=tmp_path / "part")
    assert (tmp_path / "part.zip").exists()
    found = work.run(**arguments, checkpoint=tmp_path / "part")
    for name in ("scores", "replayed", "curve", "errors", "pictures", "steps"):
        assert getattr(found, name) == getattr(expected, name), name


def test_a_replay_is_the_same_sequence_of_losses_on_the_whole_pool(tmp_path: Path) -> None:
    """With a step size of next to nothing, hence under the loss that is not taught."""
    method = METHODS["loss-network"]
    tiny = METHODS["l2t-dln"]
    own = ({"policy": {"step_size": 1e-30}}, tiny.own[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "l2t-dln", replace(tiny, own=own))
        found = work.run(DIGITS, "l2t-dln", Configuration(0.1, 0), 0, True, tmp_path / "a")
    assert method.environment == tiny.environment
    fixed = work.run(DIGITS, "loss-network", Configuration(0.1, 0), 0, True, tmp_path / "b")
    assert found.replayed == fixed.scores


def test_costs_and_imitation_are_rows_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "LENGTHS", (1, 2))
    monkeypatch.setattr(cost, "TURNS", 1)
    monkeypatch.setattr(cost, "CASES", {"mlp": ("TeachDigits-v0", {"batch_size": 5})})
    monkeypatch.setattr(cost, "alone", lambda function, **arguments: function(**arguments))
    monkeypatch.setattr(imitation, "STEPS", (0, 20))
    monkeypatch.setattr(imitation, "SEEDS", 1)
    results = ResultsFile(tmp_path / "results.jsonl")
    cost.run(results, "l2t_dln")
    imitation.run(results, "l2t_dln", 1)
    rows = results.rows()
    assert {row.metric for row in rows if row.task == "cost"} == {
        "plain_seconds",
        "hypergradient_seconds",
        "iteration_seconds",
    }
    slopes = {row.method: row.value for row in rows if row.metric == "slope_error"}
    assert slopes["steps-20"] < slopes["steps-0"]
    report.make(rows, {}).write(tmp_path)
    assert "| mlp | 2 |" in (tmp_path / "table.md").read_text()
    for name in ("cost", "imitation"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    cost.run(results, "l2t_dln")
    imitation.run(results, "l2t_dln", 1)
    assert results.rows() == rows


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
