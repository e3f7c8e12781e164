"""Pieces of work whose rows are kept: what a file has already is left out, the rest is written as it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmarks.checkpoints import checkpoint_of, remove
from benchmarks.jobs import Job, run_jobs
from teachenv.experiment.rows import ResultsFile, Row

T = TypeVar("T")

DIVERGED = "diverged"
"""The metric of a row that stands in for numbers that are not finite; its value is 1."""


@dataclass(frozen=True)
class Measurement(Generic[T]):
    """A piece of work for one process, and the rows that come of it.

    Attributes:
        label: see `Job`.
        function: see `Job`; unless it does not resume, it also takes `checkpoint`: a path, the same whenever the same
            is measured, of which it makes the files that it goes on from (see `benchmarks.checkpoints`).
        kwargs: its other arguments.
        identity: what its rows are known by: what `ResultsFile.done` takes, but for the metrics.
        last: the metric that is there when all are, unless there is one that says that it `DIVERGED`.
        rows: its value to rows.
        resumes: see `function`.
    """

    label: str
    function: Callable[..., T]
    kwargs: Mapping[str, Any]
    identity: Mapping[str, Any]
    last: str
    rows: Callable[[T], Iterable[Row]]
    resumes: bool = True


def rows_of(
    identity: Mapping[str, Any], values: Mapping[str, float], about: Mapping[str, Any], data: Any = None
) -> list[Row]:
    """Rows of what was measured; numbers that are not finite are left out, and a row of `DIVERGED` says so.

    Args:
        identity: what they are known by.
        values: by metric, in the order of the rows; what the environments say of `diverged` may be among them.
        about: see `teachenv.experiment.provenance.about`.
        data: of the last row; None in place of numbers that are not finite.
    """
    shown = {name: float(value) for name, value in values.items() if name != DIVERGED}
    rows = [
        Row(**identity, metric=name, value=value, data=_finite(data) if number == len(shown) - 1 else None, **about)
        for number, (name, value) in enumerate(shown.items())
        if math.isfinite(value)
    ]
    if values.get(DIVERGED) or len(rows) < len(shown):
        # Before the others: the last one says that all is there.
        rows.insert(0, Row(**identity, metric=DIVERGED, value=1.0, **about))
    return rows


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def measure(wanted: Iterable[Measurement[Any]], results: ResultsFile, workers: int) -> None:
    """Measures those whose rows are not there; writes the rows of each as it ends, and then removes its checkpoints.

    Args:
        wanted: begun in this order.
        results: the rows.
        workers: processes; see `run_jobs`, also for what is raised.
    """
    jobs: list[Job[Any]] = []
    kept: dict[int, tuple[Measurement[Any], Path]] = {}
    begun: set[Path] = set()
    for one in wanted:
        checkpoint = checkpoint_of(one.identity, results.path.parent / "checkpoints")
        if any(results.done(**one.identity, metrics=[metric]) for metric in (one.last, DIVERGED)):
            remove(checkpoint)  # a run that was killed between the two left it
            continue
        if checkpoint in begun:
            continue  # asked for twice
        begun.add(checkpoint)
        kwargs = {**one.kwargs, "checkpoint": checkpoint} if one.resumes else one.kwargs
        jobs.append(Job(one.label, one.function, kwargs))
        kept[id(jobs[-1])] = one, checkpoint

    def keep(job: Job[Any], value: Any) -> None:
        one, checkpoint = kept[id(job)]
        results.append(one.rows(value))
        remove(checkpoint)

    run_jobs(jobs, workers, keep)
