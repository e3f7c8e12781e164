"""L2T-DLF on images: its protocol on small data, and what its tables and figures are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meta
from benchmarks.l2t_dlf_images import Options, large, main, report
from benchmarks.l2t_dlf_images.methods import methods, published
from benchmarks.l2t_dlf_images.published import ERRORS
from teachenv.experiment import Session, make_backend
from teachenv.experiment import comparison as engine
from teachenv.experiment.cases import Outcome
from teachenv.experiment.comparison_report import Results, teacher_training
from teachenv.experiment.contest import Effort, Rung
from teachenv.experiment.row import Row
from teachenv.experiment.rows import ResultsFile, read_rows
from teachenv.experiment.setting import Configuration, Setting
from teachenv.experiment.teachers import TEACHER
from teachenv.students.resnet import resnet20

EFFORT = Effort(
    student_steps=12,
    parallel=1,
    rungs=(Rung(2, 6, 1, 1, 0.5), Rung(1, 12, 1, 2)),
    points=2,
    students=1,
    final_students=2,
)
SHORT = {"student": "mlp", "horizon": 6, "steps_per_action": 2, "dev_size": 300, "batch_size": 8}
TAUGHT = ("cross-entropy", "l2t-data", "rmd", "rmd:generalized", "l2t-dlf")


def part(table: int, chosen: tuple[str, ...], source: str | None = None, **more: Any) -> main.Part:
    """A part on digits, whose final training is twice as long as a teacher's episode."""
    final = {"horizon": 12, "steps_per_action": 4}
    return main.Part(table, "TeachDigits-v0", {**SHORT, **more}, EFFORT, chosen, final, source)


PARTS = {
    "mnist-mlp": part(1, TAUGHT),
    "mnist-lenet": part(1, ("cross-entropy", "rmd:transferred"), "mnist-mlp", student_kwargs={"hidden": [16]}),
    "cifar10-resnet8": part(2, ("cross-entropy",)),
}


