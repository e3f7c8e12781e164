"""The command: what is run in which order, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.compare import report, work
from benchmarks.compare.methods import METHODS, Configuration, grid
from benchmarks.compare.work import Setting, Taught, Trained
from benchmarks.jobs import Job, run_jobs
from benchmarks.options import CommonOptions
from benchmarks.rows import ResultsFile, Row, git_commit, read_rows, versions
from teachenv.errors import unknown_name

NAME = "compare"

# The rows that the README's table was made from; their tuning is taken over where the settings agree.
SHIPPED = Path(__file__).resolve().parent.parent / "results" / NAME / "results.jsonl"


class Rung(NamedTuple):
    """One round of successive halving.

    Attributes:
        configurations: how many are left.
        steps: student steps on which a teacher is trained in each.
        parallel: students that it teaches at a time.
        students: fresh students whose dev accuracy decides.
    """

    configurations: int
    steps: int
    parallel: int
    students: int


@dataclass(frozen=True)
class Size:
    """What a preset fixes.

    Attributes:
        seeds: teachers of each kind.
        student_steps: budget of each teacher.
        parallel: students that it teaches at a time.
        rungs: of successive halving.
        points: how often a learning teacher is measured.
        students: fresh students of each such measurement.
        final_students: fresh students on the whole pool.
        label_noise: the tasks.
    """

    seeds: int
    student_steps: int
    parallel: int
    rungs: tuple[Rung, ...]
    points: int
    students: int
    final_students: int
    label_noise: tuple[float, ...]


PRESETS = {
    "smoke": Size(1, 960, 8, (Rung(2, 480, 8, 4),), 1, 4, 8, (0.0,)),
    # Whole updates of 16 students of 60 steps: 100, and 3, 6 and 20 for tuning.
    "laptop": Size(
        seeds=3,
        student_steps=96_000,
        parallel=16,
        rungs=(Rung(48, 2_880, 16, 32), Rung(12, 5_760, 16, 64), Rung(3, 19_200, 16, 256)),
        points=6,
        students=32,
        final_students=256,
        label_noise=(0.0, 0.4),
    ),
    "paper": Size(
        seeds=10,
        student_steps=288_000,
        parallel=32,
        rungs=(Rung(48, 9_600, 32, 64), Rung(12, 19_200, 32, 128), Rung(4, 96_000, 32, 512)),
        points=15,
        students=128,
        final_students=512,
        label_noise=(0.0, 0.4),
    ),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of the comparison."""

    env: str = "TeachDigits-v0"
    """A registered environment; named objects of your own cannot be passed on a command line."""

    label_noise: tuple[float, ...] | None = None
    """Fractions of wrong labels in the pool, a task each; by default what the preset says (0 and 0.4)."""

    label_noise_kind: Literal["pair", "symmetric"] = "pair"
    """Class c becomes c + 1, or any other class."""

    methods: tuple[str, ...] = (
        "cross-entropy",
        "smooth-01",
        "large-margin",
        "label-smoothing",
        "random",
        "ddpg",
        "rmd",
        "finite-difference",
    )
    """What is run; `ddpg:default` (SB3's, out of the box), `evolution-strategies` and `focal` are there, too. The table
    has all methods whose rows the folder holds."""

    loss: Literal["bilinear", "bilinear-sigmoid"] = "bilinear"
    """The teachers' loss family."""

    student_steps: int | None = None
    """Budget of each teacher, in student steps; by default what the preset says."""

    horizon: int | None = None
    """Student steps in an episode; by default the environment's own."""

    dataset: str | None = None
    """Other data for the environment; the CIFAR environments take synthetic."""

    retune: bool = False
    """Tune anew, even where the rows that come with this repository have the tuning already."""

    workers: int | None = None
    """Processes, each on one core; by default as many as there are cores."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: an unknown method, or numbers out of range.
        """
        super().__post_init__()
        for method in self.methods:
            if method not in METHODS:
                raise unknown_name("method", method, METHODS)
        if self.student_steps is not None and self.student_steps < 1:
            raise ValueError(f"found --student-steps {self.student_steps}, expected at least 1")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"found --workers {self.workers}, expected at least 1")


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, table and figures."""
    Comparison(options).run()


@dataclass(frozen=True)
class Task:
    """A setting with the names that its rows carry."""

    setting: Setting
    name: str
    dataset: str
    student: str


class Comparison:
    """One run of the comparison."""

    def __init__(self, options: Options) -> None:
        """Opens the results."""
        self.options = options
        self.size = PRESETS[options.preset]
        self.budget = options.student_steps or self.size.student_steps
        self.seeds = options.seeds or self.size.seeds
        self.workers = options.workers or os.cpu_count() or 1
        self.folder = options.output_folder(NAME)
        self.results = ResultsFile(self.folder / "results.jsonl")

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks; their data is loaded once here, to name it and to fail early."""
        tasks = []
        for noise in self.options.label_noise or self.size.label_noise:
            shared: dict[str, Any] = {"label_noise": noise, "label_noise_kind": self.options.label_noise_kind}
            for name in ("horizon", "dataset"):
                if getattr(self.options, name) is not None:
                    shared[name] = getattr(self.options, name)
            if self.options.data_root is not None:
                shared["data_root"] = str(self.options.data_root)
            setting = Setting(self.options.env, shared, self.options.loss)
            teaching = setting.make(1, "cross-entropy", grid(setting.loss, METHODS["cross-entropy"])[0]).teaching
            tasks.append(Task(setting, teaching.task.name, teaching.task.dataset, str(teaching.settings.student)))
        return tasks

    def run(self) -> None:
        """Everything, leaving out what the results have already."""
        best = self.tune()
        jobs: list[Job[Any]] = []
        rows_of: dict[str, tuple[Task, str, int, dict[str, Any]]] = {}
        for seed in range(self.seeds):
            for task in self.tasks:
                for method in self.options.methods:
                    config = self._config(task, method, best[task.name, method], stage="training")
                    if self._done(task, method, seed, config, "test_error"):
                        continue
                    label = f"{task.name}: {method}, seed {seed}"
                    rows_of[label] = (task, method, seed, config)
                    # With the settings in its name, since a checkpoint of other settings must not be taken up.
                    settings = hashlib.sha256(_key(config).encode()).hexdigest()[:12]
                    checkpoint = self.folder / "teachers" / f"{task.name}-{method}-{seed}-{settings}".replace(":", "-")
                    size = self.size
                    arguments = (
                        task.setting,
                        method,
                        best[task.name, method],
                        seed,
                        self.budget,
                        config["parallel"],
                        size.points,
                        size.students,
                        size.final_students,
                        checkpoint,
                    )
                    jobs.append(Job(label, work.train, dict(zip(_TRAIN, arguments, strict=True))))
        # Short ones last: a long one begun last would leave the other cores idle.
        jobs.sort(key=lambda job: not METHODS[job.kwargs["method"]].learns)

        def keep(job: Job[Any], trained: Trained) -> None:
            self.results.append(self._training_rows(*rows_of[job.label], trained))

        run_jobs(jobs, self.workers, keep)
        report.write(self.results.rows(), self.folder, self.options.loss, self.seeds)

    def tune(self) -> dict[tuple[str, str], Configuration]:
        """Successive halving, on dev; the best configuration of each task and method."""
        tuned = {METHODS[m].tuned_as or m for m in self.options.methods}
        left = {(t.name, m): grid(self.options.loss, METHODS[m]) for t in self.tasks for m in tuned}
        shipped = read_rows(SHIPPED) if SHIPPED.exists() and not self.options.retune else []
        for rung in self.size.rungs:
            scores: dict[tuple[str, str], list[tuple[float, Configuration]]] = {key: [] for key in left}
            jobs: list[Job[Any]] = []
            rows_of: dict[str, tuple[Task, str, dict[str, Any]]] = {}
            wanted: list[tuple[Task, str, Configuration, dict[str, Any]]] = []
            for task in self.tasks:
                for method in sorted(tuned):
                    for configuration in left[task.name, method][: rung.configurations]:
                        crowd = METHODS[method].crowd if METHODS[method].learns else 0
                        budget, parallel = min(crowd * rung.steps, self.budget), crowd * rung.parallel
                        config = self._config(
                            task,
                            method,
                            configuration,
                            stage="tuning",
                            budget=budget,
                            parallel=parallel,
                            students=rung.students,
                        )
                        wanted.append((task, method, configuration, config))
                        if self._done(task, method, 0, config, "dev_accuracy") or self._take_over(
                            shipped, task, method, config
                        ):
                            continue
                        label = f"tuning {task.name}: {method}, {configuration} on {rung.students} students"
                        rows_of[label] = (task, method, config)
                        arguments = (task.setting, method, configuration, budget, parallel, rung.students)
                        jobs.append(Job(label, work.tune, dict(zip(_TUNE, arguments, strict=True))))

            def keep(job: Job[Any], value: tuple[Taught, int, float], rows_of: Any = rows_of) -> None:
                task, method, config = rows_of[job.label]
                taught, spent, seconds = value
                self.results.append(
                    [self._row(task, method, 0, "dev_accuracy", taught.dev_accuracy, spent, seconds, config)]
                )

            run_jobs(jobs, self.workers, keep)
            values = {
                (r.task, r.method, _key(r.config)): r.value for r in self.results.rows() if r.metric == "dev_accuracy"
            }
            for task, method, configuration, config in wanted:
                scores[task.name, method].append((values[task.name, method, _key(config)], configuration))
            # Stable: of equal ones the earlier in the grid stays ahead.
            left = {key: [c for _, c in sorted(found, key=lambda f: -f[0])] for key, found in scores.items()}
        return {
            (t.name, m): left[t.name, METHODS[m].tuned_as or m][0] for t in self.tasks for m in self.options.methods
        }

    def _take_over(self, shipped: Sequence[Row], task: Task, method: str, config: dict[str, Any]) -> bool:
        names = (task.name, task.dataset, task.student, method)
        for row in shipped:
            if (row.task, row.dataset, row.student, row.method) == names and _key(row.config) == _key(config):
                self.results.append([row])
                return True
        return False

    def _config(self, task: Task, method: str, configuration: Configuration, stage: str, **more: Any) -> dict[str, Any]:
        made = METHODS[method]
        own = made.own[min(configuration.own, len(made.own) - 1)]
        options = {k: v for k, v in task.setting.options.items() if k != "data_root"}
        config = {
            "stage": stage,
            "env": task.setting.env,
            "options": options,
            "loss": self.options.loss if made.make is not None else None,
            "learning_rate": configuration.learning_rate,
            "lr_schedule": configuration.lr_schedule,
            "own": {**own.environment, **own.teacher},
        }
        if stage == "training":
            size = self.size
            more = {
                "budget": self.budget if made.learns else 0,
                "parallel": size.parallel * made.crowd if made.learns else 0,
                "students": size.students,
                "final_students": size.final_students,
            }
        return config | more

    def _done(self, task: Task, method: str, seed: int, config: dict[str, Any], metric: str) -> bool:
        return self.results.done(
            benchmark=NAME,
            task=task.name,
            dataset=task.dataset,
            student=task.student,
            method=method,
            seed=seed,
            config=config,
            metrics=[metric],
        )

    def _row(
        self,
        task: Task,
        method: str,
        seed: int,
        metric: str,
        value: float,
        student_steps: int,
        seconds: float,
        config: dict[str, Any],
        data: Any = None,
    ) -> Row:
        return Row(
            NAME,
            task.name,
            task.dataset,
            task.student,
            method,
            seed,
            metric,
            value,
            student_steps,
            round(seconds, 2),
            config,
            git_commit(),
            versions(),
            data,
        )

    def _training_rows(self, task: Task, method: str, seed: int, config: dict[str, Any], trained: Trained) -> list[Row]:
        def row(metric: str, value: float, steps: int, seconds: float, data: Any = None) -> Row:
            return self._row(task, method, seed, metric, value, steps, seconds, config, data)

        assert trained.pool.test_error is not None
        shown = {
            "curve": trained.split.curve,
            "coefficients": trained.split.coefficients,
            "actions_at": trained.split.actions_at,
            "mean_action": trained.split.mean_action,
        }
        spent, seconds = trained.student_steps, trained.seconds
        return [
            *(row("dev_objective", value, steps, after) for steps, after, value in trained.points[:-1]),
            row("dev_objective", trained.split.dev_objective, spent, seconds, shown),
            row("test_error", trained.pool.test_error, spent, seconds),
        ]


_TUNE = ("setting", "method", "configuration", "budget", "parallel", "students")
_TRAIN = (
    "setting",
    "method",
    "configuration",
    "seed",
    "budget",
    "parallel",
    "points",
    "students",
    "final_students",
    "checkpoint",
)


def _key(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
