"""Who sets PPO's coefficients: the benchmark of students that learn by reinforcement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main as command_line
from benchmarks.rl_students import report, work
from benchmarks.rl_students.main import SIZES
from benchmarks.rl_students.work import LEARNING, METHODS, teach
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows

SHORT = replace(SIZES["smoke"].setting("CartPole-v1"), trainings=2)


def test_teachers_that_learn_spend_the_same_and_students_are_the_same(tmp_path: Path) -> None:
    found = {method: teach(SHORT, method, 0, tmp_path) for method in METHODS}
    of_one = 2 * 2 * 16  # updates, copies, steps
    for method, outcome in found.items():
        learned = 2 if method in LEARNING else 0
        assert outcome.data["env_steps"] == (learned + 2) * of_one, method
        assert outcome.student_steps == (learned + 2) * 2
        assert len(outcome.data["curve"]) == 3
        assert np.shape(outcome.data["actions"]) == (2, 5)
        # The first J is of untrained students, which are the same for all.
        assert outcome.data["curve"][0] == found["ppo"].data["curve"][0]
    assert found["ppo"].values["teacher_moved"] == 0.0
    assert found["random"].values["teacher_moved"] == pytest.approx(0.5, abs=0.2)
    assert found["meta-gradient"].values["teacher_moved"] > 0
    again = teach(SHORT, "bandit", 0, tmp_path)
    assert replace(again, seconds=0.0) == replace(found["bandit"], seconds=0.0)


def test_series_of_students_that_diverged_are_as_long_as_the_others() -> None:
    assert work._filled(np.array([1.0, 2.0]), 4).tolist() == [1.0, 2.0, 2.0, 2.0]


def test_the_command_writes_a_table_and_does_nothing_twice(tmp_path: Path) -> None:
    command = ["rl_students", "--preset", "smoke", "--backend", "inline", "--out", str(tmp_path)]
    assert command_line([*command, "--methods", "ppo", "bandit"]) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.method for row in rows} == {"ppo", "bandit"}
    assert command_line([*command, "--methods", "ppo", "bandit"]) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows
    assert "| bandit" in (tmp_path / "table.md").read_text()
    assert command_line([*command, "--check"]) == 0
    assert command_line([*command, "--tasks", "CartPole"]) == 2


def test_a_teacher_that_did_nothing_is_marked() -> None:
    def row(method: str, seed: int, metric: str, value: float) -> Row:
        config = {"task": "CartPole-v1", "trainings": 4, "students": 2}
        data = {"env_steps": 8, "actions": [[0.0]], "control": ["clip"], "curve": [[0, 0.1]]}
        return Row(
            "rl_students", "CartPole-v1", "gymnasium", "PPO", method, seed, metric, value, 4, 1.0, config, "c", {}, data
        )

    returns = {"ppo": [10.0, 20.0, 30.0], "ddpg": [11.0, 19.0, 30.0], "bandit": [50.0, 61.0, 70.0]}
    moved = {"ppo": 0.0, "ddpg": 0.001, "bandit": 0.5}
    rows = [row(m, s, "teacher_moved", moved[m]) for m in returns for s in range(3)]
    rows += [row(m, s, "episode_return", value) for m, values in returns.items() for s, value in enumerate(values)]
    made = report.make(rows)
    assert [line[0] for line in made.sections[0].body] == ["ppo", "bandit", "ddpg (untaught)"]
    assert "called untaught" in made.sections[0].text
    assert made.unproven == []
    assert report.make([r for r in rows if r.metric != "teacher_moved"]).unproven == [
        "CartPole-v1: bandit",
        "CartPole-v1: ddpg",
    ]
