"""The committed tables come from the committed rows alone, to the last byte."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.registry import BENCHMARKS
from teachenv.experiment.report import Report
from teachenv.experiment.rows import read_rows

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TABLES = sorted(RESULTS.glob("*/*.md"))


def made(table: Path) -> Report:
    """The report of the rows beside a table, by the benchmark that wrote them."""
    own = table.with_suffix(".jsonl")  # of a study with files of its own
    rows = read_rows(own if own.exists() else table.with_name("results.jsonl"))
    (name,) = {row.benchmark for row in rows}
    module = importlib.import_module(BENCHMARKS[name].options.partition(":")[0])
    report: Report = module.TABLES[table.stem](rows)
    return report


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.parent.name}/{table.stem}")
def test_a_committed_table_is_made_from_its_rows(table: Path) -> None:
    assert made(table).table() == table.read_text()


def test_all_committed_rows_have_their_table() -> None:
    with_own = {path.with_suffix("") for path in RESULTS.glob("*/*.jsonl") if path.stem != "results"}
    assert with_own <= {table.with_suffix("") for table in TABLES}
    assert {path.parent for path in RESULTS.glob("*/results.jsonl")} == {
        table.parent for table in TABLES if not table.with_suffix(".jsonl").exists()
    }


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_tables_it_writes(name: str) -> None:
    assert importlib.import_module(BENCHMARKS[name].options.partition(":")[0]).TABLES
