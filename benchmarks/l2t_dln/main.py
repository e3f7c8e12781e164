"""The command `python -m benchmarks l2t_dln`: which methods are run on which tasks, and how they are tuned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.l2t_dln import cost, imitation, report, work
from benchmarks.l2t_dln.methods import ARCHITECTURES, BOUNDED, CROWD, FIXED, METHODS, SMOOTH, WINDOWS
from benchmarks.options import Names, ParallelOptions, Preset
from teachenv.experiment.cases import Case, Session, Stage, one_at_a_time
from teachenv.experiment.precision import on_any_machine, on_this_machine
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing
from teachenv.experiment.setting import Configuration, Setting

NAME = "l2t_dln"

Study = Literal["table", "architectures", "windows", "cost", "imitation"]


@dataclass(frozen=True)
class Task:
    """A task of a preset.

    Attributes:
        setting: environment and options.
        rates: learning rates of the grid.
        metric: what the report shows, as `evaluate` calls it after the split's name.
        methods: names of those that the table has.
        wrapper: options of `meta.WindowGradient`.
        teacher_students: trainings that a teacher that learns from whole ones may have.
        architectures: whether the study of teachers and that of N are run on it.
        seeds: repetitions, unless the command says otherwise.
    """

    setting: Setting
    rates: tuple[float, ...]
    metric: str
    methods: tuple[str, ...]
    wrapper: Mapping[str, Any] = field(default_factory=dict)
    teacher_students: int = 8
    architectures: bool = False
    seeds: int = 3

    @property
    def shared(self) -> dict[str, Any]:
        """The part of the rows' config that is the same for all methods."""
        setting = self.setting
        return {"env": setting.env, "options": on_any_machine(setting.options), "wrapper": dict(self.wrapper)}


_LEARNED = ("l2t-dlf", "l2t-dln")
_PLAIN = ("cross-entropy", "focal", "label-smoothing", "loss-network", *_LEARNED)
_NOISY = (*FIXED, *_LEARNED, CROWD, *BOUNDED, *SMOOTH)
_BOXES = ("cross-entropy", "focal", "loss-network", *_LEARNED)
_LINEAR: Mapping[str, Any] = {"lr_schedule": "linear", "steps_per_action": 15}


def _task(env: str, rates: tuple[float, ...], metric: str, methods: tuple[str, ...], **options: Any) -> Task:
    return Task(Setting(env, {**_LINEAR, **options}, loss=None), rates, metric, methods)


def _with(task: Task, *, students: int = 8, dev_batch: int | None = None, **changes: Any) -> Task:
    wrapper = {} if dev_batch is None else {"dev_batch": dev_batch}
    return replace(task, wrapper=wrapper, teacher_students=students, **changes)


_LAPTOP = {
    "digits-noisy-40": _with(
        _task("TeachDigits-v0", (0.1, 0.2, 0.4), "error", _NOISY, horizon=300, label_noise=0.4),
        students=40,
        architectures=True,
        seeds=5,
    ),
    "cifar10-resnet8": _with(
        _task(
            "TeachCIFAR-v0", (0.02, 0.05), "error", _PLAIN, horizon=600, batch_size=25, dev_size=2000,
            dev_measured=500, autocast="bfloat16",
        ),
        students=4,
        dev_batch=100,
    ),
    "segmentation-camvid": _with(
        _task(
            "TeachSegmentation-v0", (0.05, 0.1), "miou", _PLAIN, dataset="camvid",
            task_kwargs={"image_size": [45, 60]}, horizon=300, batch_size=4, dev_size=15,
        ),
        students=4,
        dev_batch=8,
    ),
    "detection-coco128": _with(
        _task(
            "TeachDetection-v0", (0.02, 0.05), "map_50", _BOXES, dataset="coco128",
            task_kwargs={"image_size": 64}, horizon=300, batch_size=4, dev_size=24,
        ),
        students=4,
        dev_batch=12,
    ),
}  # fmt: skip

_SMOKE_OPTIONS: Mapping[str, Any] = {"steps_per_action": 2, "horizon": 4, "batch_size": 4, "dev_size": 10}
_SMOKE = {
    name: _with(_task(env, (0.05,), metric, methods, **options, **_SMOKE_OPTIONS), students=1, dev_batch=5, seeds=1)
    for name, env, metric, methods, options in (
        ("digits-noisy-40", "TeachDigits-v0", "error", ("cross-entropy", "l2t-dlf", "l2t-dln"), {"label_noise": 0.4}),
        ("segmentation-shapes", "TeachSegmentation-v0", "miou", ("cross-entropy", "l2t-dln"), {"pool_size": 40}),
        ("detection-shapes", "TeachDetection-v0", "map_50", ("cross-entropy", "l2t-dln"), {"pool_size": 40}),
    )
}

