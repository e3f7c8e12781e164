"""One piece of a comparison: a configuration is tried, or a teacher is trained and judged by students of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from teachenv.experiment.cases import Outcome, Reading
from teachenv.experiment.evidence import EFFECT, MOVED, MOVED_MOST
from teachenv.experiment.methods import Method
from teachenv.experiment.precision import precision
from teachenv.experiment.setting import Configuration, OneByOne, Setting, problem_of
from teachenv.experiment.teachers import TEACHER, learned, steps_per_action
from teachenv.experiment.teaching import Coefficients, Controlled, Moment, Moved, Watcher, teach, thinned
from teachenv.experiment.weighing import Weighed
from teachenv.problem import Problem
from teachenv.vector_env import TeachVectorEnv

# Disjoint ranges of seeds: what tunes a method never meets what judges it.
TUNING_SEED, CURVE_SEED, FINAL_SEED, TEACHER_SEED = 1_000_000, 2_000_000, 3_000_000, 4_000_000
_STUDENTS = 10_000
"""A repetition has fewer students."""


def tune(
    setting: Setting,
    method: Method,
    configuration: Configuration,
    budget: int,
    parallel: int,
    students: int,
    folder: Path,
    length: float = 1.0,
) -> Outcome:
    """Trains a teacher and students in a configuration, and measures these on dev.

    The students' training is as long as that of the final ones, or a part `length` of it. A teacher that learns is
    trained for `budget` student steps first, on `parallel` students at a time.
    """
    start, spent = time.perf_counter(), 0
    teacher = setting.teacher(method, configuration, TUNING_SEED, max(parallel, 1))
    if method.learns:
        teacher, _ = learned(teacher, budget, folder, every=budget)
        spent = teacher.num_timesteps * steps_per_action(teacher)
    final = setting.lasting(length)
    fresh = final.students(students, method, configuration)
    taught = teach(fresh, teacher, TUNING_SEED)
    problem = problem_of(fresh)
    score = taught.scores[f"dev_{problem.dynamics.measure.score_name}"]
    return Outcome(
        values={"dev_accuracy": score},  # the measure's score, whatever it is, so that rows of all tasks have one name
        student_steps=spent + students * problem.settings.horizon,
        seconds=time.perf_counter() - start,
        versions=precision(setting.options),
    )


def train(
    setting: Setting,
    method: Method,
    configuration: Configuration,
    seed: int,
    budget: int,
    parallel: int,
    points: int,
    students: int,
    final_students: int,
    folder: Path,
    source: Path | None = None,
) -> Outcome:
    """Trains a teacher (if the method has one that learns), and then students under it.

    Under a teacher the outcome has `teachenv.experiment.evidence` beside the result: how far it moves the loss, and how
    much better fresh students are on dev than those of the same seeds that nobody teaches.

    What is learned is kept in the folder as it goes, from which an interrupted job continues, and in the end. `source`
    is the folder of a teacher that was trained elsewhere.
    """
    start, spent, readings = time.perf_counter(), 0, []
    # Each seed has students of its own: those of a teacher that does not learn would be the same in all.
    on_dev, on_test = (first + _STUDENTS * seed for first in (CURVE_SEED, FINAL_SEED))
    teacher = setting.teacher(method, configuration, TEACHER_SEED + seed, max(parallel, 1) if method.learns else 1)
    if method.learns:
        measured = setting.students(students, method, configuration)
        teacher, measurements = learned(
            teacher,
            budget,
            folder,
            every=budget / points,
            measure=lambda teacher: teach(measured, teacher, on_dev).objective,
        )
        readings = [Reading("dev_objective", p.value, p.student_steps, p.seconds) for p in measurements[:-1]]
        spent = measurements[-1].student_steps
    if source is not None:
        teacher.set_parameters(str(source / TEACHER), exact_match=False)
    values, shown = _on_split(setting, method, configuration, teacher, students, on_dev)
    final = setting.lasting().students(final_students, method, configuration, train_on="pool")
    weighed = None if teacher is None else Weighed(teacher, final)
    pool = teach(final, weighed, on_test, test=True, watch=weighed)
    if pool.diverged:
        shown["diverged"] = pool.diverged
    return Outcome(
        values=values | _of_test(pool.scores, problem_of(final)) | ({} if weighed is None else weighed.measures),
        student_steps=spent,
        seconds=time.perf_counter() - start,
        data=shown,
        data_of="dev_objective",
        readings=readings,
        versions=precision(setting.options),
    )


def _of_test(scores: Mapping[str, float], problem: Problem) -> dict[str, float]:
    """The test error, one minus the score, and what else the task's measure reports."""
    names = ["test_error", *(f"test_{name}" for name in problem.dynamics.measure.reported)]
    return {name: scores[name] for name in names}


def _on_split(
    setting: Setting, method: Method, configuration: Configuration, teacher: Any, students: int, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Fresh students of a seed on a split of the pool: their J on dev with the evidence, and what figures need."""
    fresh = setting.students(students, method, configuration)
    coefficients, moved, controlled = Coefficients(), Moved(), Controlled()
    split = teach(fresh, teacher, seed, watch=_watcher(teacher, fresh, moved, coefficients, controlled))
    values = {"dev_objective": split.objective}
    if teacher is not None:
        alone = setting.students(students, replace(method, wrapper=None), configuration)
        values[EFFECT] = split.objective - teach(alone, None, seed).objective
        values |= {MOVED: moved.mean, MOVED_MOST: moved.largest}
    shown = {
        "curve": thinned(split.curve),
        "coefficients": coefficients.shown,
        "actions_at": coefficients.at,
        "mean_action": split.mean_action,
    }
    if controlled.settings:
        shown["settings"] = controlled.settings
    return values, shown


def _watcher(teacher: Any, students: TeachVectorEnv | OneByOne, moved: Moved, *drawn: Watcher) -> Watcher | None:
    """What watches a teacher's actions; figures show those of students that are trained together (`drawn`)."""
    if teacher is None:
        return None
    if isinstance(students, OneByOne):
        return moved

    watchers: tuple[Watcher, ...] = (moved, *drawn)

    def watch(moment: Moment) -> None:
        for watcher in watchers:
            watcher(moment)

    return watch
