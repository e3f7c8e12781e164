"""The comparison: its protocol, its files, and what happens when it is interrupted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare import Options, main
from teachenv.experiment import comparison as engine
from teachenv.experiment import comparison_report
from teachenv.experiment.backends import make_backend
from teachenv.experiment.cases import CasesFailed, Outcome, Session
from teachenv.experiment.contest import Rung
from teachenv.experiment.evidence import check
from teachenv.experiment.rows import ResultsFile, read_rows
from teachenv.experiment.setting import Configuration, Setting
from teachenv.experiment.teaching import _Ended
from teachenv.vector_env import TeachVectorEnv

METHODS_UNDER_TEST = ("cross-entropy", "rmd")


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
def small(undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def options(folder: Path, **changes: object) -> Options:
    arguments = {
        "preset": "smoke",
        "out": folder,
        "methods": METHODS_UNDER_TEST,
        "horizon": 6,
        "backend": "inline",
    }
    return Options(**arguments | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, leave_undrawn: Callable[[pytest.MonkeyPatch], None]) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        leave_undrawn(patch)
        main.run(options(folder))
    return folder


@pytest.mark.parametrize("asked", [{}, {"loss": "bilinear-sigmoid"}, {"env": "TeachDistill-v0"}])
def test_grids_are_of_equal_size(asked: dict[str, str], tmp_path: Path) -> None:
    methods = options(tmp_path, methods=None, **asked).kind.methods
    own = {name for name, method in methods.items() if method.tuned_as is None}
    (contest,) = main.comparison_of(options(tmp_path, methods=tuple(own), label_noise=(0.0,), **asked)).contests
    assert {len(contest.grid(name)) for name in own} == {48}
    assert {method.tuned_as for method in methods.values()} <= {None, *own}


def test_every_configuration_can_be_shown() -> None:
    for name, method in [*main.LOSSES.methods.items(), *main.DISTILLATION.methods.items()]:
        for candidate in method.candidates:
            own = {**candidate.environment, **candidate.teacher}
            shown = comparison_report.described({"learning_rate": 0.1, "lr_schedule": "linear", "own": own})
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
        assert (finished / f"{name}.png").exists()


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
    monkeypatch.setattr(engine, "train", None)
    monkeypatch.setattr(engine, "tune", None)
    main.run(options(finished))
    assert (finished / "results.jsonl").read_bytes() == before


def test_a_check_runs_nothing_and_finds_what_lacks_evidence(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no table .* run the benchmark first"):
        check("compare", tmp_path, main.TABLES)
    for file in finished.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    rows = tmp_path / "results.jsonl"
    before = rows.read_bytes()
    check("compare", tmp_path, main.TABLES)
    assert rows.read_bytes() == before
    (tmp_path / "table.md").write_text((tmp_path / "table.md").read_text().replace("rmd", "rmd*"))
    with pytest.raises(ValueError, match=r"table\.md does not agree with the rows"):
        check("compare", tmp_path, main.TABLES)
    rows.write_bytes(b"".join(line for line in before.splitlines(True) if b'"teacher_effect"' not in line))
    with pytest.raises(ValueError, match=r"found 2 lines with a teacher .*\(digits: rmd, digits-noisy-40: rmd"):
        check("compare", tmp_path, main.TABLES)


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


def test_distillation_has_methods_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One table of RL, gradient and influence teachers; all of them weigh samples."""
    monkeypatch.setitem(main.PRESETS, "smoke", replace(main.PRESETS["smoke"], rungs=(), points=1))  # nothing is tuned
    chosen = options(tmp_path, env="TeachDistill-v0", methods=None, label_noise=(0.4,), seeds=1, horizon=3)
    main.run(chosen)
    rows = read_rows(tmp_path / "results.jsonl")
    errors = {r.method: r for r in rows if r.metric == "test_error"}
    assert set(errors) == set(main.DISTILLATION.run)
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
    made = main.comparison_of(options(finished)).report(read_rows(finished / "results.jsonl"))
    assert made.table() == (finished / "table.md").read_text()


