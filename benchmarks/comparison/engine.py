"""What is run in which order, and what rows are kept of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.checkpoints import checkpoint_of, ending
from benchmarks.comparison import work
from benchmarks.comparison.methods import Configuration, Method, table_at
from benchmarks.comparison.work import Setting, Taught, Trained
from benchmarks.jobs import Job, run_jobs
from teachenv.experiment.precision import on_any_machine, precision
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row, read_rows


class Rung(NamedTuple):
    """One round of successive halving.

    Attributes:
        configurations: how many are left.
        steps: student steps on which a teacher is trained in each.
        parallel: students that it teaches at a time.
        students: fresh students whose dev accuracy decides.
        length: part of the final training that they have.
    """

    configurations: int
    steps: int
    parallel: int
    students: int
    length: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What is spent on a task.

    Attributes:
        student_steps: budget of each teacher.
        parallel: students that it teaches at a time.
        rungs: of successive halving.
        points: how often a learning teacher is measured.
        students: fresh students of each such measurement.
        final_students: fresh students on the whole pool.
    """

    student_steps: int
    parallel: int
    rungs: tuple[Rung, ...]
    points: int
    students: int
    final_students: int


@dataclass(frozen=True)
class Task:
    """A setting with the names that its rows carry, what is compared in it, and what is spent on it.

    Attributes:
        setting: environment and options.
        name: of the task.
        dataset: what the data really is.
        student: the network.
        effort: see there.
        methods: names in the setting's table, in the order in which they are run.
        source: name of the task whose teachers are taken over by methods that are `taught_as` another.
    """

    setting: Setting
    name: str
    dataset: str
    student: str
    effort: Effort
    methods: tuple[str, ...]
    source: str | None = None

    def method(self, name: str) -> Method:
        """The method of that name."""
        return self.setting.method(name)

    def budget(self, method: Method) -> int:
        """Student steps that its teacher may spend."""
        return self.effort.student_steps * method.spends if method.learns else 0


