"""Whether a row's teacher taught: what is measured of it, when a line is called untaught, and the check of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import meta
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.experiment import evidence
from teachenv.experiment.evidence import EFFECT, MOVED, MOVED_MOST
from teachenv.experiment.methods import Candidate, Method
from teachenv.experiment.row import Row
from teachenv.experiment.setting import Configuration, OneByOne, Setting
from teachenv.experiment.tables import grouped
from teachenv.experiment.teaching import Moved, teach
from teachenv.experiment.weighing import RMS
from teachenv.experiment.work import CURVE_SEED, train

OPTIONS: dict[str, Any] = {"batch_size": 8, "horizon": 6, "pool_size": 60, "dev_size": 20, "dev_measured": 20}


class Says:
    """A teacher that always takes one action."""

    def __init__(self, env: Any, seed: int, options: Any) -> None:
        space = getattr(env, "single_action_space", env.action_space)
        self.action = np.full(space.shape, options["action"], np.float32)
        self.shape = env.action_space.shape

    def predict(self, observation: Any, deterministic: bool = True) -> tuple[np.ndarray, None]:
        return np.broadcast_to(self.action, self.shape), None


class ForAnyNumber(Says):
    """The same for as many students as there are observations."""

    def predict(self, observation: Any, deterministic: bool = True) -> tuple[np.ndarray, None]:
        return np.broadcast_to(self.action, (len(observation), *self.action.shape)), None


@pytest.mark.parametrize(
    ("loss", "action", "mean", "most"),
    [
        ({"name": "bilinear", "scale": 0.5}, 0.2, 0.1, 0.1),
        ({"name": "bilinear", "scale": 0.5}, 0.0, 0.0, 0.0),
        ({"name": "sample-weights", "scale": 0.5}, -1.0, 0.5, 0.5),
        ({"name": "class-weights", "scale": 0.5}, 1.0, 0.5, 0.5),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_move_is_a_share_of_the_neutral_coefficients(
    loss: dict[str, Any], action: float, mean: float, most: float, together: bool
) -> None:
    options: dict[str, Any] = {"task": "digits", "loss": loss, **OPTIONS}
    single = TeachEnv(**options)
    students: Any = TeachVectorEnv(3, **options) if together else OneByOne(single, 2)
    teacher, moved = Says(students if together else single, 0, {"action": action}), Moved()
    teach(students, teacher, 0, watch=moved)
    assert (moved.mean, moved.largest) == pytest.approx((mean, most), abs=1e-6)


def trained(tmp_path: Path, action: float, seed: int = 0) -> dict[str, float]:
    method = Method((Candidate(teacher={"action": action}),), ForAnyNumber)
    setting = Setting("TeachDigits-v0", {**OPTIONS, "horizon": 12, "learning_rate": 0.5})
    outcome = train(setting, method, Configuration({}), seed, 0, 1, 1, 3, 2, tmp_path)
    return dict(outcome.values)


def test_the_effect_is_the_difference_to_students_of_the_same_seeds_whom_nobody_teaches(tmp_path: Path) -> None:
    still, moves = (trained(tmp_path / str(action), action) for action in (0.0, -0.9))
    assert (still[EFFECT], still[MOVED], still[MOVED_MOST]) == (0.0, 0.0, 0.0)
    assert moves[MOVED] > 0.1
    students = TeachVectorEnv(3, task="digits", **{**OPTIONS, "horizon": 12, "learning_rate": 0.5})
    assert still["dev_objective"] == pytest.approx(teach(students, None, CURVE_SEED).objective, abs=1e-6)
    assert moves[EFFECT] == pytest.approx(moves["dev_objective"] - still["dev_objective"], abs=1e-6)
    assert moves[EFFECT] != 0


def test_a_fixed_loss_has_no_evidence_and_a_teacher_behind_a_wrapper_has(tmp_path: Path) -> None:
    setting = Setting("TeachDigits-v0", {**OPTIONS, "steps_per_action": 1})
    fixed = train(setting, Method(), Configuration({}), 0, 0, 1, 1, 2, 2, tmp_path)
    assert not {EFFECT, MOVED, MOVED_MOST} & fixed.values.keys()
    drops = Method(
        (Candidate({"loss": "sample-weights", "loss_kwargs": {"base": "cross-entropy"}}, {"until": 0.9}),),
        lambda env, seed, options: meta.SelfPacedTeacher(
            "SelfPacedPolicy", meta.DataTeaching(env), policy_kwargs={"until": options["until"]}, seed=seed
        ),
        wrapper=meta.DataTeaching,
    )
    behind = train(setting, drops, Configuration({}), 0, 0, 1, 1, 2, 2, tmp_path)
    assert behind.values[MOVED_MOST] == pytest.approx(1.0)
    assert EFFECT in behind.values


@pytest.mark.parametrize(
    ("moved", "effects", "name"),
    [
        (0.002, [0.001, -0.001, 0.0005], "rmd (untaught)"),
        (0.002, [0.010, 0.011, 0.012], "rmd"),
        (0.002, [-0.010, -0.011, -0.012], "rmd"),
        (0.020, [0.001, -0.001, 0.0005], "rmd"),
        (0.002, [0.010], "rmd (untaught?)"),
        (0.000, [0.000], "rmd (untaught)"),
        (0.020, [0.001], "rmd"),
    ],
)
def test_untaught_is_who_neither_moved_nor_changed_anything(moved: float, effects: list[float], name: str) -> None:
    """One seed has no interval: a teacher that moved little is not called untaught for that alone."""
    rows = [
        Row("compare", "digits", "digits", "mlp", "rmd", seed, metric, value, 0, 0.0, {}, "0" * 40, {})
        for seed, effect in enumerate(effects)
        for metric, value in ((MOVED, moved), (MOVED_MOST, 2 * moved), (EFFECT, effect))
    ]
    (group,) = grouped(rows)
    assert evidence.marked(group) == name
    said = evidence.meaning([group])
    assert ("is called untaught if" in said, '"untaught?"' in said) == ("(untaught)" in name, "?" in name)


@pytest.mark.parametrize(("with_moves", "cell"), [(3, "0.5 (1)"), (1, "0.5 (1); 1 of 3 seeds"), (0, "not measured")])
def test_a_share_says_of_how_many_seeds_it_is(with_moves: int, cell: str) -> None:
    rows = [
        Row("compare", "digits", "digits", "mlp", "rmd", seed, metric, value, 0, 0.0, {}, "0" * 40, {})
        for seed in range(3)
        for metric, value in (("test_error", 0.1), (MOVED, 0.005), (MOVED_MOST, 0.01))
        if seed < with_moves or metric == "test_error"
    ]
    (group,) = grouped(rows)
    assert evidence.share("moved", MOVED, lambda group: True, MOVED_MOST).cell(group) == cell
    assert (evidence.share("moved", MOVED, lambda group: False).cell(group) == "") == (not with_moves)


class Halves(gym.ActionWrapper[Any, Any, Any]):
    """Hands on half of an action."""

    def action(self, action: Any) -> Any:
        return action / 2


class AllAlike(gym.ActionWrapper[Any, Any, Any]):
    """One number for all coordinates."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def action(self, action: Any) -> Any:
        return np.repeat(action, self.env.action_space.shape[0])  # type: ignore[index]


@pytest.mark.parametrize(("wrapper", "mean"), [(Halves, 0.25), (AllAlike, 0.5)])
def test_the_move_is_of_the_action_that_reaches_the_environment(tmp_path: Path, wrapper: Any, mean: float) -> None:
    candidate = Candidate({"loss": "sample-weights"}, {"action": 0.5})
    method = Method((candidate,), lambda env, seed, options: Says(wrapper(env), seed, options), wrapper=wrapper)
    values = train(Setting("TeachDigits-v0", OPTIONS), method, Configuration({}), 0, 0, 1, 1, 1, 1, tmp_path).values
    assert [values[name] for name in (MOVED, MOVED_MOST, RMS)] == pytest.approx([mean] * 3)


def test_each_seed_has_students_of_its_own(tmp_path: Path) -> None:
    first, second = (trained(tmp_path / str(seed), -0.9, seed) for seed in range(2))
    assert first["dev_objective"] != second["dev_objective"]
    assert first[EFFECT] != second[EFFECT]
