"""One run: a student is trained under a loss, a finished teacher, or one that learns meanwhile; then it is measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import meta
from benchmarks.l2t_dln.methods import REPLAYED, Method
from teachenv.env import TeachEnv
from teachenv.experiment.cases import DIVERGED, Outcome
from teachenv.experiment.evidence import MOVED, MOVED_MOST
from teachenv.experiment.precision import precision
from teachenv.experiment.setting import Configuration, OneByOne, Setting, candidate_of
from teachenv.experiment.teachers import learned
from teachenv.experiment.teaching import Coefficients, Moment, Moved, Playback, Taught, places, teach

COSINE = "move_cosine"
"""The metric of how an online teacher's moves lie to minus the gradients that it saw."""

# Seeds of episodes: no student that tuned is one of those that are reported.
TUNING_SEED, TEACHER_SEED, FINAL_SEED = 900_000, 500_000, 0

# Pictures of the loss, and points of a curve, that a row keeps; actions between two checkpoints of an online teacher.
PICTURES, POINTS, KEPT_EVERY = 12, 40, 50


@dataclass
class History:
    """What an online teacher did.

    Attributes:
        actions: all that it took, in order.
        curve: (student step, J on dev) after each.
        errors: (student step, dev error after the window as previewed, as it came about).
        gradients: that of each window's error with respect to its action.
    """

    actions: list[np.ndarray] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    errors: list[tuple[int, float, float]] = field(default_factory=list)
    gradients: list[np.ndarray] = field(default_factory=list)

    @property
    def measures(self) -> dict[str, float]:
        """The mean cosine of a move, from one action to the next, with minus the gradient before it."""
        cosines = []
        for before, after, gradient in zip(self.actions, self.actions[1:], self.gradients, strict=False):
            move, sizes = after - before, np.linalg.norm(after - before) * np.linalg.norm(gradient)
            if sizes > 0:
                cosines.append(float(-(move * gradient).sum() / sizes))
        return {COSINE: float(np.mean(cosines))} if cosines else {}

    def __call__(self, moment: Moment) -> None:
        """Keeps what the teacher did at an action."""
        info, step = moment.infos, moment.infos["student_step"]
        self.actions.append(moment.actions)
        self.gradients.append(np.asarray(info["window_gradient"]))
        self.curve.append((step, info["objective"]))
        self.errors.append((step, round(info["previewed_error"], 6), round(info["window_error"], 6)))


class _Watch:
    """A watcher of the coefficients that a teacher sets, and of how far it moves them."""

    def __init__(self) -> None:
        self.shown, self._moved = Coefficients(PICTURES, decimals=3), Moved()

    def __call__(self, moment: Moment) -> None:
        self.shown(moment)
        self._moved(moment)

    @property
    def measures(self) -> dict[str, float]:
        """How far the teacher moved, if there was one."""
        return {MOVED: self._moved.mean, MOVED_MOST: self._moved.largest} if self._moved.count else {}


