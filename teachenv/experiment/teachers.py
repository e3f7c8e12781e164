"""Teachers that learn from the training runs of students, followed as they do so."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from teachenv import checkpoints
from teachenv.experiment.teaching import Moment, Watcher
from teachenv.problem import Problem
from teachenv.teacher import Acts, Followed, Resumes, lacking

TEACHER = "teacher.zip"
"""The file in a folder that holds a teacher."""

RECORD = "record"
"""The file beside it that holds what was seen of it."""

_SECONDS_BETWEEN_CHECKPOINTS = 60.0

# As `teachenv.checkpoints` has it.
_KIND = "what was seen of a teacher as it learned"


class Point(NamedTuple):
    """How good a teacher was as it learned.

    Attributes:
        student_steps: how many were spent on it so far.
        seconds: how long it had learned so far.
        value: what was measured.
    """

    student_steps: int
    seconds: float
    value: float


def learned(
    teacher: Followed,
    student_steps: int,
    folder: Path,
    *,
    every: float = 0,
    measure: Callable[[Acts], float] | None = None,
    watch: Watcher | None = None,
) -> tuple[Followed, list[Point]]:
    """A teacher after a budget of student steps, and how good it was on the way and at the end.

    Args:
        teacher: untrained, with its environment; `teachenv.teacher` says what it must have.
        student_steps: the budget.
        folder: where it is kept as it learns, for an interrupted training to go on from, and in the end. Algorithms
            that do not resume exactly (SB3's own) are not kept.
        every: student steps between two measurements; 0: one before each update. A teacher is kept when it is measured,
            and before each update that begins at least a minute after it was last kept.
        measure: says how good a teacher is; None: it is not measured, only kept.
        watch: called after each action, of students in environments of their own with the first one's. Its attributes
            (plain values) are kept with the teacher and set again when an interrupted training goes on. None: nobody
            watches.
    """
    follower = _Follower(folder, every, measure, watch)
    teacher, resumed = follower.resumed(teacher)
    remaining = student_steps // steps_per_action(teacher) - teacher.num_timesteps
    # One that has learned all puts its environment where that ended.
    if remaining > 0 or resumed:
        again = teacher.num_timesteps > 0
        teacher.learn(max(remaining, 0), callback=follower, log_interval=None, reset_num_timesteps=not again)
    follower.mark(teacher)
    return teacher, follower.points


def steps_per_action(teacher: Followed) -> int:
    """Student steps for each step of a teacher's environment."""
    env = teacher.env
    # SB3 wraps environments that are none of its own.
    problem: Problem = env.get_attr("problem")[0] if isinstance(env, VecEnv) else env.unwrapped.problem
    return problem.settings.steps_per_action


class _Follower(BaseCallback):
    def __init__(
        self, folder: Path, every: float, measure: Callable[[Acts], float] | None, watch: Watcher | None
    ) -> None:
        super().__init__()
        self.folder, self.every, self.measure, self.watch = folder, every, measure, watch
        self.points: list[Point] = []
        self.records: dict[int, dict[str, Any]] = {}
        self.marked: int | None = None
        self.seconds_before, self.start = 0.0, time.perf_counter()
        self.kept_at = self.start

    def resumed(self, teacher: Followed) -> tuple[Followed, bool]:
        """The teacher as the folder has it, or as it is if there is none; whether there is one."""
        teacher_file, record_file = self.folder / TEACHER, self.folder / RECORD
        if lacking(teacher, Resumes) or not (teacher_file.exists() and record_file.exists()):
            return teacher, False
        again: Resumes = cast(Resumes, teacher).load(teacher_file, env=teacher.env)
        with checkpoints.going_on_from(record_file):
            self.records = checkpoints.load(record_file, _KIND, (Point,))
            record = self.records[_spent(again)]
            self.seconds_before, self.points, self.marked = record["seconds"], list(record["points"]), record["marked"]
            if self.watch is not None:
                vars(self.watch).update(copy.deepcopy(record["watched"]))
        return again, True

    def mark(self, teacher: Followed) -> None:
        """Measures and keeps the teacher, unless it has done so at this place."""
        spent = _spent(teacher)
        if self.marked == spent:
            return
        self.marked = spent
        if self.measure is not None:
            self.points.append(Point(spent, round(self._seconds(), 2), self.measure(teacher)))
        self.keep(teacher)

    def keep(self, teacher: Followed) -> None:
        """Writes the teacher to the folder, if it resumes exactly."""
        if not lacking(teacher, Resumes):
            watched = {} if self.watch is None else copy.deepcopy(vars(self.watch))
            record = {
                "points": list(self.points),
                "marked": self.marked,
                "seconds": self._seconds(),
                "watched": watched,
            }
            # With the one before: an interruption between the two files leaves the teacher that it is of.
            self.records = {**dict(list(self.records.items())[-1:]), _spent(teacher): record}
            checkpoints.save(self.folder / RECORD, self.records, _KIND, (Point,))
            cast(Resumes, teacher).save(self.folder / TEACHER)
        self.kept_at = time.perf_counter()

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.start

    def _on_rollout_start(self) -> None:
        assert self.model is not None
        teacher = cast(Followed, self.model)
        if self.marked is None or _spent(teacher) - self.marked >= self.every:
            self.mark(teacher)
        elif time.perf_counter() - self.kept_at >= _SECONDS_BETWEEN_CHECKPOINTS:
            self.keep(teacher)

    def _on_step(self) -> bool:
        if self.watch is not None:
            assert self.training_env is not None
            env = self.training_env.get_attr("unwrapped")[0]
            number = self.num_timesteps // self.training_env.num_envs - 1
            self.watch(Moment(number, env, self.locals["actions"][0], self.locals["infos"][0]))
        return True


def _spent(teacher: Followed) -> int:
    """The student steps that a teacher has spent so far."""
    return int(teacher.num_timesteps) * steps_per_action(teacher)
