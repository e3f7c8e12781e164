"""The command `python -m benchmarks throughput`: what is measured in which order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.options import CommonOptions, Tables
from benchmarks.throughput import report
from benchmarks.throughput.cases import CASES, ENVIRONMENT_OF, SIZES, Measured, Size, load_task
from benchmarks.throughput.measure import measure
from teachenv.experiment.cases import Case
from teachenv.experiment.rows import agreeing
from teachenv.tasks.base import Task

NAME = "throughput"


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `python -m benchmarks throughput`."""

    threads: int | None = None
    """Torch threads of every contender; by default as many as torch takes."""


def run(options: Options) -> None:
    """Measures every case that the folder does not hold yet; writes rows, table and figure, and prints the table."""
    size, threads = SIZES[options.preset], options.threads or torch.get_num_threads()
    tasks = {source: load_task(source, options.root) for source in ENVIRONMENT_OF}
    cases = [
        _case(measured, tasks[measured.source], seed, size, threads)
        for seed in range(options.seeds or size.seeds)
        for measured in CASES
    ]
    identities = [case.identity for case in cases]
    options.execute(NAME, [lambda session: cases], lambda rows: report.make(agreeing(rows, identities)))


def _case(measured: Measured, task: Task, seed: int, size: Size, threads: int) -> Case:
    options = measured.options(task)
    return Case(
        benchmark=NAME,
        task=task.name,
        dataset=task.dataset,
        student=measured.student,
        method=measured.method,
        seed=seed,
        config={
            "measurement": measured.measurement,
            "students": measured.students,
            "batch_size": options.get("batch_size", 32),
            "dev_size": options.get("dev_size", 400),
            "threads": threads,
            "pieces": size.pieces,
            "steps": size.vector_steps if measured.measurement == "vector" else measured.steps(size),
        },
        label=f"{measured}, repetition {seed}",
        function=measure,
        arguments={"case": measured, "task": task, "seed": seed, "size": size},
        last=report.KINDS[measured.measurement].metric,
        resources={"num_cpus": threads},
    )


TABLES: Tables = {"table": report.make}
