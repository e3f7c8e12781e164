"""The command: which contender meets which training, and what is kept of it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.hypergradients import report
from benchmarks.hypergradients.batched import BATCHES, speedup
from benchmarks.hypergradients.contenders import CONTENDERS, PEERS
from benchmarks.hypergradients.measure import peak, reference, times
from benchmarks.hypergradients.problems import STUDENTS
from benchmarks.jobs import alone
from benchmarks.options import CommonOptions, Preset
from teachenv.errors import unknown_name
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row, agreeing

NAME = "hypergradients"
METRICS = ("time_ratio", "speedup", "extra_bytes", "relative_error")


@dataclass(frozen=True)
class Size:
    """What a preset fixes.

    Attributes:
        seeds: repetitions.
        turns: of contenders and plain training, at the least.
        seconds: that turns take on each training, at the least.
        students: that are trained, unless ``--students`` says otherwise.
        contenders: that differentiate, unless ``--contenders`` says otherwise.
        part: of the usual length of each training, in percent.
        lengths: T of the second part.
        batches: of the third part.
    """

    seeds: int
    turns: int
    seconds: float
    students: tuple[str, ...]
    contenders: tuple[str, ...]
    part: int
    lengths: tuple[int, ...]
    batches: tuple[str, ...]


SIZES: dict[Preset, Size] = {
    "smoke": Size(1, 1, 0.0, ("mlp",), (*PEERS, "rmd:all", "rmd:sqrt", "finite-difference:states"), 3, (), ()),
    "laptop": Size(3, 3, 60.0, tuple(STUDENTS), tuple(CONTENDERS), 100, (16, 64, 256, 1024, 5000), tuple(BATCHES)),
    "paper": Size(
        10, 5, 120.0, tuple(STUDENTS), tuple(CONTENDERS), 100, (16, 64, 256, 1024, 5000, 20_000), tuple(BATCHES)
    ),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of ``python -m benchmarks hypergradients``."""

    students: tuple[str, ...] | None = None
    """Networks of the first part; by default all of them, in the smoke preset the mlp."""

    contenders: tuple[str, ...] | None = None
    """What differentiates them; by default everything, in the smoke preset one of each kind."""

    threads: int = 1
    """Torch threads of every contender."""

    memory_limit: float = 4.0
    """GiB that a contender may take beyond what its process has at the start."""

    def __post_init__(self) -> None:
        """Checks names and numbers.

        Raises:
            ValueError: an unknown name, or a number out of range.
        """
        super().__post_init__()
        for what, chosen, known in (
            ("student", self.students or (), STUDENTS),
            ("contender", self.contenders or (), CONTENDERS),
        ):
            for name in chosen:
                if name not in known:
                    raise unknown_name(what, name, known)
        if not self.memory_limit > 0:
            raise ValueError(f"found --memory-limit {self.memory_limit}, expected a positive number of GiB")


@dataclass(frozen=True)
class Case:
    """Some contenders on one training.

    Attributes:
        task: `"usual"`, `"length"` or `"batched"`, the part of the benchmark.
        student: see `STUDENTS`; of a batch, see `BATCHES`.
        steps: T.
        contenders: see `CONTENDERS`; of a batch, how many students.
        seed: of the training.
    """

    task: str
    student: str
    steps: int
    contenders: tuple[str, ...]
    seed: int

    def __str__(self) -> str:
        """For progress."""
        return f"{self.student}, T = {self.steps}: {', '.join(self.contenders)}"

    def arguments(self, threads: int) -> dict[str, Any]:
        """What every function that measures takes."""
        return {"steps": self.steps, "seed": self.seed, "threads": threads}


def run(options: Options) -> None:
    """Measures what the folder does not hold yet, in one process after the other; writes rows, table and figures."""
    size = SIZES[options.preset]
    folder = options.output_folder(NAME)
    results = ResultsFile(folder / "results.jsonl")
    ended: set[str] = set()  # contenders that failed on a length: they would on a longer one, too
    cases = _cases(options, size)
    for number, case in enumerate(cases, start=1):
        print(f"[{number}/{len(cases)}] {case}", file=sys.stderr, flush=True)
        if case.task == "batched":
            _batch(case, options, size, results)
        else:
            _contenders(case, options, size, results, ended)
    # All contenders that the folder has: those that were asked for earlier, too.
    every = replace(options, students=tuple(STUDENTS), contenders=tuple(CONTENDERS))
    shown = [_identity(case, name, options, size) for case in _cases(every, size) for name in case.contenders]
    report.make(agreeing(results.rows(), shown)).write(folder)


