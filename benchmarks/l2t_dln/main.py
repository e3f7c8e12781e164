"""The command `python -m benchmarks l2t_dln`: which methods are run on which tasks, and how they are tuned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

from benchmarks.l2t_dln import cost, imitation, report, work
from benchmarks.l2t_dln.methods import METHODS, STUDIES, StudyOfMethods
from benchmarks.l2t_dln.presets import PRESETS, Presets, Task
from benchmarks.options import Names, ParallelOptions, Tables
from teachenv.experiment.cases import Case, Session, Stage, one_at_a_time
from teachenv.experiment.precision import on_this_machine
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing
from teachenv.experiment.setting import Configuration, Setting

NAME = "l2t_dln"

Study = Literal["table", StudyOfMethods, "cost", "imitation"]


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks l2t_dln`."""

    preset: Presets = "laptop"  # type: ignore[assignment]
    """Size of the run: smoke only checks that everything runs, laptop gives real results on two cores, released is the
    released code's setting with nothing tuned, paper is the paper's networks and data, tuned."""

    study: tuple[Study, ...] = ("table",)
    """Which study to run: table (losses and teachers on each task), architectures (of the teacher), windows (their
    length N), mends (what might repair the released teacher), cost (of a hypergradient and of an iteration, by N),
    imitation (of cross-entropy by a random loss network)."""

    tasks: tuple[str, ...] | None = None
    """Names of tasks, such as segmentation-camvid; by default all of the preset, of released without
    cifar10-resnet8-released and digits-noisy-40-redivided-released."""

    methods: tuple[str, ...] | None = None
    """Which of the study's methods; by default all."""

    def _names(self) -> Names:
        return {"task": (self.tasks, PRESETS[self.preset]), "method": (self.methods, METHODS)}


class Part(NamedTuple):
    """A task as this machine runs it.

    Attributes:
        name: what the task is called.
        task: the task as the preset describes it.
        methods: names of those that are run.
        setting: environment and options, with where the data is on this machine.
        dataset: what the data really is.
        student: the network.
    """

    name: str
    task: Task
    methods: tuple[str, ...]
    setting: Setting
    dataset: str
    student: str

    def grid(self, name: str) -> list[tuple[Configuration, Case]]:
        """All configurations of a method, with what tunes them."""
        rates = [round(rate * METHODS[name].steeper, 10) for rate in self.task.rates]
        candidates = range(len(METHODS[name].candidates))
        configurations = [
            Configuration({"learning_rate": rate}, candidate) for rate in rates for candidate in candidates
        ]
        return [(configuration, self.case(name, configuration, 0, final=False)) for configuration in configurations]

    def best(self, session: Session, name: str) -> list[Configuration]:
        """The method's configuration that was best on dev, or its only one; empty if tuning it failed."""
        grid = self.grid(METHODS[name].tuned_as or name)
        if not self.task.tuned:
            return [grid[0][0]]
        return session.best_first("dev_error", grid, sign=-1)[:1]

    def case(self, name: str, configuration: Configuration, seed: int, final: bool) -> Case:
        """The case of a call of `work.run`."""
        task, method = self.task, METHODS[name].seeded(seed)
        students = task.teacher_students * method.students_factor
        learned_from = {
            "episodes": students,
            "online": method.students_factor if method.students_factor > 1 else None,
        }.get(method.kind)
        return Case(
            benchmark=NAME,
            task=self.name,
            dataset=self.dataset,
            student=self.student,
            method=name,
            seed=seed,
            config={
                "stage": "training" if final else "tuning",
                **task.shared,
                "teacher_students": learned_from,
                "environment": dict(method.environment),
                "teacher": {"policy": method.policy, **method.options},
                "steps_per_action": method.steps_per_action,
                **configuration.student,
                "own": dict(method.candidates[configuration.candidate]),
            },
            label=f"{self.name}: {name}, {f'seed {seed}' if final else 'tuning'}, {configuration}",
            function=work.run,
            arguments={
                "setting": self.setting,
                "name": name,
                "method": method,
                "configuration": configuration,
                "wrapper": task.wrapper,
                "trainings": students,
                "seed": seed,
                "final": final,
            },
            last="dev_error",
        )


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, tables and figures."""
    tasks = PRESETS[options.preset]
    named = options.tasks or [name for name, task in tasks.items() if task.by_default]
    chosen = {name: _methods(task, options) for name, task in tasks.items() if name in named}
    parts = [_part(name, tasks[name], methods, options) for name, methods in chosen.items() if methods]
    stages: list[Stage] = []
    if "cost" in options.study:
        stages.append(one_at_a_time(lambda session: cost.cases(NAME)))
    if "imitation" in options.study:
        stages.append(lambda session: imitation.cases(NAME))
    stages += [partial(_tuning, parts), partial(_training, parts, options.seeds)]
    options.execute(NAME, stages, partial(_report, tasks))


def _part(name: str, task: Task, methods: tuple[str, ...], options: Options) -> Part:
    """A task as this machine runs it; its data is loaded once, to name it and to fail early."""
    setting = replace(task.setting, options=on_this_machine({**task.setting.options, "data_root": options.root}))
    problem = setting.make_single(METHODS["cross-entropy"].shared, Configuration({"learning_rate": 0.1})).problem
    return Part(name, task, methods, setting, problem.task.dataset, str(problem.settings.student))


def _tuning(parts: list[Part], session: Session) -> list[Case]:
    return _long_first(
        case
        for part in parts
        if part.task.tuned
        for method in dict.fromkeys(METHODS[m].tuned_as or m for m in part.methods)
        for _, case in part.grid(method)
    )


def _training(parts: list[Part], seeds: int | None, session: Session) -> list[Case]:
    """The cases of the training runs, in the configurations that were best on dev."""
    return _long_first(
        part.case(method, best, seed, final=True)
        for part in parts
        for method in part.methods
        for best in part.best(session, method)
        for seed in range(seeds or part.task.seeds)
    )


def _long_first(cases: Iterable[Case]) -> list[Case]:
    """The cases with teachers before those with fixed losses: begun last, they would leave the other cores idle."""
    return sorted(cases, key=lambda case: METHODS[case.method].kind == "fixed")


def _report(tasks: Mapping[str, Task], rows: list[Row]) -> Report:
    """The report of these tasks in their settings, and of the studies that belong to no task."""
    known = [{"task": name, "config": task.shared} for name, task in tasks.items()]
    others = [{"task": name} for name in {row.task for row in rows} - tasks.keys()]
    shown = agreeing(rows, [*known, *others])
    return report.make(shown, {name: task.metric for name, task in tasks.items()})


def _methods(task: Task, options: Options) -> tuple[str, ...]:
    """Names of the methods that the options ask for on a task."""
    methods: list[str] = []
    if "table" in options.study:
        methods += task.methods
    for studied in STUDIES:
        if studied.study in options.study and studied.base == task.studied:
            methods += [studied.base, *studied.compared]
    return tuple(m for m in dict.fromkeys(methods) if options.methods is None or m in options.methods)


def _of_rows(rows: list[Row]) -> Report:
    return report.make(rows, {name: task.metric for tasks in PRESETS.values() for name, task in tasks.items()})


TABLES: Tables = {"table": _of_rows}
