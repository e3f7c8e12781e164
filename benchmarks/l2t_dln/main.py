"""The command: which methods are run on which tasks, how they are tuned, and what rows are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from benchmarks.l2t_dln import cost, imitation, report, work
from benchmarks.l2t_dln.methods import ARCHITECTURES, BOUNDED, CROWD, FIXED, METHODS, REPLAYED, SMOOTH, WINDOWS
from benchmarks.l2t_dln.work import Configuration, Run, Setting
from benchmarks.measurements import Measurement, measure, rows_of
from benchmarks.options import ParallelOptions, Preset
from teachenv.errors import unknown_name
from teachenv.experiment.precision import on_any_machine, on_this_machine, precision
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row, agreeing

NAME = "l2t_dln"

Study = Literal["table", "architectures", "windows", "cost", "imitation"]


@dataclass(frozen=True)
class Task:
    """A task of a preset.

    Attributes:
        setting: environment and options.
        rates: learning rates of the grid.
        metric: of the report, as `evaluate` calls it after the split's name.
        methods: of the table.
        architectures: whether the study of teachers and that of N are run on it.
        seeds: repetitions, unless the command says otherwise.
    """

    setting: Setting
    rates: tuple[float, ...]
    metric: str
    methods: tuple[str, ...]
    architectures: bool = False
    seeds: int = 3


_LEARNED = ("l2t-dlf", "l2t-dln")
_PLAIN = ("cross-entropy", "focal", "label-smoothing", "loss-network", *_LEARNED)
_NOISY = (*FIXED, *_LEARNED, CROWD, *BOUNDED, *SMOOTH)
_BOXES = ("cross-entropy", "focal", "loss-network", *_LEARNED)
_LINEAR: Mapping[str, Any] = {"lr_schedule": "linear", "steps_per_action": 15}


def _task(env: str, rates: tuple[float, ...], metric: str, methods: tuple[str, ...], **options: Any) -> Task:
    return Task(Setting(env, {**_LINEAR, **options}), rates, metric, methods)


def _with(task: Task, *, students: int = 8, dev_batch: int | None = None, **changes: Any) -> Task:
    wrapper = {} if dev_batch is None else {"dev_batch": dev_batch}
    return replace(task, setting=replace(task.setting, wrapper=wrapper, teacher_students=students), **changes)


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
    name: Task(
        Setting(env, {**_LINEAR, **options, **_SMOKE_OPTIONS}, {"dev_batch": 5}, 1), (0.05,), metric, methods, seeds=1
    )
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
    f"{data}-{student}": Task(
        Setting(env, {**_PAPERS, "student": student}, {"dev_batch": 100}, 8),
        (0.05, 0.1),
        "error",
        _PLAIN,
        student == "resnet8-wide" and data == "cifar10",
        5,
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
    """Options of ``python -m benchmarks l2t_dln``."""

    study: tuple[Study, ...] = ("table",)
    """What is asked: table (losses and teachers on each task), architectures (of the teacher), windows (their length
    N), cost (of a hypergradient and of an iteration, by N), imitation (of cross-entropy by a random loss network)."""

    tasks: tuple[str, ...] | None = None
    """Names of tasks, such as segmentation-camvid; by default all of the preset."""

    methods: tuple[str, ...] | None = None
    """Which of the study's methods; by default all."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: an unknown task or method, or a number out of range.
        """
        super().__post_init__()
        for task in self.tasks or ():
            if task not in PRESETS[self.preset]:
                raise unknown_name("task", task, PRESETS[self.preset])
        for method in self.methods or ():
            if method not in METHODS:
                raise unknown_name("method", method, METHODS)


class Case(NamedTuple):
    """One run.

    Attributes:
        task: its name.
        method: a name in `METHODS`.
        configuration: see there.
        seed: of the repetition.
        final: see `work.run`.
    """

    task: str
    method: str
    configuration: Configuration
    seed: int
    final: bool


@dataclass
class Bench:
    """What has been measured, and how to measure more.

    Attributes:
        tasks: by name.
        results: the rows.
        workers: processes.
        data_root: of all data.
    """

    tasks: Mapping[str, Task]
    results: ResultsFile
    workers: int
    data_root: str | None = None
    _about: dict[str, tuple[str, str]] = field(default_factory=dict)

    def about(self, task: str) -> tuple[str, str]:
        """(what the data really is, the student) of a task; the data is loaded once, to fail early."""
        if task not in self._about:
            setting = self.setting(task)
            settings = setting.make(METHODS["cross-entropy"], Configuration(0.1, 0)).teaching
            self._about[task] = settings.task.dataset, str(settings.settings.student)
        return self._about[task]

    def setting(self, task: str) -> Setting:
        """The task's, as this machine runs it, with where its data is."""
        setting = self.tasks[task].setting
        more = {} if self.data_root is None else {"data_root": self.data_root}
        return replace(setting, options=on_this_machine({**setting.options, **more}))

    def grid(self, task: str, method: str) -> list[Configuration]:
        """Of a method on a task."""
        rates = [rate * METHODS[method].steeper for rate in self.tasks[task].rates]
        return [Configuration(rate, own) for rate in rates for own in (0, 1)]

    def best(self, task: str, method: str) -> Configuration:
        """The configuration of the best dev score; rows of the whole grid must be there."""
        method = METHODS[method].tuned_as or method
        scores = {
            c: self.results.value("dev_accuracy", self.identity(Case(task, method, c, 0, False)))
            for c in self.grid(task, method)
        }  # the measure's score, whatever the task
        return max(scores, key=lambda c: scores[c])

    def identity(self, case: Case) -> dict[str, Any]:
        """What its rows are known by."""
        dataset, student = self.about(case.task)
        setting, made = self.tasks[case.task].setting, METHODS[case.method]
        return {
            "benchmark": NAME,
            "task": case.task,
            "dataset": dataset,
            "student": student,
            "method": case.method,
            "seed": case.seed,
            "config": {
                "stage": "training" if case.final else "tuning",
                **_given(setting),
                "teacher_students": setting.teacher_students * made.crowd if made.kind == "episodes" else None,
                "environment": dict(made.environment),
                "teacher": {"policy": made.policy, **made.options},
                "steps_per_action": made.steps_per_action,
                "learning_rate": case.configuration.learning_rate,
                "own": dict(made.own[case.configuration.own]),
            },
        }

    def run(self, cases: Sequence[Case]) -> None:
        """Those that are not there yet."""
        # Long ones first: begun last, they would leave the other cores idle.
        cases = sorted(cases, key=lambda case: METHODS[case.method].kind == "fixed")
        measure([self._measurement(case) for case in cases], self.results, self.workers)

    def _measurement(self, case: Case) -> Measurement[Run]:
        stage = f"seed {case.seed}" if case.final else f"tuning, lr {case.configuration.learning_rate:g}"
        return Measurement(
            f"{case.task}: {case.method}, {stage}, own {case.configuration.own}",
            work.run,
            {
                "setting": self.setting(case.task),
                "method": case.method,
                "configuration": case.configuration,
                "seed": case.seed,
                "final": case.final,
            },
            self.identity(case),
            "dev_accuracy",
            partial(self._rows, case),
        )

    def _rows(self, case: Case, found: Run) -> list[Row]:
        identity = self.identity(case)
        told = about(found.steps, found.seconds, **precision(self.setting(case.task).options))
        own = identity | {"method": case.method.replace("l2t-dln", REPLAYED, 1)}
        data = {"curve": found.curve, **report.shown_of(case.method, case.seed, found)} if case.final else None
        # The one that says that all is there comes last.
        scores = dict(sorted(found.scores.items(), key=lambda score: score[0] == "dev_accuracy"))
        return rows_of(own, found.replayed, told) + rows_of(identity, scores, told, data)


