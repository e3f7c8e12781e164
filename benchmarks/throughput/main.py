"""The command: what is measured in which order, and what is kept of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.options import CommonOptions
from benchmarks.throughput import report
from benchmarks.throughput.cases import CASES, ENVIRONMENT_OF, SIZES, Case, Size, load_task
from benchmarks.throughput.measure import MEASUREMENTS
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row, agreeing
from teachenv.tasks.base import Task

NAME = "throughput"


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of ``python -m benchmarks throughput``."""

    threads: int | None = None
    """Torch threads of every contender; by default as many as torch takes."""


def run(options: Options) -> None:
    """Measures every case that the folder does not hold yet; writes rows, table and figure, and prints the table."""
    folder = options.output_folder(NAME)
    results = ResultsFile(folder / "results.jsonl")
    size = SIZES[options.preset]
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    try:
        tasks = {source: load_task(source, options.data_root) for source in ENVIRONMENT_OF}
        work = [(seed, case) for seed in range(options.seeds or size.seeds) for case in CASES]
        for number, (seed, case) in enumerate(work, start=1):
            identity = _identity(case, tasks[case.source], seed, size)
            if results.done(**identity):
                continue
            print(f"[{number}/{len(work)}] {case}, repetition {seed}", file=sys.stderr, flush=True)
            results.append(_measured(case, tasks[case.source], seed, size, identity))
        shown = [_identity(case, tasks[case.source], 0, size) for case in CASES]
    finally:
        torch.set_num_threads(before)
    report.make(agreeing(results.rows(), shown)).write(folder)


def _measured(case: Case, task: Task, seed: int, size: Size, identity: Mapping[str, Any]) -> list[Row]:
    start = time.perf_counter()
    values, student_steps = MEASUREMENTS[case.measurement](case, task, seed, size)
    told = about(student_steps, time.perf_counter() - start)
    return [Row(**identity, metric=metric, value=value, **told) for metric, value in values.items()]


def _identity(case: Case, task: Task, seed: int, size: Size) -> dict[str, Any]:
    options = case.options(task)
    config = {
        "measurement": case.measurement,
        "students": case.students,
        "batch_size": options.get("batch_size", 32),
        "dev_size": options.get("dev_size", 400),
        "threads": torch.get_num_threads(),
        "pieces": size.pieces,
        "steps": size.vector_steps if case.measurement == "vector" else case.steps(size),
    }
    return {
        "benchmark": NAME,
        "task": task.name,
        "dataset": task.dataset,
        "student": case.student,
        "method": case.method,
        "seed": seed,
        "config": config,
    }
