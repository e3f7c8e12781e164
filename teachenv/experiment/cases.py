"""The cases of an experiment: those whose rows a folder has are left out, the others' rows are kept as they end."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from teachenv.experiment.inline import Inline
from teachenv.experiment.jobs import Backend, Failure, Job, Kept
from teachenv.experiment.progress import progress
from teachenv.experiment.provenance import git_commit, versions
from teachenv.experiment.report import Report
from teachenv.experiment.row import IDENTITY, Row, digest
from teachenv.experiment.rows import ResultsFile
from teachenv.experiment.tables import Section
from teachenv.experiment.writing import OutputNotWritable

T = TypeVar("T")

DIVERGED = "diverged"
"""The metric of a row that stands in for numbers that are not finite; its value is 1."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A piece of work: what its rows are known by, and how it is done.

    What differs from machine to machine (paths, processes, precision) is among the arguments, never in `config`.

    Attributes:
        benchmark: the benchmark's name; it and the five that follow are the fields of `Row`.
        task: what is learned.
        dataset: what the data really is.
        student: the network.
        method: who teaches.
        seed: seed of the repetition.
        config: every option that shapes the numbers.
        label: what progress and errors call it.
        function: does it: `function(**arguments, folder=...)` to an `Outcome`, or to None if no rows come of it. The
            folder is the case's own, the same whenever the same is done: files in it are there again after an
            interruption, on another machine too.
        arguments: what it takes. One that is a `Case` stands for the folder of that case, which is done before.
        last: the metric that is there when all are; None: no rows come of it.
        makes: the file that the folder has when the case is done, and that other cases need. The folder then stays.
            None: what is in it is removed when the rows are there.
        resources: what it needs of a machine, for Ray: `{"num_cpus": 1, "num_gpus": 1}`.
    """

    benchmark: str
    task: str
    dataset: str
    student: str
    method: str
    seed: int
    config: Mapping[str, Any]
    label: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    last: str | None = None
    makes: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that the case's rows are known by."""
        return {name: getattr(self, name) for name in IDENTITY}

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for the identity."""
        return digest(self.identity)

    @property
    def needs(self) -> list[Case]:
        """The cases whose folders this one reads."""
        return [value for value in self.arguments.values() if isinstance(value, Case)]


class Reading(NamedTuple):
    """A number on the way to a case's last ones.

    Attributes:
        metric: the number's name.
        value: the number.
        student_steps: how many were spent up to it.
        seconds: how long it took up to it.
    """

    metric: str
    value: float
    student_steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a case: its numbers, and what they cost.

    Attributes:
        values: a number for each metric; what the environments say of `diverged` may be among them.
        student_steps: how many were spent on all of it.
        seconds: how long all of it took.
        data: what a figure needs beside the numbers.
        data_of: the metric whose row has the data; None: the case's last.
        readings: numbers on the way; their rows come first.
        others: what the same work gave for other methods, by method.
        versions: what shaped the numbers beside the versions of the libraries, such as `{"precision": "bfloat16"}`.
    """

    values: Mapping[str, float]
    student_steps: int
    seconds: float
    data: Any = None
    data_of: str | None = None
    readings: Sequence[Reading] = ()
    others: Mapping[str, Outcome] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def rows_of(case: Case, outcome: Outcome) -> list[Row]:
    """The rows of a case: the one that says that all are there comes last.

    Numbers that are not finite are left out, and a row of `DIVERGED` says so.
    """
    rows: list[Row] = []
    shared: dict[str, Any] = {
        **case.identity,
        "git_commit": git_commit(),
        "versions": {**versions(), **outcome.versions},
    }
    for metric, value, student_steps, seconds in outcome.readings:
        if math.isfinite(value):
            rows.append(Row(metric=metric, value=value, student_steps=student_steps, seconds=seconds, **shared))
    for method, other in outcome.others.items():
        rows += rows_of(replace(case, method=method), other)
    shared |= {"student_steps": outcome.student_steps, "seconds": round(outcome.seconds, 6)}
    values = {name: float(value) for name, value in outcome.values.items() if name != DIVERGED}
    finite = [name for name, value in values.items() if math.isfinite(value)]
    if outcome.values.get(DIVERGED) or len(finite) < len(values):
        rows.append(Row(metric=DIVERGED, value=1.0, **shared))
    for name in sorted(finite, key=lambda name: name == case.last):
        data = _finite(outcome.data) if name == (outcome.data_of or case.last) else None
        rows.append(Row(metric=name, value=values[name], data=data, **shared))
    return rows


