"""The benchmark of L2T-DLN, on digits and shapes in miniature."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main as command_line
from benchmarks.l2t_dln import cost, imitation, main, work
from benchmarks.l2t_dln.main import Options
from benchmarks.l2t_dln.methods import METHODS, RELEASED, RELEASED_METHOD, REPLAYED, STUDIES, Studied
from benchmarks.l2t_dln.presets import PRESETS, Task
from teachenv.experiment.cases import Outcome
from teachenv.experiment.evidence import MOVED, MOVED_MOST
from teachenv.experiment.rows import read_rows
from teachenv.experiment.setting import Configuration, Setting, candidate_of
from teachenv.experiment.teaching import Moment
from teachenv.losses.dynamic_network import initial_weights

DIGITS = Setting(
    "TeachDigits-v0",
    {"steps_per_action": 2, "horizon": 6, "batch_size": 4, "dev_size": 20, "pool_size": 60, "label_noise": 0.4},
    loss=None,
    final={"train_on": "pool"},
)
WRAPPER = {"dev_batch": 10}
RATES = (0.05, 0.1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(DIGITS, RATES, "error", ("cross-entropy", "l2t-dlf", "l2t-dln"), WRAPPER, 2, "l2t-dln", 2)
    monkeypatch.setitem(main.PRESETS, "smoke", {"digits-noisy-40": task})


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
    assert "| l2t-dln:replayed (untaught?) |" in (tmp_path / "table.md").read_text()
    measured = {(row.method, row.metric): row.value for row in final}
    assert all(0 < measured[name, MOVED] <= measured[name, MOVED_MOST] for name in ("l2t-dlf", "l2t-dln", REPLAYED))
    assert -1 <= measured["l2t-dln", work.COSINE] <= 1
    assert ("cross-entropy", MOVED) not in measured
    assert "l2t-dln" in capsys.readouterr().out
    request.getfixturevalue("undrawn")
    (tmp_path / "loss-digits-noisy-40.gif").unlink()
    assert command_line(command(tmp_path, "--check")) == 0
    assert not (tmp_path / "loss-digits-noisy-40.gif").exists()
    assert command_line(command(tmp_path)) == 0
    assert (tmp_path / "loss-digits-noisy-40.gif").exists()
    assert read_rows(tmp_path / "results.jsonl") == rows


def test_what_was_best_on_dev_is_trained(undrawn: None, tmp_path: Path) -> None:
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
    undrawn: None, one_rate: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every kind of teacher and rule of update has tests in `meta`; here one of each.
    some = ("l2t-dln:gru", "l2t-dln:adam", "l2t-dln:bptt-5")
    teachers, lengths = STUDIES[:2]
    assert {*some} < {*teachers.compared}
    studies = (teachers._replace(compared=some), lengths._replace(compared=("l2t-dln:n-1",)))
    monkeypatch.setattr(main, "STUDIES", studies)
    task = PRESETS["smoke"]["digits-noisy-40"]
    monkeypatch.setitem(PRESETS, "smoke", {"digits-noisy-40": replace(task, teacher_students=1)})
    assert command_line(command(tmp_path, "--study", "architectures", "windows", "--seeds", "1")) == 0
    rows = [row for row in read_rows(tmp_path / "results.jsonl") if row.metric == "test_error"]
    found = {row.method for row in rows if not row.method.startswith(REPLAYED)}
    assert found == {"l2t-dln", *some, "l2t-dln:n-1"}
    bptt = next(row.config for row in rows if row.method == "l2t-dln:bptt-5")
    plain = next(row.config for row in rows if row.method == "l2t-dln")
    assert (bptt["learning_rate"], bptt["own"]) == (plain["learning_rate"], plain["own"])


@pytest.mark.parametrize("method", ["l2t-dln", "l2t-dln:released:students-4"])
def test_an_interrupted_online_teacher_goes_on_bitwise(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "KEPT_EVERY", 1)
    monkeypatch.setitem(
        METHODS, method, replace(METHODS[method], students_factor=min(METHODS[method].students_factor, 2))
    )
    expected = final(method, 1, 0, tmp_path / "whole")
    add = work.History.__call__

    def stop(history: work.History, moment: Any) -> None:
        if moment.number == 2:
            raise KeyboardInterrupt
        add(history, moment)

    with monkeypatch.context() as patch:
        patch.setattr(work.History, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            final(method, 1, 0, tmp_path / "part")
    assert list((tmp_path / "part").iterdir())
    for _ in range(2):  # once more after the teacher has ended, but before the rows are there
        found = final(method, 1, 0, tmp_path / "part")
        assert (found.values, found.data, found.student_steps) == (
            expected.values,
            expected.data,
            expected.student_steps,
        )
        assert {name: other.values for name, other in found.others.items()} == {
            name: other.values for name, other in expected.others.items()
        }
        assert set(found.others) == ({REPLAYED} if METHODS[method].replays else set())


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


def windows(history: work.History, moves: Sequence[Any], gradients: Sequence[Any]) -> None:
    """Shows a history the windows of a teacher that moved so after such gradients."""
    env = DIGITS.make_single(METHODS["l2t-dln"].shared, Configuration({"learning_rate": 0.1}))
    actions = np.cumsum(moves, axis=0, dtype=np.float32)
    for number, (action, gradient) in enumerate(zip(actions, gradients, strict=True)):
        info = {"previewed_gradient": gradient, "previewed_error": number, "window_error": -number}
        history(Moment(number, env, action, {**info, "student_step": 2 * number + 2, "objective": 0.5}))


def test_cosines_are_those_of_a_move_with_minus_the_gradient_that_it_answered_and_with_ones() -> None:
    one, two = np.zeros(5000), np.zeros(5000)
    one[0], two[1] = 1.0, 2.0
    down, across, still = work.History(), work.History(), work.History()
    windows(down, [-one, -two, -np.ones(5000)], [one, two, np.ones(5000)])
    assert down.measures == {work.COSINE: pytest.approx(1.0)}
    assert [point[2] for point in down.drift] == pytest.approx([5000**-0.5, 5000**-0.5, 1], abs=1e-4)
    windows(across, [one, two, one], [two, one, two])
    assert across.measures == {work.COSINE: pytest.approx(0.0)}
    windows(still, np.zeros((3, 5000)), np.ones((3, 5000)))
    assert still.drift == [(2, 0, 0, 0), (4, 0, 0, 0), (6, 0, 0, 0)]


def test_a_point_of_a_history_stands_for_some_windows() -> None:
    history, unit = work.History(every=2), np.ones(5000)
    windows(history, [unit, -unit, unit], [unit, unit, unit])
    assert history.errors == [(4, 0.5, -0.5), (6, 2.0, -2.0)]
    assert [(step, along, ones) for step, along, ones, _ in history.drift] == [(4, 0, 1), (6, -1, 1)]
    size = float(initial_weights("cross-entropy").square().mean().sqrt())
    assert [way for *_, way in history.drift] == pytest.approx([0, 1 / size], rel=1e-3)
    # Of three windows all have a picture; of many more only some, whose actions are kept beside the points' own.
    assert [number for number, _ in history.actions] == [0, 1, 2]
    assert work.History().measures == {}


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
    request.getfixturevalue("undrawn")
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
            for name in (n for study in STUDIES if study.base == task.studied for n in study.compared):
                length = METHODS[name].steps_per_action or 1
                assert options["horizon"] % length == 0 or preset == "smoke"


def test_the_released_preset_is_the_released_codes_setting() -> None:
    by_default = {name for name, task in PRESETS["released"].items() if task.by_default}
    assert len(by_default) == 6
    for name, task in PRESETS["released"].items():
        for method in (*RELEASED, *(n for study in STUDIES if study.base == task.studied for n in study.compared)):
            teaches, options = METHODS[method], {**task.setting.options, **METHODS[method].environment}
            assert len(task.rates) == 1
            if "loss-network" in method or "l2t-dln" in method:
                assert teaches.steeper == 1.0
            assert (options["momentum"], options["lr_schedule"], options["batch_size"]) == (0.0, "constant", 25)
            assert options["horizon"] == 2500 * 15
            assert (task.wrapper["dev_batch"], options["objective"]) == (100, "likelihood")
            if teaches.kind == "online":
                loss, policy = options["loss_kwargs"], teaches.options["policy_kwargs"]
                assert (loss["per"], loss["scale"]) == ("rows", task.wrapper["unit"])
                if not any(part in method for part in (":sgd", ":step-")):
                    assert policy["step_size"] * loss["scale"] == pytest.approx(1e-3), name


def test_the_released_teacher_is_compared_without_tuning_and_what_might_mend_it_studied(
    undrawn: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {**DIGITS.options, "objective": "likelihood", "dev_size": 30}
    monkeypatch.setattr(work, "WINDOWS", 2)
    fixed = ("cross-entropy:rate-0.01", "loss-network:released", "loss-network:released:random")
    taught = RELEASED_METHOD
    task = replace(
        PRESETS["released"]["digits-noisy-40-released"],
        setting=replace(DIGITS, options=options, final={}),
        methods=(*fixed, taught),
        wrapper={"dev_batch": 10, "unit": 10.0},
        seeds=1,
    )
    monkeypatch.setitem(PRESETS, "smoke", {"digits": task})
    mends = Studied.of("mends", "what might mend it", taught, "students-4")
    (mended,) = mends.compared
    monkeypatch.setattr(main, "STUDIES", (mends,))
    monkeypatch.setitem(METHODS, mended, replace(METHODS[mended], students_factor=2))
    assert command_line(command(tmp_path, "--study", "table", "mends")) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.config["stage"] for row in rows} == {"training"}
    spent = {row.method: row.student_steps for row in rows}
    assert spent == {**dict.fromkeys(fixed, 6), taught: 12, mended: 24}
    configs = {row.method: row.config for row in rows}
    assert configs[fixed[0]]["learning_rate"] == 0.01
    assert configs[fixed[2]]["environment"]["loss_kwargs"]["seed"] == 0
    drifts = {row.method: row.data["drift"] for row in rows if row.data and "drift" in row.data}
    assert {name: [step for step, *_ in drift] for name, drift in drifts.items()} == {taught: [4, 6], mended: [4, 6]}
    assert command_line(command(tmp_path, "--check")) == 0


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
