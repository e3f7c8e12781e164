"""The command `python -m benchmarks hypergradients`: which way to differentiate meets which training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from benchmarks.hypergradients import estimators, measure, report
from benchmarks.hypergradients.contenders import CONTENDERS, PEERS, takes
from benchmarks.hypergradients.measure import BATCHES
from benchmarks.hypergradients.problems import STUDENTS
from benchmarks.options import CommonOptions, Names, Preset, Tables
from teachenv.experiment.cases import Case, Session, Stage
from teachenv.experiment.rows import agreeing
from teachenv.experiment.tables import grouped

NAME = "hypergradients"
Study = Literal["cost", "estimators"]


@dataclass(frozen=True)
class Size:
    """Which training runs and contenders a preset measures, and how often.

    Attributes:
        seeds: repetitions.
        turns: the least number of turns that contenders and plain training take.
        seconds: the least time that turns take on each training run.
        students: what is trained, unless `--students` says otherwise.
        contenders: what differentiates, unless `--contenders` says otherwise.
        part: how long the training runs of the first part are, in percent of their usual length.
        lengths: numbers T of student steps in the second part, ascending.
        batches: names in `BATCHES`, the third part.
        horizons: numbers T of student steps in the study of estimators.
    """

    seeds: int
    turns: int
    seconds: float
    students: tuple[str, ...]
    contenders: tuple[str, ...]
    part: int
    lengths: tuple[int, ...]
    batches: tuple[str, ...]
    horizons: tuple[int, ...]


HORIZONS = (60, 240, 720, 2400, 5000)
LENGTHS = (16, 64, 256, 1024, 5000, 50_000)
_EVERY = {"students": tuple(STUDENTS), "contenders": tuple(CONTENDERS), "batches": tuple(BATCHES)}
_FEW = (*PEERS, "rmd:all", "rmd:sqrt", "finite-difference:states")

SIZES: dict[Preset, Size] = {
    "smoke": Size(1, 1, 0.0, ("mlp",), _FEW, part=3, lengths=(), batches=(), horizons=(20,)),
    "laptop": Size(3, 3, 60.0, **_EVERY, part=100, lengths=LENGTHS, horizons=HORIZONS),
    "paper": Size(10, 5, 120.0, **_EVERY, part=100, lengths=LENGTHS, horizons=HORIZONS),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `python -m benchmarks hypergradients`."""

    study: tuple[Study, ...] = ("cost",)
    """Which study to run: cost (time and memory of what differentiates), estimators (how far other estimates are
    off)."""

    students: tuple[str, ...] | None = None
    """Networks of the first part; by default all of them, in the smoke preset the mlp."""

    contenders: tuple[str, ...] | None = None
    """What differentiates them; by default everything, in the smoke preset one of each kind."""

    estimators: tuple[str, ...] | None = None
    """Which of the study estimators; by default all."""

    threads: int = 1
    """Torch threads of every contender."""

    memory_limit: float = 4.0
    """GiB that a contender may take beyond what its process has at the start."""

    disk_limit: float = 16.0
    """GiB that a contender's file may take."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where all contenders compute; on cuda their memory is that of the GPU, and JAX is left out."""

    def __post_init__(self) -> None:
        """Checks the limits and the device, beside what all benchmarks check.

        Raises:
            ValueError: an unknown name, or a number out of range.
        """
        super().__post_init__()
        for name in ("memory_limit", "disk_limit"):
            if not getattr(self, name) > 0:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"found {flag} {getattr(self, name)}, expected a positive number of GiB")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("found --device cuda, but PyTorch sees no GPU; leave it out to measure on the CPU")

    def _names(self) -> Names:
        return {
            "student": (self.students, STUDENTS),
            "contender": (self.contenders, CONTENDERS),
            "estimator": (self.estimators, estimators.ESTIMATORS),
        }

    @property
    def size(self) -> Size:
        """The preset's size, with the command line's options in place of its own."""
        size = SIZES[self.preset]
        return replace(
            size,
            seeds=self.seeds or size.seeds,
            students=self.students or size.students,
            contenders=self.contenders or size.contenders,
        )


class Training(NamedTuple):
    """What contenders differentiate: the first part, `"usual"`, or the second, `"length"`."""

    task: str
    student: str
    steps: int
    seed: int


def run(options: Options) -> None:
    """Measures what the folder does not hold yet, one after the other. The study estimators has files of its own."""
    if "cost" in options.study:
        # All contenders that the folder has: those that were asked for earlier, too.
        every = replace(options, students=tuple(STUDENTS), contenders=tuple(CONTENDERS))
        trainings = [*_usual(every.size), *_lengths(every.size)]
        cases = [_case(every, training, name) for training in trainings for name in CONTENDERS] + _batches(every)
        identities = [case.identity for case in cases]
        options.execute(NAME, _stages(options), lambda rows: report.make(agreeing(rows, identities)))
    if "estimators" in options.study:
        size = options.size
        names = options.estimators or tuple(estimators.ESTIMATORS)
        cases = estimators.cases(NAME, names, size.horizons, size.seeds)
        options.execute(NAME, [lambda session: cases], estimators.report, estimators.TASK)


