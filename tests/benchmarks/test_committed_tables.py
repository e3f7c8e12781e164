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


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_tables_it_writes(name: str) -> None:
    module = importlib.import_module(BENCHMARKS[name].options.partition(":")[0])
    assert module.TABLES
    written = {table.stem for table in TABLES if table.parent.name == name}
    assert written <= set(module.TABLES)
