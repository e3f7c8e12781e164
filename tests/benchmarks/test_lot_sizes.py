"""Learning from teaching by the size of students: what is tuned and trained, and what the table says of it."""

from __future__ import annotations

import functools
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import main as command_line
from benchmarks.lot import sizes_report
from benchmarks.lot.regularisers import Comparison, Configuration, Regime, applied
from benchmarks.lot.sizes import shares, sized
from benchmarks.lot.work import Run
from benchmarks.lot_images import main as images_main
from benchmarks.lot_images.problem import ImageProblem
from benchmarks.lot_language import problem as language_problem
from teachenv.data import language
from teachenv.experiment.cases import Outcome
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.tasks import synthetic

IMAGES = ImageProblem(
    "synthetic", "mlp-200", task_options={"pool_size": 40}, batch_size=16, epochs=1, learning_rate=0.05, augment=False
)
COMPARED = sized(shares(("1", "1/16")), None)


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of test is measured again and again."""
    monkeypatch.setattr(synthetic, "make_synthetic", functools.partial(synthetic.make_synthetic, test_size=12))


def test_shares_are_read_once_each() -> None:
    assert shares(("1", "1/4", "0.25", "2")) == [Fraction(1), Fraction(1, 4), Fraction(2)]


@pytest.mark.parametrize("text", ["0", "-1/4", "a quarter", "1/0", "65", "nan"])
def test_what_is_no_share_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"found --student-size {text}, expected a share"):
        images_main.Options("smoke", student_size=(text,))


def test_a_line_has_its_student_and_no_other_model() -> None:
    choice = Configuration("sgd", 0.1, 4.0)
    for name, line in COMPARED.items():
        problem, method = applied(IMAGES, line, choice._replace(strength=4.0 if line.option else None))
        network = "mlp-200:width-12" if name.endswith("1/16") else None
        assert (problem.config["model"], problem.config["student"]) == ("mlp-200", network), name
        assert (method.alpha, method.students) == {"lot:": (4.0, 1), "watc": (0.0, 1)}.get(name[:4], (1.0, 0)), name


def test_a_watched_model_is_the_one_that_is_trained_alone(tmp_path: Path) -> None:
    alone, watched = (
        Run(problem, method, 3)
        for problem, method in (
            applied(IMAGES, COMPARED[name], Configuration("adam", 1e-3))
            for name in ("teacher-only", "watched:size-1/16")
        )
    )
    for run in (alone, watched):
        run.finish(tmp_path / str(run.method.students))
    states = alone.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_watched_lines_have_the_configuration_of_the_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not tuned themselves, and all others are tuned in equally many trainings."""

    def train(problem: Any, method: Any, seed: int, folder: Path, *, test: bool) -> Outcome:
        strength = method.alpha * bool(method.students) + problem.dropout + problem.weight_decay
        values = {"valid_accuracy": problem.learning_rate + 1e-9 * strength}
        if test:
            values |= dict.fromkeys(
                ("student_kl_train", "student_kl_valid", "uniform_kl_valid", "last_test_accuracy"), 0.5
            )
            values["test_accuracy"] = 0.5
        data = {"curve": [], "teacher_steps": 1, "parameters": [160, *[10] * method.students]}
        return Outcome(values=values, student_steps=1, seconds=1.0, data=data)

    monkeypatch.setattr("benchmarks.lot.work.train", train)
    comparison = Comparison("lot_images", {"few": Regime(IMAGES, {"adam": (0.1, 0.2)}, 2)}, COMPARED, None, None)
    options = images_main.Options("smoke", backend="inline", out=tmp_path)
    options.execute("lot_images", comparison.stages, lambda rows: sizes_report.make(comparison.shown(rows), "x", ()))
    rows = read_rows(tmp_path / "results.jsonl")
    tuned = Counter(row.method for row in rows if row.config["stage"] == "tuning")
    assert tuned == {name: 2 + 3 for name in COMPARED if not name.startswith("watched")}
    chosen = {row.method: row.config["tuned"]["learning_rate"] for row in comparison.shown(rows)}
    assert chosen.keys() == COMPARED.keys()
    assert chosen["watched:size-1/16"] == chosen["teacher-only"] == pytest.approx(0.34)


def test_the_table_says_what_students_of_each_size_gain() -> None:
    def rows_of(method: str, values: list[float], kl: float, parameters: list[int]) -> list[Row]:
        def row(seed: int, metric: str, value: float) -> Row:
            config = {"tuned": Configuration("adam", 1e-3, 8.0)._asdict(), "tried": {"option": "alpha"}}
            data = {"curve": [[1, value, None]], "teacher_steps": 10, "parameters": parameters}
            return Row(
                "lot_images", "few", "mnist", "net", method, seed, metric, value, 20, 1.0, config, "0" * 40, {},
                data if metric == "test_accuracy" else None,
            )  # fmt: skip

        metrics = {"test_accuracy": 0.0, "last_test_accuracy": -0.1, "valid_accuracy": 0.01}
        measured = [row(s, metric, v + add) for s, v in enumerate(values) for metric, add in metrics.items()]
        if len(parameters) == 1:
            return measured
        shared = {"student_kl_valid": kl, "student_kl_train": kl / 2, "uniform_kl_valid": 2.0, "term_share": 0.05}
        return measured + [row(s, metric, v) for s in range(len(values)) for metric, v in shared.items()]

    rows = [
        *rows_of("teacher-only", [0.5, 0.6], 0.0, [160]),
        *rows_of("dropout", [0.61, 0.73], 0.0, [160]),
        *rows_of("weight-decay", [0.4, 0.47], 0.0, [160]),
        *rows_of("lot:size-1/16", [0.55, 0.66], 0.2, [160, 12]),
        *rows_of("watched:size-1/16", [0.5, 0.6], 0.7, [160, 12]),
    ]
    report = sizes_report.make(rows, "lot_images", tuple(COMPARED))
    line = next(line for line in report.table().splitlines() if line.startswith("| lot:size-1/16 |"))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2] == "0.075"
    assert cells[4].startswith("+5.50 [")
    assert cells[4] == cells[6]
    assert cells[7].startswith("-6.50 [")  # against dropout, the better one on validation data
    assert cells[9:13] == ["0.1 ± 0", "0.2 ± 0", "0.7 ± 0", "2 ± 0"]
    assert "it is 2 ± 0 of a model alone" in report.table()
    assert "watched" not in report.table()
    assert set(report.figures) == {"sizes", "sizes_kl"}
    watched = sizes_report.make([row for row in rows if row.method.startswith("watched")], "lot_images", ())
    assert watched.table().startswith("## few, net (mnist)")


def test_the_command_compares_sizes(undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("valid", "test"):
        monkeypatch.setitem(language._MADE, split, 30)
    language_problem._corpus.cache_clear()
    command = ["lot_language", "--preset", "smoke", "--study", "sizes", "--student-size", "1/4", "--backend", "inline"]
    assert command_line([*command, "--alpha", "16", "--out", str(tmp_path)]) == 0
    language_problem._corpus.cache_clear()
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.dataset for row in rows} == {"numbers-20-words-subset-800"}
    assert {row.method for row in rows} >= {"teacher-only", "dropout", "lot:size-1/4", "watched:size-1/4"}
    kl = [row.value for row in rows if row.method == "lot:size-1/4" and row.metric == "student_kl_valid"]
    assert len(kl) == 1
    assert kl[0] > 0
    assert "| lot:size-1/4" in (tmp_path / "sizes.md").read_text()