class Comparison:
    """One run of a comparison: tunes, trains and measures, leaving out what the rows have already.

    Args:
        benchmark: its name in the rows.
        tasks: what is taught.
        seeds: teachers of each kind.
        folder: of the rows.
        workers: processes.
        shipped: rows of an earlier run whose tuning is taken over where the settings agree.
    """

    def __init__(
        self,
        benchmark: str,
        tasks: Sequence[Task],
        seeds: int,
        folder: Path,
        workers: int,
        shipped: Sequence[Row] = (),
    ) -> None:
        """Opens the results."""
        names = [task.name for task in tasks]
        if len({*names}) < len(names):
            raise ValueError(f"found tasks of the same name ({', '.join(names)}), expected settings that differ in it")
        self.benchmark, self.tasks, self.seeds = benchmark, tasks, seeds
        self.folder, self.workers, self.shipped = folder, workers, shipped
        self.results = ResultsFile(folder / "results.jsonl")

    def run(self) -> None:
        """Everything that is not done yet."""
        best = self.tune()
        wanted = [
            (task, method, seed)
            for seed in range(self.seeds)
            for task in self.tasks
            for method in task.methods
            if not self._done(task, method, seed, self._training(task, method, best), "test_error")
        ]
        taught = [(task, method, seed) for task, method, seed in wanted if not task.method(method).taught_as]
        later = [one for one in wanted if one not in taught]
        for task, method, seed in later:
            source = (*self._source(task, method), seed)
            # A teacher that is not there any more, of which only rows are left, is taught again.
            if source not in taught and not ending(self._checkpoint(*source, best), "zip").exists():
                taught.append(source)
        self._train(taught, best)
        self._train(later, best)

    def _train(self, wanted: list[tuple[Task, str, int]], best: dict[tuple[str, str], Configuration]) -> None:
        jobs: list[Job[Any]] = []
        rows_of: dict[str, tuple[Task, str, int, dict[str, Any]]] = {}
        for task, method, seed in wanted:
            config, label = self._training(task, method, best), f"{task.name}: {method}, seed {seed}"
            rows_of[label] = (task, method, seed, config)
            source = (*self._source(task, method), seed) if task.method(method).taught_as else None
            arguments = {
                "setting": task.setting,
                "method": method,
                "configuration": best[task.name, method],
                "seed": seed,
                "budget": config["budget"],
                "parallel": config["parallel"],
                "points": task.effort.points,
                "students": task.effort.students,
                "final_students": task.effort.final_students,
                "checkpoint": self._checkpoint(task, method, seed, best),
                "source": None if source is None else self._checkpoint(*source, best),
            }
            jobs.append(Job(label, work.train, arguments))
        # Short ones last: a long one begun last would leave the other cores idle.
        jobs.sort(key=lambda job: not rows_of[job.label][3]["budget"])

        def keep(job: Job[Any], trained: Trained) -> None:
            task, method, seed, config = rows_of[job.label]
            if not self._done(task, method, seed, config, "test_error"):
                self.results.append(self._training_rows(task, method, seed, config, trained))

        run_jobs(jobs, self.workers, keep)

    def _source(self, task: Task, method: str) -> tuple[Task, str]:
        """The task and method whose teacher a method takes over."""
        taught_as = task.method(method).taught_as
        assert taught_as is not None
        return next(other for other in self.tasks if other.name == task.source), taught_as

    def _checkpoint(self, task: Task, method: str, seed: int, best: dict[tuple[str, str], Configuration]) -> Path:
        """Where a teacher is kept; see `checkpoint_of`."""
        identity = self._identity(task, method, seed, self._training(task, method, best))
        return checkpoint_of(identity, self.folder / "teachers")

    def tune(self) -> dict[tuple[str, str], Configuration]:
        """Successive halving, on dev; the best configuration of each task and method."""
        left = {
            (task.name, method): table_at(task.setting.table).grid(method, task.setting.loss)
            for task in self.tasks
            for method in self._tuned(task)
        }
        for rung in range(max(len(task.effort.rungs) for task in self.tasks)):
            found = self._climb(rung, left)
            # Stable: of equal ones the earlier in the grid stays ahead.
            left |= {key: [c for _, c in sorted(scores, key=lambda f: -f[0])] for key, scores in found.items()}
        best = {
            (task.name, method): left[task.name, task.method(method).tuned_as or method][0]
            for task in self.tasks
            for method in {*task.methods, *self._tuned(task)}
        }
        for task in self.tasks:
            for method in task.methods:
                if task.method(method).taught_as:
                    other, taught_as = self._source(task, method)
                    own = best[other.name, taught_as].own
                    best[task.name, method] = replace(best[task.name, method], own=own)
        return best

    def _tuned(self, task: Task) -> list[str]:
        return sorted({task.method(method).tuned_as or method for method in task.methods})

    def _climb(
        self, number: int, left: dict[tuple[str, str], list[Configuration]]
    ) -> dict[tuple[str, str], list[tuple[float, Configuration]]]:
        """One rung of all tasks that have so many: (dev accuracy, configuration) of those that were left."""
        jobs: list[Job[Any]] = []
        rows_of: dict[str, tuple[Task, str, dict[str, Any]]] = {}
        wanted: list[tuple[Task, str, Configuration, dict[str, Any]]] = []
        for task in self.tasks:
            if number >= len(task.effort.rungs):
                continue
            rung = task.effort.rungs[number]
            for method in self._tuned(task):
                made = task.method(method)
                for configuration in left[task.name, method][: rung.configurations]:
                    crowd = made.crowd if made.learns else 0
                    more: dict[str, Any] = {
                        "budget": min(crowd * made.spends * rung.steps, task.budget(made)),
                        "parallel": crowd * rung.parallel,
                        "students": rung.students,
                    }
                    if rung.length != 1.0:
                        more["length"] = rung.length
                    config = self._config(task, method, configuration, stage="tuning", **more)
                    wanted.append((task, method, configuration, config))
                    if self._done(task, method, 0, config, "dev_accuracy") or self._take_over(task, method, config):
                        continue
                    label = f"tuning {task.name}: {method}, {configuration} on {rung.students} students"
                    rows_of[label] = (task, method, config)
                    arguments = {"setting": task.setting, "method": method, "configuration": configuration, **more}
                    jobs.append(Job(label, work.tune, arguments))

        def keep(job: Job[Any], value: tuple[Taught, int, float]) -> None:
            task, method, config = rows_of[job.label]
            taught, spent, seconds = value
            row = self._row(task, method, 0, "dev_accuracy", taught.dev_accuracy, spent, seconds, config)
            self.results.append([row])

        if jobs and not number:
            print(
                f"tuning {len(jobs)} of {len(wanted)} configurations anew: neither {self.folder} nor what comes with "
                f"teachenv has rows of them; --help says how long that takes",
                file=sys.stderr,
            )
        run_jobs(jobs, self.workers, keep)
        values = {
            (r.task, r.method, _key(r.config)): r.value for r in self.results.rows() if r.metric == "dev_accuracy"
        }
        found: dict[tuple[str, str], list[tuple[float, Configuration]]] = {}
        for task, method, configuration, config in wanted:
            score = values[task.name, method, _key(config)]
            found.setdefault((task.name, method), []).append((score, configuration))
        return found

    def _take_over(self, task: Task, method: str, config: dict[str, Any]) -> bool:
        names = (task.name, task.dataset, task.student, method)
        for row in self.shipped:
            if (row.task, row.dataset, row.student, row.method) == names and _key(row.config) == _key(config):
                self.results.append([row])
                return True
        return False

    def _training(self, task: Task, method: str, best: dict[tuple[str, str], Configuration]) -> dict[str, Any]:
        """The settings of a training row."""
        made, more = task.method(method), dict[str, Any]()
        if made.taught_as:
            source = self._source(task, method)
            more["taught"] = self._training(*source, best) | {"task": source[0].name}
        return more | self._config(
            task,
            method,
            best[task.name, method],
            stage="training",
            budget=task.budget(made),
            parallel=task.effort.parallel * made.crowd if made.learns else 0,
            students=task.effort.students,
            final_students=task.effort.final_students,
        )

    def _config(self, task: Task, method: str, configuration: Configuration, stage: str, **more: Any) -> dict[str, Any]:
        made, setting = task.method(method), task.setting
        own = setting.own(method, configuration)
        config = {
            "stage": stage,
            "env": setting.env,
            "options": on_any_machine(setting.options),
            "loss": setting.loss if made.make is not None else None,
            "learning_rate": configuration.learning_rate,
            "lr_schedule": configuration.lr_schedule,
            "own": {**own.environment, **own.teacher},
        }
        if setting.final:
            more["final"] = dict(setting.final)
        if made.episode_rate != 1.0:
            more["episode_rate"] = made.episode_rate
        return config | more

    def _identity(self, task: Task, method: str, seed: int, config: dict[str, Any]) -> dict[str, Any]:
        """What rows are known by."""
        return {
            "benchmark": self.benchmark,
            "task": task.name,
            "dataset": task.dataset,
            "student": task.student,
            "method": method,
            "seed": seed,
            "config": config,
        }

    def _done(self, task: Task, method: str, seed: int, config: dict[str, Any], metric: str) -> bool:
        return self.results.done(**self._identity(task, method, seed, config), metrics=[metric])

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
            **self._identity(task, method, seed, config),
            metric=metric,
            value=value,
            data=data,
            **about(student_steps, round(seconds, 2), **precision(task.setting.options)),
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
        if trained.pool.diverged:
            shown["diverged"] = trained.pool.diverged
        spent, seconds = trained.student_steps, trained.seconds
        return [
            *(row("dev_objective", value, steps, after) for steps, after, value in trained.points[:-1]),
            row("dev_objective", trained.split.dev_objective, spent, seconds, shown),
            row("test_error", trained.pool.test_error, spent, seconds),
        ]


def shipped_rows(path: Path) -> list[Row]:
    """The rows that come with this repository, if they are there."""
    return read_rows(path) if path.exists() else []


def _key(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
