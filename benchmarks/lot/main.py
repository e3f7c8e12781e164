"""What the commands of `lot_language` and `lot_images` share: their options, and the cases that these ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from benchmarks.lot import report, sizes, sizes_report, work
from benchmarks.lot.methods import ALPHAS, STEPS, Method, released, studies
from benchmarks.lot.problem import Problem
from benchmarks.lot.regularisers import STUDENT_STEPS, Comparison, Regime, Regulariser, regularisers
from benchmarks.options import Names, ParallelOptions, Tables
from teachenv.experiment.cases import Case, Stage
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing, judging

Study = Literal["table", "peers", "alpha", "n", "form", "regularisers", "sizes"]
Tuned = Literal["regularisers", "sizes"]
"""The studies in which each line is tuned."""
Presets = Literal["smoke", "laptop", "released", "paper"]


class Further(NamedTuple):
    """A study that only one of the benchmarks has.

    Attributes:
        name: what its table is called.
        cases: its training runs.
        report: makes its report of the folder's rows.
    """

    name: str
    cases: list[Case]
    report: Callable[[Sequence[Row]], Report]


@dataclass(frozen=True)
class StudyOptions(ParallelOptions):
    """Options that both benchmarks have."""

    preset: Presets = "laptop"  # type: ignore[assignment]
    """Size of the run: smoke only checks that everything runs, laptop gives real results on two cores, released has the
    released code's recipe (its sizes, epochs, α, N, and labels for students), paper has its sizes and epochs for any
    study."""

    study: tuple[Study, ...] = ("table",)
    """Which study to run: table (with students and without), peers (mutual learning, self-distillation), alpha, n
    (student steps for each of the teacher's), form (students that see labels, L2, two students), regularisers (LoT
    beside weight decay, dropout and others where models overfit, each tuned), sizes (students of shares of the model's
    parameters, there too)."""

    methods: tuple[str, ...] | None = None
    """Which of the study's methods; by default all."""

    epochs: int | None = None
    """Epochs of the teacher; by default what the preset says."""

    alpha: tuple[float, ...] | None = None
    """Weights of LoT's term: those that the study alpha compares, and that regularisers and sizes try."""

    student_size: tuple[str, ...] | None = None
    """Students' shares of the model's parameters, for the study sizes: 1, 1/4, 0.25 and so on; by default 1, 1/4, 1/16
    and 1/64."""

    student_steps: tuple[int, ...] | None = None
    """Student steps N for each of the teacher's: the studies n and regularisers have a line of each."""

    optimizer: Literal["sgd", "adam"] | None = None
    """Optimiser of all networks; by default what the preset says, and in the study regularisers both are tried."""

    train_size: int | None = None
    """Labelled samples: images, or tokens of text; by default what the preset says."""

    def __post_init__(self) -> None:
        """Checks weights and steps.

        Raises:
            ValueError: a weight of LoT's term that is no finite number above 0, or that differs from another in no
                digit that names have; or a number of student steps below 1.
        """
        super().__post_init__()
        check_names_differ("--alpha", self.alpha)
        sizes.shares(self.student_size or ())
        for name, values in (("alpha", self.alpha), ("student-steps", self.student_steps)):
            for value in values or ():
                if not 0 < value < math.inf:
                    raise ValueError(f"found --{name} {value:g}, expected a finite number above 0")

    def _names(self) -> Names:
        tasks = self.recipes() or [""]
        of_studies = [self.studies(task).get(study, {}) for task in tasks for study in self.study]
        known = {name for methods in of_studies for name in methods}
        for study in get_args(Tuned):
            if study in self.study:
                known |= self.compared(study).keys()
        return {f"method of --study {' '.join(self.study)}": (self.methods, known)}

    def recipes(self) -> Mapping[str, Method]:
        """The released code's recipes by task, in the preset that trains by them."""
        return {}

    def studies(self, task: str) -> dict[str, Mapping[str, Method]]:
        """The methods of the studies in which nothing is tuned."""
        if task in (recipes := self.recipes()):
            return {"table": released(recipes[task])}
        return studies(self.alpha or ALPHAS, self.student_steps or STEPS)

    def compared(self, study: Tuned) -> dict[str, Regulariser]:
        """What a study compares whose lines are tuned."""
        if study == "sizes":
            default = sizes.SHARES[:2] if self.preset == "smoke" else sizes.SHARES
            return sizes.sized(sizes.shares(self.student_size or default), self.alpha)
        return regularisers(self.alpha, self.student_steps or STUDENT_STEPS)


