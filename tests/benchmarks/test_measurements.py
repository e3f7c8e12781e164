"""Rows are written before the checkpoints that they came of are removed, and what is there is left out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.jobs import JobFailed
from benchmarks.measurements import Measurement, measure, rows_of
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row

CHECKPOINTS: list[Path] = []


def identity(seed: int) -> dict[str, Any]:
    return {
        "benchmark": "b",
        "task": "t",
        "dataset": "d",
        "student": "s",
        "method": "m",
        "seed": seed,
        "config": {"rate": 0.1},
    }


def trained(seed: int, checkpoint: Path) -> float:
    CHECKPOINTS.append(checkpoint)
    checkpoint.parent.mkdir(exist_ok=True)
    for suffix in (".zip", ".first.zip"):
        checkpoint.with_suffix(suffix).touch()
    if seed == 2:
        raise RuntimeError("interrupted")
    return seed / 10


def told(seed: int) -> float:
    return float(seed)


def rows(seed: int, value: float) -> list[Row]:
    return [Row(**identity(seed), metric=name, value=value, **about(3, 0.5, bleu="x")) for name in ("dev", "test")]


def measurement(seed: int, function: Any = trained, resumes: bool = True) -> Measurement[float]:
    label = f"seed {seed}"
    return Measurement(label, function, {"seed": seed}, identity(seed), "test", partial(rows, seed), resumes)


@pytest.fixture
def results(tmp_path: Path) -> ResultsFile:
    CHECKPOINTS.clear()
    return ResultsFile(tmp_path / "results.jsonl")


def test_what_is_there_is_left_out(results: ResultsFile) -> None:
    measure([measurement(0)], results, 1)
    measure([measurement(0), measurement(1)], results, 1)
    assert [row.value for row in results.rows()] == [0.0, 0.0, 0.1, 0.1]
    assert len(CHECKPOINTS) == 2
    row = results.rows()[0]
    assert (row.student_steps, row.seconds, row.versions["bleu"]) == (3, 0.5, "x")


def test_of_half_the_rows_all_are_measured_again(results: ResultsFile) -> None:
    results.append(rows(0, 0.7)[:1])
    measure([measurement(0)], results, 1)
    assert {row.metric: row.value for row in results.rows()} == {"dev": 0.0, "test": 0.0}


def test_a_checkpoint_stays_until_its_rows_are_written(results: ResultsFile) -> None:
    with pytest.raises(JobFailed, match="seed 2"):
        measure([measurement(1), measurement(2)], results, 1)
    folder = results.path.parent / "checkpoints"
    assert {file.name.split(".")[0] for file in folder.iterdir()} == {CHECKPOINTS[1].name}
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(JobFailed):
        measure([measurement(2)], results, 1)
    assert CHECKPOINTS[2] == CHECKPOINTS[1]  # so that it goes on from there

    def full(rows: Any) -> None:
        raise OSError("the disk is full")

    results.append = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="full"):
        measure([measurement(3)], results, 1)
    assert CHECKPOINTS[3].with_suffix(".zip").exists()


def test_work_that_does_not_resume_takes_no_checkpoint(results: ResultsFile) -> None:
    measure([measurement(4, told, resumes=False)], results, 1)
    assert results.value("test", identity(4)) == 4.0


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"dev": 0.5, "test": 0.25}, {"dev": 0.5, "test": 0.25}),
        ({"dev": 0.5, "test": 0.25, "diverged": False}, {"dev": 0.5, "test": 0.25}),
        ({"dev": 0.5, "diverged": True, "test": 0.25}, {"diverged": 1.0, "dev": 0.5, "test": 0.25}),
        ({"dev": NAN, "test": 0.25}, {"diverged": 1.0, "test": 0.25}),
        ({"dev": INF, "test": -INF}, {"diverged": 1.0}),
        ({}, {}),
    ],
)
def test_what_diverged_is_said_in_a_row_and_measured_once(
    values: dict[str, float], expected: dict[str, float], results: ResultsFile
) -> None:
    def diverging(seed: int) -> int:
        CHECKPOINTS.append(Path())
        return seed

    def found(seed: int) -> list[Row]:
        return rows_of(identity(seed), values, about(3, 0.5), {"curve": [(1, NAN, None), (2, 0.5, INF)]})

    wanted = [Measurement("one", diverging, {"seed": 0}, identity(0), "test", found, resumes=False)]
    for _ in range(2):
        measure(wanted, results, 1)
    assert {row.metric: row.value for row in results.rows()} == expected
    for row in results.rows():
        assert row.data == ({"curve": [[1, None, None], [2, 0.5, None]]} if row.metric == "test" else None)
    assert len(CHECKPOINTS) == (1 if values else 2)


def test_what_a_killed_run_left_of_finished_work_is_removed(results: ResultsFile) -> None:
    measure([measurement(0)], results, 1)
    left = CHECKPOINTS[0].with_suffix(".zip")
    left.touch()
    measure([measurement(0)], results, 1)
    assert not left.exists()


def test_what_is_asked_for_twice_is_measured_once(results: ResultsFile) -> None:
    measure([measurement(0), measurement(0)], results, 1)
    assert len(results.rows()) == len(results.path.read_bytes().splitlines()) == 2
