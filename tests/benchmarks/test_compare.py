"""The comparison: its protocol, its files, and what happens when it is interrupted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.compare.methods import LEARNING_RATES, METHODS, TABLE
from benchmarks.comparison import engine, work
from benchmarks.comparison.engine import Rung
from benchmarks.comparison.methods import Configuration, Table
from benchmarks.comparison.work import Setting

from benchmarks.checkpoints import ending
from benchmarks.compare import Options, distillation, main
from benchmarks.compare import report as compare_report
from teachenv.experiment import comparison_report
from teachenv.experiment.rows import read_rows
from teachenv.vector_env import TeachVectorEnv

METHODS_UNDER_TEST = ("cross-entropy", "label-smoothing", "random", "rmd")


def shrink(patch: pytest.MonkeyPatch) -> None:
    """A preset that takes seconds, and no tuning from earlier runs."""
    small = main.Size(
        seeds=2,
        student_steps=24,
        parallel=2,
        rungs=(Rung(4, 12, 2, 2), Rung(2, 24, 2, 3)),
        points=2,
        students=2,
        final_students=3,
        label_noise=(0.0, 0.4),
    )
    patch.setitem(main.PRESETS, "smoke", small)
    patch.setattr(main, "SHIPPED", Path("nowhere"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def options(folder: Path, **changes: object) -> Options:
    arguments = {"preset": "smoke", "out": folder, "methods": METHODS_UNDER_TEST, "horizon": 6, "workers": 1} | changes
    return Options(**arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        main.run(options(folder))
    return folder


@pytest.mark.parametrize(
    ("table", "loss"), [*((TABLE, loss) for loss in LEARNING_RATES), (distillation.TABLE, "distillation")]
)
def test_grids_are_of_equal_size(table: Table, loss: str) -> None:
    methods = table.methods
    own_tuning = {name for name, method in methods.items() if method.tuned_as is None}
    assert {len(table.grid(name, loss)) for name in own_tuning} == {48}
    assert all(methods[method.tuned_as].tuned_as is None for method in methods.values() if method.tuned_as)


def test_every_configuration_can_be_shown() -> None:
    for name, method in [*METHODS.items(), *distillation.METHODS.items()]:
        for own in method.own:
            config = {"learning_rate": 0.1, "lr_schedule": "linear", "own": {**own.environment, **own.teacher}}
            shown = comparison_report.described(config)
            assert shown.startswith("lr 0.1 linear"), name
            assert "{" not in shown, name
    nested = {"loss": "a", "policy_kwargs": {"net_arch": {"pi": [], "qf": [128, 64]}}, "loss_kwargs": {"scale": 0.5}}
    config = {"learning_rate": 0.1, "lr_schedule": "linear", "own": nested}
    assert comparison_report.described(config) == "lr 0.1 linear, qf 128-64, scale 0.5"


def test_rows_table_and_figures(finished: Path) -> None:
    rows = read_rows(finished / "results.jsonl")
    errors = Counter((r.task, r.method) for r in rows if r.metric == "test_error")
    assert errors == {(t, m): 2 for t in ("digits", "digits-noisy-40") for m in METHODS_UNDER_TEST}
    assert all(0 <= r.value <= 1 for r in rows if r.metric in ("test_error", "dev_accuracy"))
    assert all(r.dataset == "digits" and r.student == "mlp" for r in rows)
    table = (finished / "table.md").read_text()
    assert all(method in table for method in METHODS_UNDER_TEST)
    for name in ("test_error", "teacher_training", "learning_curves", "coefficients-digits"):
        assert (finished / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_tuning_halves_and_never_sees_test(finished: Path) -> None:
    rows = [r for r in read_rows(finished / "results.jsonl") if r.config["stage"] == "tuning"]
    assert {r.metric for r in rows} == {"dev_accuracy"}
    per_rung = Counter((r.task, r.method, r.config["students"]) for r in rows)
    assert set(per_rung.values()) == {4, 2}
    rmd = [r for r in rows if r.method == "rmd"]
    assert {(r.config["students"], r.config["budget"]) for r in rmd} == {(2, 12), (3, 24)}


def test_the_best_of_the_last_rung_is_used(finished: Path) -> None:
    rows = read_rows(finished / "results.jsonl")
    keys = ("learning_rate", "lr_schedule", "own")
    for method in METHODS_UNDER_TEST:
        last = [
            r
            for r in rows
            if (r.task, r.method, r.metric) == ("digits", method, "dev_accuracy") and r.config["students"] == 3
        ]
        used = next(r for r in rows if (r.task, r.method, r.metric) == ("digits", method, "test_error")).config
        best = max(last, key=lambda r: r.value)
        tied = [r for r in last if r.value == best.value]
        assert any(all(r.config[k] == used[k] for k in keys) for r in tied)


def test_teachers_spend_the_budget_and_are_followed(finished: Path) -> None:
    rows = [r for r in read_rows(finished / "results.jsonl") if r.config["stage"] == "training"]
    followed = [
        r.student_steps for r in rows if (r.task, r.method, r.seed, r.metric) == ("digits", "rmd", 0, "dev_objective")
    ]
    assert followed == [0, 12, 24]
    assert {r.student_steps for r in rows if r.method == "cross-entropy"} == {0}


def test_running_again_changes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished / "results.jsonl").read_bytes()
    monkeypatch.setattr(work, "train", None)
    monkeypatch.setattr(work, "tune", None)
    main.run(options(finished))
    assert (finished / "results.jsonl").read_bytes() == before


def test_an_interrupted_run_continues(finished: Path, tmp_path: Path) -> None:
    lines = (finished / "results.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["method"] != "rmd" or json.loads(line)["seed"] == 0]
    (tmp_path / "results.jsonl").write_text("".join(kept))
    main.run(options(tmp_path))

    def values(folder: Path) -> dict[tuple[str, str, int, str, int], float]:
        rows = read_rows(folder / "results.jsonl")
        return {
            (r.task, r.method, r.seed, r.metric, r.student_steps): r.value
            for r in rows
            if r.config["stage"] == "training"
        }

    assert values(tmp_path) == values(finished)


def test_distillation_has_methods_of_its_own(tmp_path: Path) -> None:
    """One table of RL, gradient and influence teachers; all of them weigh samples."""
    chosen = options(tmp_path, env="TeachDistill-v0", methods=None, label_noise=(0.4,), seeds=1, horizon=3)
    main.run(chosen)
    rows = read_rows(tmp_path / "results.jsonl")
    errors = {r.method: r for r in rows if r.metric == "test_error"}
    assert set(errors) == set(main.DISTILLATION.methods)
    assert {(r.task, r.student) for r in rows} == {("digits-noisy-40", "mlp beside mlp")}
    assert not list(tmp_path.glob("coefficients-*"))  # places in a minibatch mean nothing
    assert {r.config["loss"] for r in errors.values()} == {None, "distillation"}
    objectives = {r.method: r.value for r in rows if r.metric == "dev_objective"}
    assert len(set(objectives.values())) == len(objectives)
    assert all(value < 0 for value in objectives.values())
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {method}" in table for method in errors)


def test_what_does_not_fit_the_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rmd"):
        options(tmp_path, env="TeachDistill-v0", methods=("cross-entropy",))
    with pytest.raises(ValueError, match="loss of its own"):
        options(tmp_path, env="TeachDistill-v0", methods=None, loss="bilinear-sigmoid")


def test_the_table_comes_from_the_rows_alone(finished: Path) -> None:
    made = compare_report.make(read_rows(finished / "results.jsonl"), "bilinear", 2)
    assert made.table() == (finished / "table.md").read_text()


def test_shipped_tuning_is_taken_over(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "compare").symlink_to(finished)
    monkeypatch.setattr(main, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(work, "tune", None)
    best = main.comparison_of(options(tmp_path)).tune()
    assert len(best) == 2 * len(METHODS_UNDER_TEST)
    with pytest.raises(Exception, match="NoneType"):
        main.comparison_of(options(tmp_path / "anew", retune=True)).tune()


def test_a_checkpoint_of_other_settings_is_not_taken_up(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(finished / "results.jsonl", tmp_path)
    checkpoints: list[set[Path]] = []

    def record(jobs: Any, *_: Any) -> None:
        if jobs:
            checkpoints.append({job.kwargs["checkpoint"] for job in jobs})

    monkeypatch.setattr(engine, "run_jobs", record)
    for final_students in (4, 5):
        size = dataclasses.replace(main.PRESETS["smoke"], final_students=final_students)
        monkeypatch.setitem(main.PRESETS, "smoke", size)
        main.run(options(tmp_path))
    first, second = checkpoints
    assert len(first) == len(second) == 2 * 2 * len(METHODS_UNDER_TEST)
    assert not first & second


def test_a_teacher_continues_from_its_checkpoint(tmp_path: Path) -> None:
    setting, configuration = (
        Setting("benchmarks.compare.methods:TABLE", "TeachDigits-v0", {"horizon": 6}),
        Configuration(0.2, "linear", 0),
    )
    arguments = (setting, "rmd", configuration, 0, 48, 2, 4, 2, 3)
    whole = work.train(*arguments, tmp_path / "whole")
    for suffix in (".zip", ".points"):
        (tmp_path / f"part{suffix}").write_bytes((tmp_path / f"whole{suffix}").read_bytes())
    resumed = work.train(*arguments, tmp_path / "part")
    assert resumed.pool == whole.pool
    assert resumed.split == whole.split
    assert [(s, v) for s, _, v in resumed.points] == [(s, v) for s, _, v in whole.points]


def test_test_split_is_touched_once_by_final_students_on_the_whole_pool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    touched = []
    original = TeachVectorEnv.evaluate_final

    def watched(self: TeachVectorEnv, split: str = "test") -> dict[str, np.ndarray]:
        touched.append((split, self.teaching.settings.train_on))
        return original(self, split)

    monkeypatch.setattr(TeachVectorEnv, "evaluate_final", watched)
    setting = Setting("benchmarks.compare.methods:TABLE", "TeachDigits-v0", {"horizon": 6})
    work.train(setting, "rmd", Configuration(0.2, "linear", 0), 0, 24, 2, 2, 2, 3, tmp_path / "teacher")
    assert [found for found in touched if found[0] == "test"] == [("test", "pool")]


def test_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'rmd'"):
        options(tmp_path, methods=("rmdd",))


def test_a_student_that_diverges_is_none_of_those_that_begin_in_its_place() -> None:
    """Of three the second diverges at once, and another begins."""

    class Env:
        num_envs = 3
        accuracy = iter(([9.0, 0.1, 9.0], [0.7, 9.0, 0.9]))

        def evaluate_final(self, split: str) -> dict[str, np.ndarray]:
            return {"dev_accuracy": np.array(next(self.accuracy))}

    ended = work._Ended(Env(), False)  # type: ignore[arg-type]
    diverged = {"objective": np.array([0.0, 0.2, 0.0]), "diverged": np.array([False, True, False])}
    over = np.array([False, True, False])
    assert ended.step(over, {"objective": np.array([0.4, 5.0, 0.6]), "final_info": diverged}) == pytest.approx(0.4)
    assert ended.step(~over & over, {"objective": np.array([0.5, 6.0, 0.8])}) == pytest.approx(0.5)
    whole = {"objective": np.array([0.6, 0.0, 0.7]), "diverged": np.zeros(3, dtype=bool)}
    assert ended.step(~over, {"objective": np.full(3, 7.0), "final_info": whole}) == pytest.approx(0.5)
    assert ended.measured["dev_accuracy"].tolist() == [0.7, 0.1, 0.9]
    assert ended.diverged.tolist() == over.tolist()


def test_teachers_of_a_task_with_a_dot_in_its_name_have_a_file_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []

    def record(jobs: Any, *_: Any) -> None:
        files.extend(ending(job.kwargs["checkpoint"], "zip") for job in jobs if "checkpoint" in job.kwargs)

    comparison = main.comparison_of(options(tmp_path, label_noise=(0.125, 0.12)))
    configuration = Configuration(0.2, "linear", 0)
    best = {(task.name, name): configuration for task in comparison.tasks for name in METHODS_UNDER_TEST}
    assert {task.name for task in comparison.tasks} == {"digits-noisy-12.5", "digits-noisy-12"}
    monkeypatch.setattr(engine, "run_jobs", record)
    comparison._train(
        [(task, name, seed) for task in comparison.tasks for name in METHODS_UNDER_TEST for seed in (0, 1)], best
    )
    assert len(files) == len(set(files)) == 2 * 2 * len(METHODS_UNDER_TEST)
    assert {file.name.count(".") for file in files} == {1}


def test_tuning_anew_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(engine, "run_jobs", stop)
    with pytest.raises(Stop):
        main.run(options(tmp_path))
    said = capsys.readouterr().err
    assert said.startswith("tuning 32 of 32 configurations anew: neither ")
    assert said.count("\n") == 1