def check_names_differ(flag: str, values: Sequence[float] | None, factor: float = 1.0) -> None:
    """Refuses numbers whose names in rows would be one, so that one of them would be left out.

    Args:
        flag: the option.
        values: its values.
        factor: what they are multiplied by in names.

    Raises:
        ValueError: there are two such.
    """
    named: dict[str, float] = {}
    for value in values or ():
        if (other := named.setdefault(f"{factor * value:g}", value)) != value:
            raise ValueError(
                f"found {flag} {other} {value}, both of which rows would call {factor * value:g}; expected numbers "
                "that differ in their first six digits"
            )


def run(
    name: str,
    options: StudyOptions,
    problems: Mapping[str, Problem],
    seeds: int,
    regimes: Callable[[Tuned], Mapping[str, Regime]],
    shown: Mapping[str, Problem] | None = None,
    further: Further | None = None,
) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures.

    Args:
        name: the benchmark's name.
        options: what is asked.
        problems: what is learned, by the task's name; the studies whose lines are tuned have their own.
        seeds: repetitions; likewise.
        regimes: gives what is learned in such a study, by the task's name.
        shown: what the tables show beside, where the folder has rows of it; None: nothing.
        further: a study that only this benchmark has.

    Raises:
        ValueError: the preset released is asked for another study than its table.
    """
    if options.preset == "released" and options.study != ("table",):
        raise ValueError(
            f"found --study {' '.join(options.study)} with --preset released, expected table: the released code has "
            "one recipe; --preset paper has its sizes for any study"
        )
    wanted = [case for seed in range(seeds) for case in _of_seed(name, options, problems, seed)]
    wanted += further.cases if further is not None else []
    stages: list[Stage] = [lambda session: wanted]
    compared: dict[str, Comparison] = {}
    for study in get_args(Tuned):
        if study in options.study:
            lines = options.compared(study)
            compared[study] = Comparison(name, regimes(study), lines, options.methods, options.seeds)
            stages += compared[study].stages

    def reports(rows: Sequence[Row]) -> Report:
        everything = replace(options, study=get_args(Study), methods=None)
        settings = [case.identity for case in _of_seed(name, everything, shown or problems, 0)]
        whole = report.make(agreeing(rows, settings), name)
        if further is not None:
            whole.beside[further.name] = further.report(rows)
        for study, comparison in compared.items():
            make = sizes_report.make if study == "sizes" else report.of_regularisers
            whole.beside[study] = make(comparison.shown(rows), name, tuple(comparison.compared))
        return whole

    options.execute(name, stages, reports)


def _of_seed(name: str, options: StudyOptions, problems: Mapping[str, Problem], seed: int) -> list[Case]:
    chosen: list[tuple[str, str, Problem, Method]] = []
    for task, problem in problems.items():
        for study in options.study:
            for label, method in options.studies(task).get(study, {}).items():
                if options.methods is None or label in options.methods:
                    chosen.append((task, label, problem, method))
    # Long ones first: begun last, they would leave the other cores idle. A step with a student has its KL besides.
    chosen.sort(key=lambda training: (training[-1].updates, training[-1].students), reverse=True)
    return [_case(name, *training, seed) for training in chosen]


def _case(name: str, task: str, label: str, problem: Problem, method: Method, seed: int) -> Case:
    arguments: dict[str, Any] = {"problem": problem, "method": method, "seed": seed}
    return Case(
        benchmark=name,
        task=task,
        dataset=problem.dataset,
        student=problem.title,
        method=label,
        seed=seed,
        config={"problem": problem.config, "method": asdict(method)},
        label=f"{task}: {label}, seed {seed}",
        function=work.train,
        arguments=arguments,
        last=f"test_{problem.metric}",
    )


def tables(name: str) -> Tables:
    """What a benchmark of this name writes, from rows alone."""
    lines, sized = list(regularisers(None, STUDENT_STEPS)), list(sizes.sized(sizes.shares(sizes.SHARES), None))
    return {
        "table": lambda rows: report.make([row for row in rows if "stage" not in row.config], name),
        "regularisers": lambda rows: report.of_regularisers(judging(rows), name, lines),
        "sizes": lambda rows: sizes_report.make(judging(rows), name, sized),
    }