def _usual(size: Size) -> list[Training]:
    return [
        Training("usual", student, max(2, STUDENTS[student].steps * size.part // 100), seed)
        for seed in range(size.seeds)
        for student in size.students
    ]


def _lengths(size: Size) -> list[Training]:
    return [Training("length", "mlp", steps, 0) for steps in size.lengths]


def _stages(options: Options) -> Iterator[Stage]:
    usual = _usual(options.size)
    yield partial(_memory, options, usual)
    yield partial(_times, options, usual)
    # What fails on a length is not asked for on a longer one, so each of these has a stage of its own.
    for training in _lengths(options.size):
        yield partial(_memory, options, [training])
    yield lambda session: _batches(options)


def _memory(options: Options, trainings: Sequence[Training], session: Session) -> list[Case]:
    """Each contender in a process of its own. One that failed may do better now, unless it passed the memory limit."""
    limits = {"limit": int(options.memory_limit * 2**30), "disk_limit": int(options.disk_limit * 2**30)}
    return [
        _case(options, training, name, {"contender": name, **limits, "whole": training.task == "usual"})
        for training in trainings
        for name in _missing(options, training, session)
        if "allocate memory" not in _failure(options, training, name, session)
    ]


def _times(options: Options, trainings: Sequence[Training], session: Session) -> list[Case]:
    """The times of all contenders that have not failed, which take turns."""
    size, cases = options.size, []
    for training in trainings:
        names = [n for n in _missing(options, training, session) if not _failure(options, training, n, session)]
        if names:
            arguments = {"contenders": names, "turns": size.turns, "seconds": size.seconds}
            cases.append(_case(options, training, names[0], arguments, measure.times))
    return cases


def _missing(options: Options, training: Training, session: Session) -> list[str]:
    """Contenders whose times are not there; those that have failed on a shorter training run are left out."""
    shorter = [other for other in _lengths(options.size) if training.task == "length" and other.steps < training.steps]
    return [
        name
        for name in options.size.contenders
        if takes(name, training.student)
        and not session.results.done(_case(options, training, name).identity, ["time_ratio"])
        and not any(_failure(options, other, name, session) for other in shorter)
    ]


def _failure(options: Options, training: Training, contender: str, session: Session) -> str:
    """Why a contender failed, as text; empty if it did not."""
    identity = _case(options, training, contender).identity
    rows = [row for row in session.results.rows() if row.seed == training.seed]
    group = grouped(agreeing(rows, [identity]), key=lambda row: "")
    return report.failed(group[0], "extra_bytes") if group else ""


def _case(
    options: Options,
    training: Training,
    contender: str,
    arguments: dict[str, Any] | None = None,
    function: Any = measure.memory,
) -> Case:
    task, student, steps, seed = training
    in_turns = function is measure.times
    return Case(
        benchmark=NAME,
        task=task,
        dataset="procedural",
        student=student,
        method=contender,
        seed=seed,
        config={
            "steps": steps,
            "turns": 1 if task == "length" else options.size.turns,
            "threads": options.threads,
            "batch_size": STUDENTS[student].batch,
            "memory_limit": options.memory_limit,
            # Rows of a CPU are known without a device.
            **({} if options.device == "cpu" else {"device": options.device}),
        },
        label=f"{student}, T = {steps}: {'in turns' if in_turns else contender}",
        function=function,
        arguments={"training": (student, steps, seed, options.device), **(arguments or {})},
        last="time_ratio" if in_turns or task == "length" else "extra_bytes",
        resources={"num_cpus": options.threads},
    )


def _batches(options: Options) -> list[Case]:
    size = options.size
    return [
        Case(
            benchmark=NAME,
            task="batched",
            dataset=batch.settings["task"],
            student=name,
            method=f"{batch.students} students",
            seed=seed,
            config={
                "steps": batch.steps,
                "turns": size.turns,
                "threads": options.threads,
                "students": batch.students,
                "settings": batch.settings,
            },
            label=f"{name}, T = {batch.steps}: {batch.students} students",
            function=measure.batched,
            arguments={"batch": batch, "seed": seed, "turns": size.turns},
            last="speedup",
            resources={"num_cpus": options.threads},
        )
        for seed in range(size.seeds)
        for name, batch in BATCHES.items()
        if name in size.batches
    ]


TABLES: Tables = {"table": report.make, estimators.TASK: estimators.report}
