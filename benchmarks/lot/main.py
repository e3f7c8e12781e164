"""What the commands of `lot_language` and `lot_images` share: their options, and the cases that these ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from benchmarks.lot import report, work
from benchmarks.lot.methods import METHODS, SIZES, STUDIES, Method
from benchmarks.lot.work import Problem
from benchmarks.options import Names, ParallelOptions
from teachenv.experiment.cases import Case
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

Study = Literal["table", "peers", "alpha", "n", "form", "size"]


@dataclass(frozen=True)
class StudyOptions(ParallelOptions):
    """Options that both benchmarks have."""

    study: tuple[Study, ...] = ("table",)
    """What is asked: table (with students and without), peers (mutual learning, self-distillation), alpha, n (student
    steps for each of the teacher's), form (students that see labels, L2, two students), size (smaller and larger
    students)."""

    methods: tuple[str, ...] | None = None
    """Which of the study's methods; by default all."""

    epochs: int | None = None
    """Epochs of the teacher; by default what the preset says."""

    def _names(self) -> Names:
        return {"method": (self.methods, METHODS)}


def cases(name: str, options: StudyOptions, problems: Mapping[str, Problem], seeds: int) -> list[Case]:
    """The trainings that the options ask for, but for studies that only one benchmark has; problems are by task."""
    return [case for seed in range(seeds) for case in _of_seed(name, options, problems, seed)]


def make_report(name: str, options: StudyOptions, problems: Mapping[str, Problem], rows: Sequence[Row]) -> Report:
    """The report of all studies and methods in the settings of these problems."""
    shown = _of_seed(name, replace(options, study=get_args(Study), methods=None), problems, 0)
    return report.make(agreeing(rows, [case.identity for case in shown]), name)


def _of_seed(name: str, options: StudyOptions, problems: Mapping[str, Problem], seed: int) -> list[Case]:
    chosen: list[tuple[str, str, Problem, Method]] = []
    for task, problem in problems.items():
        for study in options.study:
            for label, method in STUDIES.get(study, {}).items():
                variant = problem.sizes.get(SIZES[label]) if label in SIZES else problem
                if variant is not None and (options.methods is None or label in options.methods):
                    chosen.append((task, label, variant, method))
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