def _batch(case: Case, options: Options, size: Size, results: ResultsFile) -> None:
    """One computation for a batch of students against a loop over them."""
    batch, identity = BATCHES[case.student], _identity(case, case.contenders[0], options, size)
    if results.done(**identity, metrics=["speedup"]):
        return
    arguments = case.arguments(options.threads)
    found = alone(speedup, batch=case.student, students=batch.students, turns=size.turns, **arguments)
    results.append(_rows(identity, case, found))


def _contenders(case: Case, options: Options, size: Size, results: ResultsFile, ended: set[str]) -> None:
    """The memory of each contender in a process of its own; then the times of all that got through, in turns.

    Args:
        case: the training.
        options: of the command.
        size: of the preset.
        results: what there is already; rows are added.
        ended: contenders that failed on a length; filled.
    """
    identities = {name: _identity(case, name, options, size) for name in case.contenders if name not in ended}
    # What failed is tried again: a peer may have been installed since.
    missing = [name for name, identity in identities.items() if not results.done(**identity, metrics=["time_ratio"])]
    arguments = {"student": case.student, **case.arguments(options.threads)}
    exact: torch.Tensor | None = None
    timed = []
    for name in missing:
        if results.done(**identities[name], metrics=["extra_bytes"]):
            timed.append(name)
            continue
        found = alone(peak, contender=name, limit=int(options.memory_limit * 2**30), **arguments)
        gradient = found.pop("gradient", None)
        if "failed" in found:
            print(f"  {name} failed: {found['failed']}", file=sys.stderr, flush=True)
            if case.task == "length":
                ended.add(name)
        else:
            timed.append(name)
            if case.task == "usual":
                exact = _exact(arguments) if exact is None else exact
                found["relative_error"] = float((gradient.double() - exact).norm() / exact.norm())
                if not math.isfinite(found["relative_error"]):
                    found = {"failed": "its gradient is not finite"}
                    timed.remove(name)
        results.append(_rows(identities[name], case, found))
    if not timed:
        return
    turns, seconds = (size.turns, size.seconds) if case.task == "usual" else (1, 0.0)
    found = alone(times, contenders=tuple(timed), turns=turns, seconds=seconds, **arguments)
    if "failed" in found:
        raise RuntimeError(f"the times of {case}: {found['failed']}")
    for name in timed:
        results.append(_rows(identities[name], case, found[name]))


def _exact(arguments: dict[str, Any]) -> torch.Tensor:
    found = alone(reference, **arguments)
    if "failed" in found:
        raise RuntimeError(f"the float64 reference of {arguments}: {found['failed']}")
    gradient: torch.Tensor = found["gradient"]
    return gradient


def _identity(case: Case, contender: str, options: Options, size: Size) -> dict[str, Any]:
    """What the rows of a contender are known by."""
    config: dict[str, Any] = {
        "steps": case.steps,
        "turns": 1 if case.task == "length" else size.turns,
        "threads": options.threads,
    }
    dataset = "procedural"
    if case.task == "batched":
        batch = BATCHES[case.student]
        config |= {"students": batch.students, "settings": batch.settings}
        dataset = batch.settings.get("task", dataset)
    else:
        config |= {"batch_size": STUDENTS[case.student].batch, "memory_limit": options.memory_limit}
    return {
        "benchmark": NAME,
        "task": case.task,
        "dataset": dataset,
        "student": case.student,
        "method": contender,
        "seed": case.seed,
        "config": config,
    }


def _cases(options: Options, size: Size) -> list[Case]:
    contenders, seeds = options.contenders or size.contenders, range(options.seeds or size.seeds)
    usual = [
        Case("usual", student, max(2, STUDENTS[student].steps * size.part // 100), contenders, seed)
        for seed in seeds
        for student in options.students or size.students
    ]
    lengths = [Case("length", "mlp", steps, contenders, 0) for steps in sorted(size.lengths)]
    batches = [
        Case("batched", name, BATCHES[name].steps, (f"{BATCHES[name].students} students",), seed)
        for seed in seeds
        for name in size.batches
    ]
    return usual + batches + lengths


def _rows(identity: dict[str, Any], case: Case, found: dict[str, Any]) -> list[Row]:
    told = about(case.steps, found.get("seconds", 0.0))
    if "failed" in found:
        note = {"failed": found["failed"]}
        return [Row(**identity, metric="failed", value=1.0, data=note, **told)]
    values = {metric: found.get(metric) for metric in METRICS}
    data = {"path": found["path"]} if "path" in found else None
    return [
        Row(**identity, metric=metric, value=float(value), data=data, **told)
        for metric, value in values.items()
        if value is not None
    ]
