"""What worker processes do: train students, train teachers, measure; each job is one function of plain values."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

import teachenv  # noqa: F401 - registers the environments, here in worker processes
from benchmarks.checkpoints import ending, going_on_from
from benchmarks.comparison.methods import Configuration, Method, Own, table_at
from teachenv import checkpoints
from teachenv.env import TeachEnv
from teachenv.vector_env import TeachVectorEnv

# Disjoint ranges of seeds: what tunes a method never meets what judges it.
TUNING_SEED, CURVE_SEED, FINAL_SEED, TEACHER_SEED = 1_000_000, 2_000_000, 3_000_000, 4_000_000

HEAT_MAPS = 5

# What the file beside a teacher's holds, as `teachenv.checkpoints` has it.
_POINTS = "how good a teacher was as it learned"

# A curve has at most so many points.
CURVE_POINTS = 200


@dataclass(frozen=True)
class Setting:
    """An environment and the options that all methods share.

    Attributes:
        table: where the methods are; see `benchmarks.comparison.methods.table_at`.
        env: a registered id.
        options: of the environment, for all methods.
        loss: the teachers' loss family.
        final: options in which the final students' training differs from the one that teachers learn on.
        lasts: whether this is the final students' training.
    """

    table: str
    env: str
    options: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "bilinear"
    final: Mapping[str, Any] = field(default_factory=dict)
    lasts: bool = False

    def method(self, name: str) -> Method:
        """The method of that name."""
        return table_at(self.table).methods[name]

    def own(self, method: str, configuration: Configuration) -> Own:
        """The value of the method's own parameter in a configuration, which may be another method's: a copy."""
        values = self.method(method).own
        # Rows are known by it, and SB3 writes into the `policy_kwargs` that it is given.
        return copy.deepcopy(values[min(configuration.own, len(values) - 1)])

    def lasting(self, part: float = 1.0) -> Setting:
        """The setting of the final students; or with a part of the student steps of theirs, in as many actions."""
        options = {**self.options, **self.final}
        if part != 1.0:
            each = max(1, round(part * options["steps_per_action"]))
            actions = options["horizon"] // options["steps_per_action"]
            options |= {"horizon": actions * each, "steps_per_action": each}
        return replace(self, options=options, final={}, lasts=True)

    def make(self, students: int, method: str, configuration: Configuration, **more: Any) -> TeachVectorEnv:
        """The batched environment of a method in a configuration."""
        env = gym.make_vec(self.env, num_envs=students, **self._options(method, configuration, more))
        assert isinstance(env.unwrapped, TeachVectorEnv)
        return env.unwrapped

    def students(self, count: int, method: str, configuration: Configuration, **more: Any) -> TeachVectorEnv | OneByOne:
        """Fresh students for `teach`, as the method's teacher can teach them."""
        wrapper = self.method(method).wrapper
        if wrapper is None:
            return self.make(count, method, configuration, **more)
        return OneByOne(wrapper(self.make_single(method, configuration, **more)), count)

    def make_single(self, method: str, configuration: Configuration, **more: Any) -> TeachEnv:
        """The environment of one student."""
        env = gym.make(self.env, **self._options(method, configuration, more)).unwrapped
        assert isinstance(env, TeachEnv)
        return env

    def _options(self, method: str, configuration: Configuration, more: Mapping[str, Any]) -> dict[str, Any]:
        chosen = self.own(method, configuration).environment
        rate = configuration.learning_rate * (1.0 if self.lasts else self.method(method).episode_rate)
        rates = {"learning_rate": rate, "lr_schedule": configuration.lr_schedule}
        return {"loss": self.loss, **self.options, **chosen, **rates, **more}


@dataclass(frozen=True)
class OneByOne:
    """Students whose teacher looks through a wrapper.

    Attributes:
        env: of one student, wrapped.
        count: how many are taught, one after the other.
    """

    env: gym.Wrapper[Any, Any, Any, Any]
    count: int


@dataclass(frozen=True)
class Taught:
    """Fresh students, trained to the end.

    Attributes:
        dev_accuracy: mean over the students at the end.
        dev_objective: the same of J.
        test_error: the same on test; None if test was not touched.
        curve: mean J after each action, the untrained student's first.
        coefficients: mean coefficients at some actions, (k, rows, columns); empty for a fixed loss.
        actions_at: the student steps of these actions.
        mean_action: mean size of an action's coordinate.
        diverged: how many of the students did; their numbers are those of one that knows nothing.
    """

    dev_accuracy: float
    dev_objective: float
    test_error: float | None
    curve: list[float]
    coefficients: list[Any]
    actions_at: list[int]
    mean_action: float
    diverged: int = 0