def _given(setting: Setting) -> dict[str, Any]:
    """What is the same for all methods."""
    return {"env": setting.env, "options": on_any_machine(setting.options), "wrapper": dict(setting.wrapper)}


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, tables and figures."""
    folder = options.output_folder(NAME)
    results = ResultsFile(folder / "results.jsonl")
    if "cost" in options.study:
        cost.run(results, NAME)
    workers = options.processes
    if "imitation" in options.study:
        imitation.run(results, NAME, workers)
    of_preset = PRESETS[options.preset]
    tasks = {name: task for name, task in of_preset.items() if name in (options.tasks or (name,))}
    root = None if options.data_root is None else os.fspath(options.data_root)
    bench = Bench(tasks, results, workers, root)
    wanted = {name: _methods(task, options) for name, task in tasks.items()}
    for name in [name for name, methods in wanted.items() if methods]:
        bench.about(name)
    bench.run(
        [
            Case(name, method, configuration, 0, False)
            for name, methods in wanted.items()
            for method in dict.fromkeys(METHODS[m].tuned_as or m for m in methods)
            for configuration in bench.grid(name, method)
        ]
    )
    bench.run(
        [
            Case(name, method, bench.best(name, method), seed, True)
            for name, methods in wanted.items()
            for method in methods
            for seed in range(options.seeds or tasks[name].seeds)
        ]
    )
    shown = _shown(results.rows(), of_preset)
    report.make(shown, {name: task.metric for name, task in of_preset.items()}).write(folder)
    report.animate(shown, folder)


def _shown(rows: list[Row], tasks: Mapping[str, Task]) -> list[Row]:
    """Of these tasks in their settings, and of what is no task's."""
    own = [{"task": name, "config": _given(task.setting)} for name, task in tasks.items()]
    others = [{"task": name} for name in {row.task for row in rows} - tasks.keys()]
    return agreeing(rows, [*own, *others])


def _methods(task: Task, options: Options) -> tuple[str, ...]:
    """What the options ask for on a task."""
    found: list[str] = []
    if "table" in options.study:
        found += task.methods
    if "architectures" in options.study and task.architectures:
        found += ["l2t-dln", *ARCHITECTURES]
    if "windows" in options.study and task.architectures:
        found += ["l2t-dln", *(f"l2t-dln:n-{n}" for n in WINDOWS)]
    return tuple(m for m in dict.fromkeys(found) if options.methods is None or m in options.methods)
