"""One run: a student is trained under a loss, a finished teacher, or one that learns meanwhile; then it is measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

import meta
from benchmarks.l2t_dln.methods import REPLAYED, SHOWN, Method
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

# Pictures of the loss, points of a curve, and points of an online teacher's windows, that a row keeps.
PICTURES, POINTS, WINDOWS = 12, 40, 100

KEPT_EVERY = 1500
"""Student steps between two checkpoints of an online teacher."""


@dataclass
class History:
    """What an online teacher did; each point stands for some windows.

    Attributes:
        every: how many.
        actions: (number, action) of each point's last window, and of those that pictures are made of.
        curve: (student step, J on dev) at each.
        errors: (student step, mean dev error over the point's windows as previewed, as it came about).
        drift: (student step, mean cosine of the teacher's moves with minus the gradients that they answered, mean size
            of their cosines with the vector of ones, root mean square of the way from the neutral loss's numbers as a
            share of theirs) at each; the cosine of no move is 0.
        last: the action before; None: there was none.
        open: the numbers of those windows that no point stands for yet.
    """

    every: int = 1
    actions: list[tuple[int, np.ndarray]] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    errors: list[tuple[int, float, float]] = field(default_factory=list)
    drift: list[tuple[int, float, float, float]] = field(default_factory=list)
    last: np.ndarray | None = None
    open: list[tuple[float, float, float, float]] = field(default_factory=list)

    @property
    def measures(self) -> dict[str, float]:
        """The mean cosine of a move, from one action to the next, with minus the gradient that it answered."""
        return {COSINE: float(np.mean([point[1] for point in self.drift]))} if self.drift else {}

    def __call__(self, moment: Moment) -> None:
        """Keeps what the teacher did at an action."""
        info, step = moment.infos, moment.infos["student_step"]
        move = moment.actions if self.last is None else moment.actions - self.last
        down = -np.nan_to_num(info["previewed_gradient"])
        cosines = _cosine(move, down), abs(_cosine(move, np.ones_like(move)))
        self.open.append((info["previewed_error"], info["window_error"], *cosines))
        self.last = moment.actions
        count = moment.env.problem.actions
        closed = len(self.open) == self.every or moment.number + 1 == count
        if closed or moment.number in places(count, PICTURES):
            self.actions.append((moment.number, moment.actions))
        if not closed:
            return
        previewed, came, along, ones = (float(np.mean(numbers)) for numbers in zip(*self.open, strict=True))
        self.curve.append((step, info["objective"]))
        self.errors.append((step, round(previewed, 6), round(came, 6)))
        self.drift.append((step, round(along, 4), round(ones, 4), round(_way(moment), 4)))
        self.open = []


def _way(moment: Moment) -> float:
    """How far the loss's numbers are from the neutral ones, as a share of these; root mean squares."""
    problem = moment.env.problem
    neutral = problem.dynamics.loss.numbers(problem.neutral_action)
    moved = problem.dynamics.loss.numbers(torch.as_tensor(moment.actions).to(problem.neutral_action))
    return float((moved - neutral).norm() / neutral.norm())


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    sizes = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum()) / sizes if sizes > 0 else 0.0


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
    episode, watch = seed + (FINAL_SEED if final else TUNING_SEED), _Watch()
    tuned = replace(setting, final={}).lasting()
    lasting = setting.lasting() if final else tuned
    history, replayed = History(), dict[str, float]()
    if method.kind == "online":
        envs = [tuned.make_single(shared, configuration) for _ in range(method.students_factor)]
        env, horizon = envs[0], envs[0].problem.settings.horizon
        if not method.replays:
            history.every = -(-env.problem.actions // WINDOWS)
        spent = _taught_meanwhile(envs, method, configuration, wrapper, episode, folder, history)
        values = env.evaluate("dev") | (env.evaluate("test") if final else {})
        curve = history.curve
        for number, action in history.actions:
            watch(Moment(number, env, action, {}))
        values |= history.measures
        if final and method.replays:
            fresh = OneByOne(lasting.make_single(shared, configuration))
            replayed = _values(teach(fresh, Playback([action for _, action in history.actions]), episode, test=True))
            spent += horizon
    else:
        env = lasting.make_single(shared, configuration)
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
        data={"curve": _thinned(curve), **_pictured(name, seed, watch.shown, env, history)} if final else None,
        versions=precision(setting.options),
    )
    other = replace(outcome, values={**watch.measures, **replayed}, data=None)
    return replace(outcome, others={name.replace("l2t-dln", REPLAYED, 1): other} if replayed else {})


def _taught_before(
    setting: Setting, method: Method, configuration: Configuration, budget: int, seed: int, folder: Path
) -> Any:
    """A teacher that has learned from the training runs of other students."""
    shared = method.shared
    env: Any = setting.make_single(shared, configuration)
    if method.students_factor > 1:
        env = setting.make(method.students_factor, shared, configuration)
    options = candidate_of(shared, configuration).teacher
    return learned(meta.RMD(method.policy, env, seed=TEACHER_SEED + seed, **options), budget, folder)[0]


def _taught_meanwhile(
    envs: Sequence[TeachEnv],
    method: Method,
    configuration: Configuration,
    wrapper: Mapping[str, Any],
    seed: int,
    folder: Path,
    history: History,
) -> int:
    """Has an online teacher teach, which leaves its students in the environments; returns what it cost, in steps."""
    steps = len(envs) * envs[0].problem.settings.horizon
    shown = [meta.WindowGradient(env, **wrapper) for env in envs]
    options = candidate_of(method.shared, configuration).teacher
    env: Any = shown[0]
    if len(shown) > 1:
        env = DummyVecEnv([partial(_itself, window) for window in shown])
    teacher = meta.DynamicLossTeacher(method.policy, env, seed=seed, **options)
    learned(teacher, steps, folder, every=len(envs) * KEPT_EVERY, watch=history)
    for single, window in zip(envs, shown, strict=True):
        assert window.final_state is not None
        single.set_state(window.final_state)
    return steps * (2 if shown[0].window == "next" else 1)


def _itself(env: meta.WindowGradient) -> meta.WindowGradient:
    """What makes an environment that there is, as SB3 asks for it."""
    return env


def _pictured(name: str, seed: int, shown: Coefficients, env: TeachEnv, history: History) -> dict[str, Any]:
    """The part of a run that figures and animations show."""
    pictures = _pictures(shown, env.problem.settings.steps_per_action)
    drift = {"drift": history.drift} if history.drift else {}
    if name in SHOWN and seed == 0:
        return {"errors": history.errors, "pictures": pictures, **drift}
    return {"errors": [], "pictures": pictures[-1:] if name == "l2t-dln:trainings" else [], **drift}


def _pictures(shown: Coefficients, each: int) -> list[tuple[int, list[list[float]]]]:
    """(Student step after an action, the loss then as a matrix) for so many actions."""
    # Every second point of a loss network's grid is as much as a figure can show.
    matrices = zip(shown.at, shown.shown, strict=True)
    return [(step + each, [row[::2] for row in matrix[::2]]) for step, matrix in matrices]


def _values(taught: Taught) -> dict[str, float]:
    return {**taught.scores, DIVERGED: taught.diverged}


def _thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(curve[i][0], round(curve[i][1], 4)) for i in places(len(curve), POINTS)]