def run(
    setting: Setting,
    name: str,
    method: Method,
    configuration: Configuration,
    wrapper: Mapping[str, Any],
    trainings: int,
    seed: int,
    final: bool,
    folder: Path,
) -> Outcome:
    """Trains a student under a method, and measures it.

    Args:
        setting: the task's environment and options.
        name: what the method is called.
        method: the method's name: a loss, or a teacher.
        configuration: the learning rate, and which value of the method's own parameter.
        wrapper: options of `meta.WindowGradient`.
        trainings: how many a teacher that learns from whole ones may have.
        seed: seed of the repetition.
        final: whether it is for the report, and test may be looked at; else it is for tuning.
        folder: where an interrupted run of a teacher is taken up again.
    """
    start, shared = time.perf_counter(), method.shared
    episode, pool = seed + (FINAL_SEED if final else TUNING_SEED), {"train_on": "pool"} if final else {}
    students, watch = setting.lasting(), _Watch()
    errors, replayed = list[tuple[int, float, float]](), dict[str, float]()
    if method.kind == "online":
        env = students.make_single(shared, configuration)
        history, spent = _taught_meanwhile(env, method, configuration, wrapper, episode, folder)
        values = env.evaluate("dev") | (env.evaluate("test") if final else {})
        curve, errors = history.curve, history.errors
        for number, action in enumerate(history.actions):
            watch(Moment(number, env, action, {}))
        values |= history.measures
        if final:
            on_pool = OneByOne(students.make_single(shared, configuration, **pool))
            replayed = _values(teach(on_pool, Playback(history.actions), episode, test=True))
            spent += env.problem.settings.horizon
    else:
        env = students.make_single(shared, configuration, **pool)
        teacher, horizon, spent = None, env.problem.settings.horizon, 0
        if method.kind == "episodes":
            spent = trainings * horizon
            teacher = _taught_before(setting, method, configuration, spent, episode, folder)
        taught = teach(OneByOne(env), teacher, episode, test=final, watch=None if teacher is None else watch)
        values = _values(taught)
        curve = [(number * env.problem.settings.steps_per_action, value) for number, value in enumerate(taught.curve)]
        spent += horizon
    outcome = Outcome(
        values={**watch.measures, **values},
        student_steps=spent,
        seconds=round(time.perf_counter() - start, 2),
        data={"curve": _thinned(curve), **_pictured(name, seed, watch.shown, env, errors)} if final else None,
        versions=precision(setting.options),
    )
    other = replace(outcome, values={**watch.measures, **replayed}, data=None)
    return replace(outcome, others={name.replace("l2t-dln", REPLAYED, 1): other} if replayed else {})


def _taught_before(
    setting: Setting, method: Method, configuration: Configuration, budget: int, seed: int, folder: Path
) -> Any:
    """A teacher that has learned from the trainings of other students."""
    shared = method.shared
    env: Any = setting.make_single(shared, configuration)
    if method.crowd > 1:
        env = setting.make(method.crowd, shared, configuration)
    options = candidate_of(shared, configuration).teacher
    return learned(meta.RMD(method.policy, env, seed=TEACHER_SEED + seed, **options), budget, folder)[0]


def _taught_meanwhile(
    env: TeachEnv, method: Method, configuration: Configuration, wrapper: Mapping[str, Any], seed: int, folder: Path
) -> tuple[History, int]:
    """What an online teacher did, with its student in the environment; and student steps that it cost."""
    settings, history = env.problem.settings, History()
    shown = meta.WindowGradient(env, **wrapper)
    options = candidate_of(method.shared, configuration).teacher
    teacher = meta.DynamicLossTeacher(method.policy, shown, seed=seed, **options)
    every = KEPT_EVERY * settings.steps_per_action
    learned(teacher, settings.horizon, folder, every=every, watch=history)
    assert shown.final_state is not None
    env.set_state(shown.final_state)
    return history, settings.horizon * (2 if shown.window == "next" else 1)


def _pictured(
    name: str, seed: int, shown: Coefficients, env: TeachEnv, errors: list[tuple[int, float, float]]
) -> dict[str, Any]:
    """The part of a run that figures and animations show."""
    pictures = _pictures(shown, env.problem.settings.steps_per_action)
    if (name, seed) == ("l2t-dln", 0):
        return {"errors": errors, "pictures": pictures}
    return {"errors": [], "pictures": pictures[-1:] if name == "l2t-dln:trainings" else []}


def _pictures(shown: Coefficients, each: int) -> list[tuple[int, list[list[float]]]]:
    """(Student step after an action, the loss then as a matrix) for so many actions."""
    # Every second point of a loss network's grid is as much as a figure can show.
    matrices = zip(shown.at, shown.shown, strict=True)
    return [(step + each, [row[::2] for row in matrix[::2]]) for step, matrix in matrices]


def _values(taught: Taught) -> dict[str, float]:
    return {**taught.scores, DIVERGED: taught.diverged}


def _thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(curve[i][0], round(curve[i][1], 4)) for i in places(len(curve), POINTS)]