def shrink(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(main.PRESETS, "smoke", PARTS)
    patch.setattr(main, "SHIPPED", Path("nowhere.jsonl"))


@pytest.fixture(autouse=True)
def small(undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def options(folder: Path, **changes: Any) -> Options:
    return Options(**{"preset": "smoke", "out": folder, "backend": "inline", "seeds": 2, "table": 1} | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, leave_undrawn: Callable[[pytest.MonkeyPatch], None]) -> Path:
    folder = tmp_path_factory.mktemp("l2t_dlf_images")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        leave_undrawn(patch)
        main.run(options(folder))
    return folder


METHODS = methods((0.05, 0.1, 0.2))


def test_grids_are_of_equal_size(tmp_path: Path) -> None:
    (contest,) = main.comparison_of(options(tmp_path, table=2)).contests
    own = {name for name, method in METHODS.items() if method.tuned_as is None}
    assert {len(contest.grid(name)) for name in own} == {12}
    assert {method.tuned_as for method in METHODS.values()} <= {None, *own}


def test_each_sharpness_of_the_smooth_error_has_rates_at_which_it_trains(tmp_path: Path) -> None:
    (contest,) = main.comparison_of(options(tmp_path, table=2)).contests
    tried = [contest.setting.make_single(METHODS["smooth-01"], c).problem.settings for c in contest.grid("smooth-01")]
    rates = {settings.learning_rate for settings in tried if settings.loss_kwargs["sharpness"] == 50}
    assert rates == {0.0005, 0.001, 0.002}
    sigmoid = {configuration.student["learning_rate"] for configuration in contest.grid("sigmoid:tuned")}
    assert max(sigmoid) == pytest.approx(3.2)


def test_episodes_can_have_a_gentler_learning_rate_than_the_final_training() -> None:
    setting = Setting("TeachDigits-v0", SHORT, final={"horizon": 12})
    fastest = Configuration({"learning_rate": 0.4, "lr_schedule": "linear"})

    def rate(setting: Setting, method: str) -> float:
        return setting.make_single(METHODS[method], fastest).problem.settings.learning_rate

    assert (rate(setting, "rmd:generalized"), rate(setting.lasting(), "rmd:generalized")) == (0.1, 0.4)
    assert (rate(setting, "rmd"), rate(setting.lasting(), "rmd")) == (0.4, 0.4)
    assert METHODS["rmd:generalized"].rates == METHODS["generalized-cross-entropy"].rates


def test_tasks_and_methods_are_the_presets_unless_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def asked(**given: Any) -> dict[str, tuple[str, ...]]:
        return {name: part.methods for name, part in main.chosen(Options(**given)).items()}

    assert asked(preset="smoke") == {"mnist-mlp": ("cross-entropy", "rmd"), "cifar10-resnet8": ("rmd",)}
    assert "ddpg" in asked(preset="smoke", tasks=("mnist-lenet",))["mnist-lenet"]
    assert asked(preset="smoke", tasks=("mnist-lenet",), methods=("focal",)) == {"mnist-lenet": ("focal",)}
    laptop = asked(preset="laptop")
    assert {"rmd:sigmoid", "sigmoid:tuned"} <= {*laptop["mnist-mlp"]}
    assert "rmd:sigmoid" not in laptop["mnist-mlp-noisy-40"]
    assert set(asked(preset="laptop", methods=("rmd:sigmoid",))) == {"mnist-mlp", "mnist-mlp-noisy-40"}


def test_the_published_preset_is_the_papers_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tuned; 60 updates of one student each, at a constant rate of Adam, in a box whose sides are far."""
    monkeypatch.undo()
    parts, known = main.PRESETS["published"], {**METHODS, **published()}
    assert [part.options["batch_size"] for part in parts.values()] == [20, 500]
    for part in parts.values():
        assert not part.effort.rungs
        assert part.effort.student_steps == 60 * part.options["horizon"]
        assert (part.rates, part.schedules, part.effort.parallel) == ((0.01,), ("constant",), 1)
    options = {"horizon": 4, "steps_per_action": 2, "dev_size": 50, "batch_size": 8}
    setting, configuration = Setting("TeachDigits-v0", options), Configuration({})
    objectives = {}
    for name, method in known.items():
        if name.startswith("published"):
            teacher = setting.teacher(method, configuration, 0, 1)
            assert teacher.lr_schedule(1.0) == teacher.lr_schedule(0.0) == 1e-4
            # Φ₀ = I, to what the first update may move.
            assert 0 < np.abs(teacher.predict(teacher.env.reset(), deterministic=True)[0]).max() < 1e-4
            settings = teacher.env.get_attr("problem")[0].settings
            assert (settings.momentum, settings.loss, settings.loss_kwargs["scale"]) == (0.9, "bilinear-sigmoid", 1.0)
            objectives[name] = settings.objective, settings.objective_temperature
    assert objectives == {
        "published": ("accuracy", 1.0),
        "published:tau-0.2": ("accuracy", 0.2),
        "published:margin": ("margin", 0.02),
        "published:mixture": ("margin", 0.02),
    }


@pytest.mark.parametrize("preset", ["smoke", "laptop", "published", "paper"])
def test_every_task_of_every_preset_can_be_made(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    parts, known = main.PRESETS[preset], {**METHODS, **published()}  # type: ignore[index]
    for name, one in parts.items():
        assert set(one.by_default or ()) <= set(one.methods) <= known.keys(), name
        assert one.source is None or one.source in parts
        transferred = [method for method in one.methods if known[method].taught_as is not None]
        assert bool(transferred) <= (one.source is not None)
        for horizon in (one.options, {**one.options, **one.final}):
            assert horizon["horizon"] % horizon["steps_per_action"] == 0
        actions = {o["horizon"] // o["steps_per_action"] for o in (one.options, {**one.options, **one.final})}
        assert len(actions) == 1


def test_rows_table_and_figures(finished: Path) -> None:
    rows = read_rows(finished / "results.jsonl")
    errors = Counter((r.task, r.method) for r in rows if r.metric == "test_error")
    expected = [("mnist-mlp", m) for m in TAUGHT] + [("mnist-lenet", m) for m in ("cross-entropy", "rmd:transferred")]
    assert errors == dict.fromkeys(expected, 2)
    points = [r.student_steps for r in rows if (r.method, r.metric, r.seed) == ("rmd", "dev_objective", 0)]
    assert points == [0, 6, 12]
    table = (finished / "table.md").read_text()
    assert all(method in table for method in (*TAUGHT, "rmd:transferred"))
    assert "p " in table
    for name in ("test_error", "figure3", "teacher_training", "learning_curves", "coefficients-mnist-mlp"):
        assert (finished / f"{name}.png").exists()


def test_figures_of_learning_leave_out_tasks_where_no_teacher_learns(finished: Path) -> None:
    results = main.comparison_of(options(finished)).results(read_rows(finished / "results.jsonl"))
    assert list(results.tasks) == ["mnist-mlp", "mnist-lenet"]
    for figure in (teacher_training(results), report.teacher_steps(results)):
        assert figure is not None
        assert {axis.get_title().split(",")[0] for axis in figure.axes} == {"mnist-mlp"}


def test_tuning_is_at_the_length_of_the_final_training(finished: Path) -> None:
    rows = [r for r in read_rows(finished / "results.jsonl") if r.config["stage"] == "tuning"]
    assert all(r.config["final"] == {"horizon": 12, "steps_per_action": 4} for r in rows)
    # One student of half the length, then two of the whole.
    assert {r.student_steps for r in rows if r.method == "cross-entropy"} == {6, 24}
    # A teacher's budget, and then the students that it is judged by.
    assert {r.student_steps for r in rows if r.method == "rmd"} == {6 + 6, 12 + 24}
    assert {r.config.get("length") for r in rows} == {0.5, None}


def test_a_transferred_teacher_is_the_one_that_was_taught(finished: Path, tmp_path: Path) -> None:
    comparison = main.comparison_of(options(finished))
    session = Session(ResultsFile(finished / "results.jsonl"), make_backend("inline"))
    for stage in comparison.stages:
        cases = {(case.method, case.seed): case for case in stage(session)}
    best, (mlp, lenet) = comparison.best(comparison.contests, session), comparison.contests
    chosen = best["mnist-lenet", "rmd:transferred"]
    assert chosen.candidate == best["mnist-mlp", "rmd"].candidate
    rates = [best["mnist-lenet", name].student["learning_rate"] for name in ("rmd:transferred", "cross-entropy")]
    assert rates[0] == rates[1]
    teachers = [session.folder_of(cases["rmd", seed]) for seed in (0, 1)]
    assert cases["rmd:transferred", 1].needs == [cases["rmd", 1]]

    def taught(source: Path) -> Outcome:
        return engine.train(
            lenet.setting, METHODS["rmd:transferred"], chosen, 1, 0, 0, 2, 1, 2, tmp_path / "none", source
        )

    rows = read_rows(finished / "results.jsonl")
    kept = next(r for r in rows if (r.method, r.metric, r.seed) == ("rmd:transferred", "test_error", 1))
    again = taught(teachers[1])
    assert again.values["test_error"] == kept.value
    assert kept.config["taught"]["task"] == "mnist-mlp"
    assert taught(teachers[0]).data["coefficients"] != again.data["coefficients"]
    # The teacher in the file is a whole one: its loss can leave the laboratory.
    env = mlp.setting.make(1, METHODS["rmd"], best["mnist-mlp", "rmd"])
    meta.TaughtLoss.of(meta.RMD.load(teachers[1] / TEACHER, env=env))


def test_a_teacher_that_was_lost_is_taught_again(finished: Path, tmp_path: Path) -> None:
    lines = (finished / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(line for line in lines if '"rmd:transferred"' not in line))
    main.run(options(tmp_path))

    def values(folder: Path) -> list[tuple[str, str, int, str, float]]:
        return sorted((r.task, r.method, r.seed, r.metric, r.value) for r in read_rows(folder / "results.jsonl"))

    assert values(tmp_path) == values(finished)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"tasks": ("cifar10-resnet20",), "methods": ("rmd:transferred",)},
            {"cifar10-resnet8": ("rmd",), "cifar10-resnet20": ("rmd:transferred",)},
        ),
        (
            {"preset": "published", "tasks": ("mnist-mlp-published",), "methods": ("published:mixture",)},
            {"mnist-mlp-published": ("published:margin", "published:mixture")},
        ),
        ({"tasks": ("mnist-lenet",), "methods": ("cross-entropy",)}, {"mnist-lenet": ("cross-entropy",)}),
    ],
)
def test_teachers_that_are_used_elsewhere_are_taught_first(
    changes: dict[str, Any], expected: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    asked = Options(**{"preset": "laptop", **changes})
    parts = main.with_sources(main.chosen(asked), main.PRESETS[asked.preset])
    assert [(name, part.methods) for name, part in parts.items()] == list(expected.items())


def test_figures_of_the_paper_run_only_what_they_need() -> None:
    three, four = (main.chosen(Options(preset="laptop", figure=figure)) for figure in (3, 4))  # type: ignore[arg-type]
    assert {name: one.methods for name, one in three.items()} == {"mnist-lenet": ("rmd", "l2t-dlf")}
    assert {name: one.methods for name, one in four.items()} == {"cifar10-resnet8": ("rmd", "l2t-dlf")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("mnist-mpl",)}, "mnist-mlp"),
        ({"methods": ("rdm",)}, "rmd"),
        ({"workers": 0}, "workers"),
        ({"table": 2, "tasks": ("mnist-mlp",)}, "no task"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main.comparison_of(options(tmp_path, **changes))


def shown(rows: list[Row], seeds: int) -> Results:
    return Results(rows, METHODS, seeds, "bilinear")


def row(task: str, method: str, seed: int, value: float) -> Row:
    config = {
        "stage": "training",
        "env": None,
        "loss": None,
        "options": {"horizon": 10},
        "parallel": 1,
        "own": {},
        "learning_rate": 0.1,
        "lr_schedule": "cosine",
    }
    return Row(
        "l2t_dlf_images", task, "mnist", "mlp", method, seed, "test_error", value, 0, 1.0,
        {**config, "final_students": 1}, "0" * 40, {}, None,
    )  # fmt: skip


def test_the_table_has_paired_differences_and_the_papers_numbers() -> None:
    differences = np.array([0.001, 0.002, 0.003])
    rows = [row("mnist-mlp", "cross-entropy", s, 0.02 + 0.01 * s) for s in range(3)]
    rows += [row("mnist-mlp", "large-margin", s, 0.02 + 0.01 * s - differences[s]) for s in range(3)]
    groups = {group.name: group for group in shown(rows, 3).tasks["mnist-mlp"]}
    cell = report.AGAINST.cell
    assert cell(groups["cross-entropy"]) == ""
    # t = 2 / (1/√3) with two degrees of freedom: p = 0.0742, half-width 4.303/√3 of a tenth of a point.
    assert cell(groups["large-margin"]) == "-0.20 [-0.45, +0.05], p 0.074"
    assert report.published(groups["large-margin"]) == "1.83"
    assert report.published(replace(groups["large-margin"], name="rmd")) == ""
    assert report.published(replace(groups["large-margin"], name="published")) == "1.69"
    assert all(len(numbers) == 4 for numbers in ERRORS.values())


def test_the_table_says_how_soon_a_teacher_is_as_good_as_ddpg() -> None:
    def along(method: str, values: dict[int, float]) -> list[Row]:
        final = row("mnist-mlp", method, 0, 0.02)
        return [final, *(replace(final, metric="dev_objective", value=v, student_steps=s) for s, v in values.items())]

    rows = along("ddpg", {0: 0.9, 500: 0.95, 1000: 0.93}) + along("cross-entropy", {0: 0.9})
    rows += along("rmd", {0: 0.9, 50: 0.94, 100: 0.96}) + along("rmd:static", {0: 0.9, 100: 0.92})
    # J with another τ is another measure.
    paper = {"own": {"objective_temperature": 1.0}}
    rows += [replace(r, config=r.config | paper) for r in along("rmd:tau-1", {0: 0.9, 100: 0.99})]
    results = shown(rows, 1)
    groups = {group.name: group for group in results.tasks["mnist-mlp"]}
    found = [report.reaching(groups[name]) for name in ("ddpg", "cross-entropy", "rmd", "rmd:static", "rmd:tau-1")]
    assert found == ["500 (50%)", "", "50 (5%)", "not reached", ""]
    figure = report.teacher_steps(results)
    assert figure is not None
    drawn = [sorted(line.get_label() for line in axis.get_lines()) for axis in figure.axes]
    assert drawn == [["rmd", "rmd:static"], ["rmd:tau-1"]]


def test_large_students_take_taught_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "STUDENTS", ("resnet20",))
    monkeypatch.setattr(large, "WARM_START", 2)
    smaller = {"dataset": "synthetic", "pool_size": 50, "warm_start": 2}
    monkeypatch.setattr(main, "_of_machine", lambda options: smaller)
    main.run(options(tmp_path, large=True))
    rows = {row.metric: row for row in read_rows(tmp_path / "large.jsonl")}
    assert rows["parameters"].value == sum(p.numel() for p in resnet20(3, 32, 10).parameters())
    assert 0 < rows["largest"].value < float("inf")
    # Three states with their momenta at the least, where the system tells.
    if "extra_bytes" in rows:
        assert rows["extra_bytes"].value > 3 * 2 * 4 * rows["parameters"].value
    line = (tmp_path / "large.md").read_text().splitlines()[-1]
    assert line.startswith("| resnet20 | 2")
    assert "synthetic" in line