def teach(students: TeachVectorEnv | OneByOne, teacher: Any, seed: int, *, test: bool = False) -> Taught:
    """Trains students once, from the beginning to the end, under a teacher (None: the zero action)."""
    if isinstance(students, OneByOne):
        return _teach_one_by_one(students, teacher, seed, test)
    env = students
    observation, infos = env.reset(seed=seed)
    actions_left = env.teaching.actions
    shown = np.linspace(0, actions_left - 1, min(HEAT_MAPS, actions_left)).round().astype(int)
    ended = _Ended(env, test)
    curve, coefficients, sizes = [float(infos["objective"].mean())], [], []
    neutral = env.teaching.neutral_action.expand(env.num_envs, -1).cpu().numpy()
    for t in range(actions_left):
        actions = neutral if teacher is None else teacher.predict(observation, deterministic=True)[0]
        sizes.append(float(np.abs(actions).mean()))
        observation, _, over, _, infos = env.step(actions)
        curve.append(ended.step(over, infos))
        if teacher is not None and t in shown:
            mean_action = env.actions.mean(0)
            coefficients.append(env.dynamics.loss.coefficients(mean_action).round(decimals=4).tolist())
    return Taught(
        dev_accuracy=float(ended.measured["dev_accuracy"].mean()),
        dev_objective=curve[-1],
        test_error=float(ended.measured["test_error"].mean()) if test else None,
        curve=_thinned(curve),
        coefficients=coefficients,
        actions_at=[int(t) * env.teaching.settings.steps_per_action for t in shown],
        mean_action=float(np.mean(sizes)),
        diverged=int(ended.diverged.sum()),
    )


class _Ended:
    """What students are when their training ends. One that diverges ends early, and another begins in its place."""

    def __init__(self, env: TeachVectorEnv, test: bool) -> None:
        self.env, self.splits = env, {"dev_accuracy": "dev"} | ({"test_error": "test"} if test else {})
        self.over, self.diverged = (np.zeros(env.num_envs, dtype=bool) for _ in range(2))
        self.objective = np.zeros(env.num_envs)
        self.measured: dict[str, np.ndarray] = {}

    def step(self, over: np.ndarray, infos: Mapping[str, Any]) -> float:
        """Notes those that have ended; mean J, that of others' places left out."""
        now = infos["objective"]
        ending = over & ~self.over
        if over.any():
            final = infos["final_info"]
            now = np.where(over, final["objective"], now)
            self.diverged |= ending & final["diverged"]
        self.objective = np.where(self.over, self.objective, now).astype(now.dtype)
        if ending.any():
            # The whole of dev, of which rewards may have been measured on a part.
            for name, split in self.splits.items():
                found = self.env.evaluate_final(split)[name]
                self.measured[name] = np.where(ending, found, self.measured.get(name, np.zeros_like(found)))
        self.over |= ending
        return float(self.objective.mean())


def _teach_one_by_one(students: OneByOne, teacher: Any, seed: int, test: bool) -> Taught:
    env, teach_env, ended, curves, sizes = students.env, students.env.unwrapped, [], [], []
    assert isinstance(teach_env, TeachEnv)
    for number in range(students.count):
        observation, info = env.reset(seed=seed + number)
        curve, over = [info["objective"]], False
        while not over:
            action = teacher.predict(observation, deterministic=True)[0]
            sizes.append(float(np.abs(action).mean()))
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            curve.append(info["objective"])
        # One that diverged stays as it was.
        curves.append(curve + curve[-1:] * (teach_env.teaching.actions + 1 - len(curve)))
        scores = teach_env.evaluate("dev") | (teach_env.evaluate("test") if test else {})
        ended.append({**scores, "diverged": info["diverged"]})

    def mean(name: str) -> float:
        return float(np.mean([info[name] for info in ended]))

    return Taught(
        dev_accuracy=mean("dev_accuracy"),
        dev_objective=mean("dev_objective"),
        test_error=mean("test_error") if test else None,
        curve=_thinned(np.mean(curves, axis=0).tolist()),
        coefficients=[],
        actions_at=[],
        mean_action=float(np.mean(sizes)),
        diverged=sum(bool(info["diverged"]) for info in ended),
    )


def _thinned(curve: list[float]) -> list[float]:
    """The curve at even distances, its two ends among them."""
    places = np.linspace(0, len(curve) - 1, min(CURVE_POINTS, len(curve))).round().astype(int)
    return [round(curve[i], 5) for i in places]


