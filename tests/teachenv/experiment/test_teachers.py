"""Teachers that learn from other students' trainings go on where they stopped, and what was seen of them with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import pytest

import meta
from teachenv.experiment.teachers import learned
from teachenv.experiment.teaching import Moment

STEPS = 16


@dataclass
class Seen:
    stop_at: ClassVar[int | None] = None
    numbers: list[int] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        if moment.number == self.stop_at:
            raise KeyboardInterrupt
        self.numbers.append(moment.number)
        self.objectives.append(moment.infos["objective"])


def fresh() -> Any:
    env = gym.make("TeachDigits-v0", horizon=4, steps_per_action=2, batch_size=4, dev_size=20)
    return meta.RMD("AttentionPolicy", env, seed=0, students_per_update=2)


def weights(teacher: Any) -> list[float]:
    return [float(p.detach().double().sum()) for p in teacher.policy.parameters()]


def measured(folder: Path, seen: Seen) -> Any:
    return learned(fresh(), STEPS, folder, measure=lambda teacher: weights(teacher)[0], watch=seen)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], list[Any], Seen]:
    seen = Seen()
    teacher, points = measured(tmp_path_factory.mktemp("whole"), seen)
    return weights(teacher), [point[::2] for point in points], seen


def test_all_of_a_training_is_seen_and_measured(whole: tuple[list[float], list[Any], Seen]) -> None:
    _, points, seen = whole
    assert seen.numbers == list(range(STEPS // 2))
    assert [steps for steps, _ in points] == [0, 8, 16]


@pytest.mark.parametrize("at", [1, 5, 7])
def test_an_interrupted_one_goes_on(
    at: int, whole: tuple[list[float], list[Any], Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Seen, "stop_at", at)
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path, Seen())
    seen = Seen()
    teacher, points = measured(tmp_path, seen)
    assert (weights(teacher), [point[::2] for point in points]) == whole[:2]
    assert (seen.numbers, seen.objectives) == (whole[2].numbers, whole[2].objectives)


def test_one_that_stopped_between_its_two_files_goes_on(
    whole: tuple[list[float], list[Any], Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = meta.RMD.save

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.num_timesteps:
            raise KeyboardInterrupt
        saved(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(meta.RMD, "save", save)
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path, Seen())
    seen = Seen()
    teacher, points = measured(tmp_path, seen)
    assert (weights(teacher), [point[::2] for point in points]) == whole[:2]
    assert seen.numbers == whole[2].numbers


def test_one_that_has_learned_all_is_as_it_ended(whole: tuple[list[float], list[Any], Seen], tmp_path: Path) -> None:
    before, _ = measured(tmp_path, Seen())
    seen = Seen()
    teacher, points = measured(tmp_path, seen)
    assert (weights(teacher), [point[::2] for point in points]) == whole[:2]
    assert seen.objectives == whole[2].objectives
    states = [one.env.get_attr("unwrapped")[0].get_state() for one in (before, teacher)]
    observed = [state["standing"]["observation"].tolist() for state in states]
    assert observed[0] == observed[1]
    assert states[0]["random"] == states[1]["random"]


@pytest.mark.parametrize(("seconds", "resumed_at"), [(0.0, 4), (1e9, 0)])
def test_a_long_training_is_kept_between_measurements_too(
    seconds: float, resumed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teachenv.experiment.teachers._SECONDS_BETWEEN_CHECKPOINTS", seconds)

    def measured(folder: Path, seen: Seen) -> Any:
        return learned(fresh(), 2 * STEPS, folder, every=STEPS, measure=lambda t: weights(t)[0], watch=seen)

    teacher, points = measured(tmp_path / "whole", Seen())
    with monkeypatch.context() as patch:
        patch.setattr(Seen, "stop_at", 7)
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path / "stopped", Seen())
    went_on = meta.RMD.load(tmp_path / "stopped" / "teacher.zip")
    assert went_on.num_timesteps == resumed_at
    again, points_again = measured(tmp_path / "stopped", Seen())
    assert weights(again) == weights(teacher)
    assert [point[::2] for point in points_again] == [point[::2] for point in points]
    assert [point.student_steps for point in points] == [0, STEPS, 2 * STEPS]