# The released code's: ten times 250 windows of 15 steps, batches of 25, 100 dev images a window, no momentum.
_PAPERS: Mapping[str, Any] = {
    "horizon": 37_500, "steps_per_action": 15, "batch_size": 25, "dev_size": 25_000, "dev_measured": 5_000,
    "momentum": 0.0, "lr_schedule": "constant", "objective": "likelihood",
}  # fmt: skip
_PAPER = {
    f"{data}-{student}": _with(
        _task(env, (0.05, 0.1), "error", _PLAIN, student=student, **_PAPERS),
        dev_batch=100,
        architectures=student == "resnet8-wide" and data == "cifar10",
        seeds=5,
    )
    for data, env in (("cifar10", "TeachCIFAR-v0"), ("cifar100", "TeachCIFAR100-v0"))
    for student in ("resnet8-wide", "resnet20-wide", "resnet32-wide")
} | {
    f"segmentation-{data}": _with(
        _task(
            "TeachSegmentation-v0", (0.02, 0.05, 0.1), "miou", _PLAIN, dataset=data, student="deeplab",
            student_kwargs={"width": 64}, task_kwargs={"image_size": [side, side]}, horizon=30_000, batch_size=16,
            dev_size=dev,
        ),
        dev_batch=16, seeds=5,
    )
    for data, side, dev in (("camvid", 256, 100), ("voc2012", 256, 300))
} | {
    f"detection-{data}": _with(
        _task(
            "TeachDetection-v0", (0.01, 0.03), "map", _BOXES, dataset=data, student_kwargs={"width": 64},
            task_kwargs={"image_size": 320}, horizon=90_000, batch_size=32, dev_size=1000,
        ),
        dev_batch=32, seeds=5,
    )
    for data in ("voc2012", "coco")
}  # fmt: skip

PRESETS: dict[Preset, dict[str, Task]] = {"smoke": _SMOKE, "laptop": _LAPTOP, "paper": _PAPER}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks l2t_dln`."""

    study: tuple[Study, ...] = ("table",)
    """What is asked: table (losses and teachers on each task), architectures (of the teacher), windows (their length
    N), cost (of a hypergradient and of an iteration, by N), imitation (of cross-entropy by a random loss network)."""

    tasks: tuple[str, ...] | None = None
    """Names of tasks, such as segmentation-camvid; by default all of the preset."""

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
        rates = [rate * METHODS[name].steeper for rate in self.task.rates]
        configurations = [Configuration({"learning_rate": rate}, candidate) for rate in rates for candidate in (0, 1)]
        return [(configuration, self.case(name, configuration, 0, final=False)) for configuration in configurations]

    def case(self, name: str, configuration: Configuration, seed: int, final: bool) -> Case:
        """The case of a call of `work.run`."""
        task, method = self.task, METHODS[name]
        students = task.teacher_students * method.crowd
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
                "teacher_students": students if method.kind == "episodes" else None,
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
    chosen = {name: _methods(task, options) for name, task in tasks.items() if name in (options.tasks or (name,))}
    parts = [_part(name, tasks[name], methods, options) for name, methods in chosen.items() if methods]
    stages: list[Stage] = []
    if "cost" in options.study:
        stages.append(one_at_a_time(lambda session: cost.cases(NAME)))
    if "imitation" in options.study:
        stages.append(lambda session: imitation.cases(NAME))
    stages += [partial(_tuning, parts), partial(_training, parts, options.seeds)]
    options.execute(NAME, stages, partial(_report, tasks, options.output_folder(NAME)))


def _part(name: str, task: Task, methods: tuple[str, ...], options: Options) -> Part:
    """A task as this machine runs it; its data is loaded once, to name it and to fail early."""
    setting = replace(task.setting, options=on_this_machine({**task.setting.options, "data_root": options.root}))
    problem = setting.make_single(METHODS["cross-entropy"].shared, Configuration({"learning_rate": 0.1})).problem
    return Part(name, task, methods, setting, problem.task.dataset, str(problem.settings.student))


def _tuning(parts: list[Part], session: Session) -> list[Case]:
    return _long_first(
        case
        for part in parts
        for method in dict.fromkeys(METHODS[m].tuned_as or m for m in part.methods)
        for _, case in part.grid(method)
    )


def _training(parts: list[Part], seeds: int | None, session: Session) -> list[Case]:
    """The cases of the trainings, in the configurations that were best on dev."""
    return _long_first(
        part.case(method, best, seed, final=True)
        for part in parts
        for method in part.methods
        for best in session.best_first("dev_error", part.grid(METHODS[method].tuned_as or method), sign=-1)[:1]
        for seed in range(seeds or part.task.seeds)
    )


def _long_first(cases: Iterable[Case]) -> list[Case]:
    """The cases with teachers before those with fixed losses: begun last, they would leave the other cores idle."""
    return sorted(cases, key=lambda case: METHODS[case.method].kind == "fixed")


def _report(tasks: Mapping[str, Task], folder: Path, rows: list[Row]) -> Report:
    """The report of these tasks in their settings, and of the studies that belong to no task."""
    known = [{"task": name, "config": task.shared} for name, task in tasks.items()]
    others = [{"task": name} for name in {row.task for row in rows} - tasks.keys()]
    shown = agreeing(rows, [*known, *others])
    report.animate(shown, folder)
    return report.make(shown, {name: task.metric for name, task in tasks.items()})


def _methods(task: Task, options: Options) -> tuple[str, ...]:
    """Names of the methods that the options ask for on a task."""
    methods: list[str] = []
    if "table" in options.study:
        methods += task.methods
    if "architectures" in options.study and task.architectures:
        methods += ["l2t-dln", *ARCHITECTURES]
    if "windows" in options.study and task.architectures:
        methods += ["l2t-dln", *(f"l2t-dln:n-{n}" for n in WINDOWS)]
    return tuple(m for m in dict.fromkeys(methods) if options.methods is None or m in options.methods)
