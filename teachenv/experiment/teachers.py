"""Teachers that learn from the trainings of students, followed as they do so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.callbacks import BaseCallback

from teachenv import checkpoints

TEACHER = "teacher.zip"
"""The file in a folder that holds a teacher."""

# What the file beside it holds, as `teachenv.checkpoints` has it.
_POINTS, _POINTS_FILE = "how good a teacher was as it learned", "points"


class Point(NamedTuple):
    """How good a teacher was as it learned.

    Attributes:
        student_steps: spent on it so far.
        seconds: likewise.
        value: what was measured.
    """

    student_steps: int
    seconds: float
    value: float


def learned(
    teacher: Any,
    student_steps: int,
    folder: Path,
    *,
    every: float = 0,
    measure: Callable[[Any], float] | None = None,
) -> tuple[Any, list[Point]]:
    """A teacher after a budget of student steps, and how good it was on the way and at the end.

    Args:
        teacher: untrained, with its environment.
        student_steps: the budget.
        folder: where it is kept as it learns, for an interrupted training to go on from, and in the end. Algorithms
            that do not resume exactly (SB3's own) are not kept.
        every: student steps between two measurements and checkpoints; 0: both before each update.
        measure: of a teacher; None: there are no measurements but checkpoints.
    """
    follower = _Follower(folder, every, measure)
    teacher = follower.resumed(teacher)
    remaining = student_steps // steps_per_action(teacher) - teacher.num_timesteps
    if remaining > 0:
        teacher.learn(remaining, callback=follower, log_interval=None, reset_num_timesteps=teacher.num_timesteps == 0)
    follower.mark(teacher)
    return teacher, follower.points


def steps_per_action(teacher: Any) -> int:
    """Student steps for each step of a teacher's environment."""
    steps: int = teacher.env.get_attr("teaching")[0].settings.steps_per_action
    return steps


class _Follower(BaseCallback):
    def __init__(self, folder: Path, every: float, measure: Callable[[Any], float] | None) -> None:
        super().__init__()
        self.folder, self.every, self.measure = folder, every, measure
        self.points: list[Point] = []
        self.marked: int | None = None
        self.seconds_before, self.start = 0.0, time.perf_counter()

    def resumed(self, teacher: Any) -> Any:
        """The teacher as the folder has it, or as it is if there is none."""
        kept, points = self.folder / TEACHER, self.folder / _POINTS_FILE
        if not (kept.exists() and points.exists() and _resumes(teacher)):
            return teacher
        again = type(teacher).load(kept, env=teacher.env)
        with checkpoints.going_on_from(points):
            record = checkpoints.load(points, _POINTS, (Point,))
            self.seconds_before, self.points = record["seconds"], record["points"]
        return again

    def mark(self, teacher: Any) -> None:
        """Measures and keeps the teacher, unless it has done so at this place."""
        spent = teacher.num_timesteps * steps_per_action(teacher)
        if self.marked == spent:
            return
        self.marked = spent
        if self.measure is not None and not (self.points and self.points[-1].student_steps == spent):
            seconds = self.seconds_before + time.perf_counter() - self.start
            self.points.append(Point(spent, round(seconds, 2), self.measure(teacher)))
        if _resumes(teacher):
            seconds = self.seconds_before + time.perf_counter() - self.start
            teacher.save(self.folder / TEACHER)
            record = {"points": self.points, "seconds": seconds}
            checkpoints.save(self.folder / _POINTS_FILE, record, _POINTS, (Point,))

    def _on_rollout_start(self) -> None:
        assert self.model is not None
        spent = self.num_timesteps * steps_per_action(self.model)
        if self.marked is None or spent - self.marked >= self.every:
            self.mark(self.model)

    def _on_step(self) -> bool:
        return True


def _resumes(teacher: Any) -> bool:
    return hasattr(teacher, "mark")
