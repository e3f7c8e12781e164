"""The command's part that does not depend on what is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from benchmarks.lot import report, work
from benchmarks.lot.methods import METHODS, SIZES, STUDIES, Method
from benchmarks.lot.work import Problem, Trained
from benchmarks.measurements import Measurement, measure, rows_of
from benchmarks.options import ParallelOptions
from teachenv.errors import unknown_name
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row, agreeing

Study = Literal["table", "peers", "alpha", "n", "form", "size"]


@dataclass(frozen=True)
class StudyOptions(ParallelOptions):
    """What both benchmarks can be asked."""

    study: tuple[Study, ...] = ("table",)
    """What is asked: table (with students and without), peers (mutual learning, self-distillation), alpha, n (student
    steps for each of the teacher's), form (students that see labels, L2, two students), size (smaller and larger
    students)."""

    methods: tuple[str, ...] | None = None
    """Which of the study's methods; by default all."""

    epochs: int | None = None
    """The teacher's; by default what the preset says."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: an unknown method, or a number out of range.
        """
        super().__post_init__()
        for method in self.methods or ():
            if method not in METHODS:
                raise unknown_name("method", method, METHODS)


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        benchmark: its name.
        task: what is learned, as rows call it.
        problem: see there.
        label: of the rows: the method, with what a study varies.
        method: see there.
        seed: of the repetition.
    """

    benchmark: str
    task: str
    problem: Problem
    label: str
    method: Method
    seed: int

    @property
    def identity(self) -> dict[str, Any]:
        """What its rows are known by; where the data lies on this machine is not part of it."""
        return {
            "benchmark": self.benchmark,
            "task": self.task,
            "dataset": self.problem.dataset,
            "student": self.problem.title,
            "method": self.label,
            "seed": self.seed,
            "config": {"problem": self.problem.config, "method": asdict(self.method)},
        }


def run(
    name: str,
    options: StudyOptions,
    problems: Mapping[str, Problem],
    seeds: int,
    shown: Mapping[str, Problem] | None = None,
) -> None:
    """Trains what the folder does not hold yet; writes rows, tables and figures.

    Args:
        name: of the benchmark.
        options: of the command.
        problems: by task.
        seeds: of the preset.
        shown: those that the report is of, as far as the folder has them, whichever study they are of; None: the same.
    """
    folder = options.output_folder(name)
    results = ResultsFile(folder / "results.jsonl")
    wanted = [
        Measurement(
            f"{case.task}: {case.label}, seed {case.seed}",
            work.train,
            {"problem": case.problem, "method": case.method, "seed": case.seed},
            case.identity,
            f"test_{case.problem.metric}",
            partial(_rows, case),
        )
        for seed in range(options.seeds or seeds)
        for case in _cases(name, options, problems, seed)
    ]
    measure(wanted, results, options.processes)
    of_all = _cases(name, replace(options, study=get_args(Study), methods=None), shown or problems, 0)
    report.make(agreeing(results.rows(), [case.identity for case in of_all]), name).write(folder)


def _cases(name: str, options: StudyOptions, problems: Mapping[str, Problem], seed: int) -> list[Case]:
    found = []
    for task, problem in problems.items():
        for study in options.study:
            for label, method in STUDIES[study].items():
                variant = problem.sizes.get(SIZES[label]) if label in SIZES else problem
                if variant is not None and (options.methods is None or label in options.methods):
                    found.append(Case(name, task, variant, label, method, seed))
    # Long ones first: begun last, they would leave the other cores idle. A step with a student has its KL besides.
    return sorted(found, key=lambda case: (case.method.updates, case.method.students), reverse=True)


def _rows(case: Case, found: Trained) -> list[Row]:
    told = about(found.steps, found.seconds, matmul_precision="medium", precision=case.problem.precision)
    metric = case.problem.metric
    student = {} if found.student is None else {f"student_test_{metric}": found.student}
    # The one that says that all is there comes last.
    values = {f"valid_{metric}": found.valid, **student, f"test_{metric}": found.test}
    return rows_of(case.identity, values, told, {"curve": found.curve, "teacher_steps": found.teacher_steps})