def test_shipped_tuning_is_used(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "compare").symlink_to(finished)
    monkeypatch.setattr(main, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(engine, "tune", None)
    main.run(options(tmp_path, label_noise=(0.4,)))
    assert errors(tmp_path) == [error for error in errors(finished) if error[0] == "digits-noisy-40"] != []
    with pytest.raises(CasesFailed, match="NoneType"):
        main.run(options(tmp_path / "anew", retune=True))


def errors(folder: Path) -> list[tuple[str, str, int, float]]:
    rows = read_rows(folder / "results.jsonl")
    return [(r.task, r.method, r.seed, r.value) for r in rows if r.metric == "test_error"]


RATE = {"learning_rate": 0.2, "lr_schedule": "linear"}


def train(folder: Path, budget: int, points: int) -> Outcome:
    """One of the benchmark's trainings."""
    setting, method = Setting("TeachDigits-v0", {"horizon": 6}), main.LOSSES.methods["rmd"]
    return engine.train(setting, method, Configuration(RATE), 0, budget, 2, points, 2, 3, folder)


def test_a_teacher_continues_from_its_folder(tmp_path: Path) -> None:
    whole, again = train(tmp_path, 48, 4), train(tmp_path, 48, 4)
    assert again.values == whole.values
    assert again.data == whole.data
    assert [(r.student_steps, r.value) for r in again.readings] == [(r.student_steps, r.value) for r in whole.readings]


def test_test_split_is_touched_once_by_final_students_on_the_whole_pool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    touched = []
    original = TeachVectorEnv.evaluate_final

    def watched(self: TeachVectorEnv, split: str = "test") -> dict[str, np.ndarray]:
        touched.append((split, self.problem.settings.train_on))
        return original(self, split)

    monkeypatch.setattr(TeachVectorEnv, "evaluate_final", watched)
    train(tmp_path, 24, 2)
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

    ended = _Ended(Env(), ("dev",))  # type: ignore[arg-type]
    diverged = {"objective": np.array([0.0, 0.2, 0.0]), "diverged": np.array([False, True, False])}
    over = np.array([False, True, False])
    assert ended.step(over, {"objective": np.array([0.4, 5.0, 0.6]), "final_info": diverged}) == pytest.approx(0.4)
    assert ended.step(~over & over, {"objective": np.array([0.5, 6.0, 0.8])}) == pytest.approx(0.5)
    whole = {"objective": np.array([0.6, 0.0, 0.7]), "diverged": np.zeros(3, dtype=bool)}
    assert ended.step(~over, {"objective": np.full(3, 7.0), "final_info": whole}) == pytest.approx(0.5)
    assert ended.scores["dev_accuracy"].tolist() == [0.7, 0.1, 0.9]
    assert ended.diverged.tolist() == over.tolist()


def test_trainings_of_any_names_and_settings_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(ResultsFile(tmp_path / "results.jsonl"), make_backend("inline"))
    folders = set[Path]()
    for final_students in (4, 5):
        size = replace(main.PRESETS["smoke"], final_students=final_students, rungs=())
        monkeypatch.setitem(main.PRESETS, "smoke", size)
        comparison = main.comparison_of(options(tmp_path, label_noise=(0.125, 0.12)))
        assert {contest.name for contest in comparison.contests} == {"digits-noisy-12.5", "digits-noisy-12"}
        folders |= {session.folder_of(case) for case in comparison.trainings(comparison.contests, session)}
    assert len(folders) == 2 * 2 * 2 * len(METHODS_UNDER_TEST)


def test_tuning_anew_is_said(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "compare").symlink_to(finished)
    monkeypatch.setattr(main, "SHIPPED", tmp_path / "shipped")
    session = Session(ResultsFile(tmp_path / "results.jsonl"), make_backend("inline"))
    comparison = main.comparison_of(options(tmp_path, horizon=12))
    next(iter(comparison.stages))(session)
    said = capsys.readouterr().err
    assert said.startswith("tuning 16 of 16 configurations anew: neither ")
    assert said.count("\n") == 1
