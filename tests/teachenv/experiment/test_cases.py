"""Rows are written before the folders that they came of are removed, and what is there is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from teachenv.experiment import Case, Outcome, ResultsFile, Session, make_backend
from teachenv.experiment.cases import Reading, one_at_a_time

FOLDERS: list[Path] = []


def trained(seed: int, folder: Path) -> Outcome:
    FOLDERS.append(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.zip").touch()
    if seed == 2:
        raise RuntimeError("interrupted")
    return Outcome(values={"test": seed / 10, "dev": 0.5}, student_steps=3, seconds=0.5, versions={"bleu": "x"})


def case(seed: int, function: Any = trained, **more: Any) -> Case:
    named = {"benchmark": "b", "task": "t", "dataset": "d", "student": "s", "method": "m", "config": {"rate": 0.1}}
    arguments = {"seed": seed, **more}
    return Case(**named, seed=seed, label=f"seed {seed}", function=function, arguments=arguments, last="test")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    FOLDERS.clear()
    return Session(ResultsFile(tmp_path / "results.jsonl"), make_backend("inline"))


def test_what_is_there_is_left_out_and_what_is_asked_for_twice_is_done_once(session: Session) -> None:
    session.perform([case(0), case(0)])
    session.perform([case(0), case(1)])
    rows = session.results.rows()
    assert [(row.metric, row.value) for row in rows] == [("dev", 0.5), ("test", 0.0), ("dev", 0.5), ("test", 0.1)]
    assert len(FOLDERS) == 2
    assert (rows[0].student_steps, rows[0].seconds, rows[0].versions["bleu"]) == (3, 0.5, "x")


def test_of_half_the_rows_all_are_measured_again(session: Session) -> None:
    session.perform(
        [replace(case(0, lambda seed, folder: replace(trained(0, folder), values={"dev": 0.7})), last="dev")]
    )
    session.perform([case(0)])
    assert {row.metric: row.value for row in session.results.rows()} == {"dev": 0.5, "test": 0.0}


def test_a_folder_stays_until_its_rows_are_written(session: Session) -> None:
    session.perform([case(1), case(2)])
    assert [failure.label for failure in session.failures] == ["seed 2"]
    assert [folder.exists() for folder in FOLDERS] == [False, True]
    session.perform([case(2)])
    assert FOLDERS[2] == FOLDERS[1]  # so that it goes on from there

    def full(rows: Any) -> None:
        raise OSError("the disk is full")

    session.results.append = full
    with pytest.raises(OSError, match="full"):
        session.perform([case(3)])
    assert (FOLDERS[3] / "policy.zip").exists()


def test_what_a_killed_run_left_of_finished_work_is_removed(session: Session) -> None:
    session.perform([case(0)])
    trained(0, FOLDERS[0])
    session.perform([case(0)])
    assert not FOLDERS[0].exists()


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"test": 0.25, "dev": 0.5, "diverged": False}, {"dev": 0.5, "test": 0.25}),
        ({"dev": 0.5, "diverged": True, "test": 0.25}, {"diverged": 1.0, "dev": 0.5, "test": 0.25}),
        ({"dev": NAN, "test": 0.25}, {"diverged": 1.0, "test": 0.25}),
        ({"dev": INF, "test": -INF}, {"diverged": 1.0}),
        ({}, {}),
    ],
)
def test_what_diverged_is_said_in_a_row_and_measured_once(
    values: dict[str, float], expected: dict[str, float], session: Session
) -> None:
    def diverging(seed: int, folder: Path) -> Outcome:
        FOLDERS.append(folder)
        return Outcome(values=values, student_steps=3, seconds=0.5, data={"curve": [(1, NAN, None), (2, 0.5, INF)]})

    for _ in range(2):
        session.perform([case(0, diverging)])
    assert {row.metric: row.value for row in session.results.rows()} == expected
    for row in session.results.rows():
        assert row.data == ({"curve": [[1, None, None], [2, 0.5, None]]} if row.metric == "test" else None)
    assert len(FOLDERS) == (1 if values else 2)


def test_readings_and_other_methods_come_before_the_last_row(session: Session) -> None:
    def measured(seed: int, folder: Path) -> Outcome:
        other = Outcome(values={"test": 2.0}, student_steps=1, seconds=9.0)
        readings = [Reading("dev", 0.1, 1, 0.2), Reading("dev", NAN, 2, 0.4)]
        return Outcome(values={"test": 1.0}, student_steps=3, seconds=0.5, readings=readings, others={"other": other})

    session.perform([case(0, measured)])
    rows = [(row.method, row.metric, row.value, row.seconds) for row in session.results.rows()]
    assert rows == [("m", "dev", 0.1, 0.2), ("other", "test", 2.0, 9.0), ("m", "test", 1.0, 0.5)]


def test_one_at_a_time_is_in_this_process_whatever_the_backend(session: Session) -> None:
    class Nowhere:
        def submit(self, job: Any) -> None:
            raise AssertionError("submitted")

    session.backend = Nowhere()
    assert list(one_at_a_time(lambda session: [case(1), case(2)])(session)) == []
    assert [row.value for row in session.results.rows()] == [0.5, 0.1]
    assert [failure.label for failure in session.failures] == ["seed 2"]


def test_what_a_case_needs_is_made_once_and_made_again_if_it_is_gone(session: Session) -> None:
    def reads(seed: int, needed: Path, folder: Path) -> Outcome:
        assert (needed / "policy.zip").exists()
        return Outcome(values={"test": 1.0}, student_steps=1, seconds=0.1)

    start = replace(case(4), last=None, makes="policy.zip")
    session.perform([case(seed, reads, needed=start) for seed in (5, 6)])
    assert (len(FOLDERS), FOLDERS[0]) == (1, session.folder_of(start))
    assert [row.seed for row in session.results.rows()] == [5, 6]
    (FOLDERS[0] / "policy.zip").unlink()
    session.perform([case(7, reads, needed=start)])
    assert len(FOLDERS) == 2
    failing = replace(case(2), last=None, makes="policy.zip", method="fails")
    session.perform([case(8, reads, needed=failing)])
    assert [failure.reason for failure in session.failures][-1] == "it needs 'seed 2', which failed"


def test_configurations_are_ranked_by_their_rows_unless_one_has_none(session: Session) -> None:
    session.perform([case(seed) for seed in (0, 1, 3)])
    assert session.best_first("test", [(seed, case(seed)) for seed in (0, 3, 1)]) == [3, 1, 0]
    assert session.best_first("dev", [(seed, case(seed)) for seed in (1, 0, 3)]) == [1, 0, 3]
    assert session.best_first("test", [(seed, case(seed)) for seed in (0, 4, 1)]) == []