def tune(
    setting: Setting,
    method: str,
    configuration: Configuration,
    budget: int,
    parallel: int,
    students: int,
    length: float = 1.0,
) -> tuple[Taught, int, float]:
    """Dev accuracy of a configuration: (students, student steps spent, seconds).

    The students' training is as long as that of the final ones, or a part `length` of it. A teacher that learns is
    trained for `budget` student steps first, on `parallel` students at a time.
    """
    start = time.perf_counter()
    teacher, spent = None, 0
    if setting.method(method).make is not None:
        teacher = _teacher(setting, method, configuration, TUNING_SEED, max(parallel, 1))
        if setting.method(method).learns:
            teacher.learn(budget // _steps_per_action(teacher))
            spent = teacher.num_timesteps * _steps_per_action(teacher)
    final = setting.lasting(length)
    taught = teach(final.students(students, method, configuration), teacher, TUNING_SEED)
    horizon = final.make_single(method, configuration).teaching.settings.horizon
    return taught, spent + students * horizon, time.perf_counter() - start


def _steps_per_action(teacher: Any) -> int:
    steps: int = teacher.env.get_attr("teaching")[0].settings.steps_per_action
    return steps


@dataclass(frozen=True)
class Trained:
    """What one seed of a method gave.

    Attributes:
        points: (student steps spent on the teacher, seconds, mean J of fresh students under it), as it learned.
        split: fresh students on a split of the pool, at the end.
        pool: fresh students on the whole pool, at the end; test is theirs.
        student_steps: spent on the teacher.
        seconds: spent on the teacher and on following it.
    """

    points: list[tuple[int, float, float]]
    split: Taught
    pool: Taught
    student_steps: int
    seconds: float


def train(
    setting: Setting,
    method: str,
    configuration: Configuration,
    seed: int,
    budget: int,
    parallel: int,
    points: int,
    students: int,
    final_students: int,
    checkpoint: Path,
    source: Path | None = None,
) -> Trained:
    """Trains a teacher (if the method has one that learns), and then students under it.

    What is learned is kept in `checkpoint`.zip as it goes, from which an interrupted job continues, and in the end. A
    teacher that is taken over is in `source`.zip.
    """
    start = time.perf_counter()
    teacher, follower = None, _Follower(setting, method, configuration, points, budget, students, checkpoint)
    learns = setting.method(method).learns
    if setting.method(method).make is not None:
        teacher = _teacher(setting, method, configuration, TEACHER_SEED + seed, max(parallel, 1) if learns else 1)
        if learns:
            teacher = follower.resume(teacher)
            remaining = budget // _steps_per_action(teacher) - teacher.num_timesteps
            if remaining > 0:
                teacher.learn(remaining, callback=follower, reset_num_timesteps=teacher.num_timesteps == 0)
            follower.measure(teacher)
            follower.save(teacher)
        if source is not None:
            teacher.set_parameters(str(ending(source, "zip")), exact_match=False)
    seeds = CURVE_SEED, FINAL_SEED + 10_000 * seed
    split = teach(setting.students(students, method, configuration), teacher, seeds[0])
    final = setting.lasting().students(final_students, method, configuration, train_on="pool")
    pool = teach(final, teacher, seeds[1], test=True)
    spent = follower.points[-1][0] if follower.points else 0
    return Trained(follower.points, split, pool, spent, time.perf_counter() - start)


def _teacher(setting: Setting, method: str, configuration: Configuration, seed: int, parallel: int) -> Any:
    made = setting.method(method)
    assert made.make is not None
    options = setting.own(method, configuration).teacher
    if made.wrapper is not None:
        env = setting.make_single(method, configuration)
        return made.make(env, seed, {**options, "students_per_update": parallel})
    return made.make(setting.make(parallel, method, configuration), seed, options)


class _Follower(BaseCallback):
    """Follows a teacher as it learns: every so often, J of fresh students under it, and a checkpoint."""

    def __init__(
        self,
        setting: Setting,
        method: str,
        configuration: Configuration,
        points: int,
        budget: int,
        students: int,
        checkpoint: Path,
    ) -> None:
        super().__init__()
        self._arguments = (setting, students, method, configuration)
        self._students: TeachVectorEnv | OneByOne | None = None
        self._every = budget / points
        self._checkpoint = checkpoint
        self.points: list[tuple[int, float, float]] = []
        self._seconds_before = 0.0
        self._start = time.perf_counter()

    def resume(self, teacher: Any) -> Any:
        """The teacher as the checkpoint has it, or as it is if there is none."""
        saved = ending(self._checkpoint, "points")
        if saved.exists() and ending(self._checkpoint, "zip").exists() and hasattr(teacher, "mark"):
            with going_on_from(saved):
                self.points = checkpoints.load(saved, _POINTS)
                self._seconds_before = self.points[-1][1]
            return type(teacher).load(ending(self._checkpoint, "zip"), env=teacher.env)
        return teacher

    def measure(self, teacher: Any) -> None:
        """Adds a point."""
        if self._students is None:
            setting, students, method, configuration = self._arguments
            self._students = setting.students(students, method, configuration)
        spent = teacher.num_timesteps * _steps_per_action(teacher)
        if self.points and self.points[-1][0] == spent:
            return
        seconds = self._seconds_before + time.perf_counter() - self._start
        self.points.append((spent, round(seconds, 2), teach(self._students, teacher, CURVE_SEED).dev_objective))

    def _on_rollout_start(self) -> None:
        assert self.model is not None
        spent = self.num_timesteps * _steps_per_action(self.model)
        if not self.points or spent - self.points[-1][0] >= self._every:
            self.measure(self.model)
            self.save(self.model)

    def save(self, teacher: Any) -> None:
        """Writes teacher and points, if it is a teacher that can go on from there."""
        if hasattr(teacher, "mark"):
            teacher.save(ending(self._checkpoint, "zip"))
            checkpoints.save(ending(self._checkpoint, "points"), self.points, _POINTS)

    def _on_step(self) -> bool:
        return True