def _finite(data: Any) -> Any:
    """Data with None in place of numbers that are not finite."""
    if isinstance(data, Mapping):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


class CasesFailed(RuntimeError):
    """Some cases failed; the others are done, and their rows kept.

    Attributes:
        failures: what failed, in the order in which it ended.
    """

    def __init__(self, failures: Sequence[Failure], folder: Path) -> None:
        self.failures = list(failures)
        first, more = self.failures[0], len(self.failures) - 1
        others = f", and {more} more, such as {self.failures[1].label!r}" if more else ""
        super().__init__(
            f"{first.label!r} failed: {first.reason}{others}; {folder} keeps what was done, and the same command does "
            "the rest"
        )
        if first.traceback and hasattr(self, "add_note"):  # Python 3.11; a script that ends with the error shows it
            self.add_note(f"\nThe first of them, where it was run:\n{first.traceback.rstrip()}")


class Session:
    """The rows of a folder, and the machines that make more of them.

    Args:
        results: the rows; only this process writes them.
        backend: where cases are done.

    Attributes:
        failures: the cases that have failed so far.

    Raises:
        OutputNotWritable: there is a file where cases have their folders.
    """

    def __init__(self, results: ResultsFile, backend: Backend) -> None:
        self.results, self.backend = results, backend
        self.failures: list[Failure] = []
        files = self.folder / "checkpoints"
        if files.exists() and not files.is_dir():
            raise OutputNotWritable(f"{files} is a file, expected a folder; remove it, or choose another folder")

    @property
    def folder(self) -> Path:
        """The folder that the rows are in."""
        return self.results.path.parent

    def folder_of(self, case: Case) -> Path:
        """Where a case has its files: named by its digest, so that no two share one, whatever their names hold."""
        return self.folder / "checkpoints" / case.digest

    def is_done(self, case: Case) -> bool:
        """Whether all rows of a case are there."""
        if case.last is None:
            return self._is_made(case)
        return any(self.results.done(case.identity, [metric]) for metric in (case.last, DIVERGED))

    def best_first(self, metric: str, cases: Iterable[tuple[T, Case]], *, sign: int = 1) -> list[T]:
        """What cases stand for, configurations say, by a number of their rows, the largest first.

        Args:
            metric: the number's name.
            cases: pairs of what a case stands for, and the case.
            sign: -1 puts the smallest first.

        Of equal ones the earlier stays ahead. If one of the cases has no rows, since it failed, there is none: the
        others' order would say nothing of it.
        """
        try:
            scores = [(self.results.value(metric, case.identity), choice) for choice, case in cases]
        except LookupError:
            return []
        return [choice for _, choice in sorted(scores, key=lambda score: -sign * score[0])]

    def perform(self, cases: Iterable[Case]) -> None:
        """Does the cases that are not done yet, and what they need, in this order; keeps the rows of each as it ends.

        One that fails is added to `failures`, and so are those that need it; the others go on.
        """
        waiting: dict[str, Case] = {}
        for case in cases:
            if self.is_done(case):
                self._tidy(case)
            else:
                self._add(case, waiting)
        running: dict[int, Case] = {}
        with progress(len(waiting)) as bar:
            self._submit(waiting, running)
            for job, result in self.backend.completed():
                case = running.pop(id(job))
                if isinstance(result, Failure):
                    self.failures.append(result)
                    self._give_up(case, waiting)
                else:
                    if result is not None and not self.is_done(case):
                        self.results.append(rows_of(case, result))
                    self._tidy(case)
                bar.advance(case.label)
                self._submit(waiting, running)
        for case in waiting.values():
            lacking = next(needed for needed in case.needs if not self._is_made(needed))
            self.failures.append(Failure(case.label, f"{lacking.label!r} made no file {lacking.makes!r}", None))

    def _add(self, case: Case, waiting: dict[str, Case]) -> None:
        for needed in case.needs:
            # What was made may be gone, of which only the rows are left: then it is made again.
            if not self._is_made(needed):
                self._add(needed, waiting)
        waiting.setdefault(case.digest, case)

    def _submit(self, waiting: dict[str, Case], running: dict[int, Case]) -> None:
        for case in list(waiting.values()):
            if all(self._is_made(needed) for needed in case.needs):
                del waiting[case.digest]
                arguments = {
                    name: Kept(self.folder_of(value)) if isinstance(value, Case) else value
                    for name, value in case.arguments.items()
                }
                job = Job(case.label, case.function, arguments, self.folder_of(case), case.resources)
                running[id(job)] = case
                self.backend.submit(job)

    def _give_up(self, failed: Case, waiting: dict[str, Case]) -> None:
        for case in list(waiting.values()):
            if any(needed.digest == failed.digest for needed in case.needs):
                del waiting[case.digest]
                self.failures.append(Failure(case.label, f"it needs {failed.label!r}, which failed", None))
                self._give_up(case, waiting)

    def _is_made(self, case: Case) -> bool:
        return case.makes is None or (self.folder_of(case) / case.makes).exists()

    def _tidy(self, case: Case) -> None:
        if case.makes is None:
            shutil.rmtree(self.folder_of(case), ignore_errors=True)


