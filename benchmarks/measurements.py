"""Pieces of work whose rows are kept: what a file has already is left out, the rest is written as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmarks.checkpoints import checkpoint_of, remove
from benchmarks.jobs import Job, run_jobs
from benchmarks.rows import ResultsFile, Row

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement(Generic[T]):
    """A piece of work for one process, and the rows that come of it.

    Attributes:
        label: see `Job`.
        function: see `Job`; unless it does not resume, it also takes `checkpoint`: a path, the same whenever the same
            is measured, of which it makes the files that it goes on from (see `benchmarks.checkpoints`).
        kwargs: its other arguments.
        identity: what its rows are known by: what `ResultsFile.done` takes, but for the metrics.
        last: the metric that is there when all are.
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
        if results.done(**one.identity, metrics=[one.last]):
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