Stage = Callable[[Session], Iterable[Case]]
"""What is to be done next, given the rows that are there."""


def one_at_a_time(stage: Stage) -> Stage:
    """A stage whose cases are done one after the other in this process: for times, which nothing else may disturb."""

    def perform(session: Session) -> Iterable[Case]:
        here = Session(session.results, Inline())
        here.perform(stage(session))
        session.failures += here.failures
        return ()

    return perform


def execute(
    results: ResultsFile,
    stages: Iterable[Stage],
    report: Callable[[list[Row]], Report],
    backend: Backend,
    part: str | None = None,
) -> Report:
    """The whole way of an experiment: does what a folder does not hold yet, and writes its tables, figures and page.

    Args:
        results: the experiment's rows, in its folder.
        stages: one after the other, each is asked for its cases when those before it are done.
        report: made of the rows in the end.
        backend: where cases are done.
        part: name of table and page, in a folder that has others too; None: they are called table and report.

    Raises:
        CasesFailed: some cases failed; the report of the others is in the folder.
        OutputNotWritable: nothing can be written to the folder.
    """
    session = Session(results, backend)
    for stage in stages:
        session.perform(stage(session))
    written = report(results.rows())
    if session.failures:
        written.sections = [_failed(session.failures), *written.sections]
    written.write(session.folder, part or "table", part or "report")
    if session.failures:
        raise CasesFailed(session.failures, session.folder)
    return written


def _failed(failures: Sequence[Failure]) -> Section:
    """What is missing in a report, so that nobody takes it for the whole."""
    text = "These cases failed, and what follows lacks them; the same command tries them again."
    cases: dict[str, list[str]] = {}  # by reason, which many of them may share
    for each in failures:
        cases.setdefault(each.reason, []).append(each.label)
    lines = [(reason, "; ".join(labels)) for reason, labels in cases.items()]
    return Section("What failed", text, ("reason", "cases"), lines)
