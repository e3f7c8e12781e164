"""Policies with students and without, on control tasks and on a game."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents import LoTPPO
from benchmarks.__main__ import main as command_line
from benchmarks.lot_atari import main, report, throughput, work
from benchmarks.lot_atari.main import ENVIRONMENTS, Options
from benchmarks.lot_atari.methods import LOT, METHODS, STUDIES, TABLE, Method
from benchmarks.lot_atari.work import Rate, Training, curve_of, make_model, play
from meta.saving.models import read_model
from teachenv.experiment.cases import Case
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows

SHORT = Training(
    "CartPole-v1", 256, 4, Rate(1e-3, 0.0, "linear"), {"n_steps": 32, "batch_size": 64, "n_epochs": 2}, segment=1
)
GAME = replace(
    ENVIRONMENTS["Breakout"], steps=256, num_envs=2, options={"n_steps": 64, "batch_size": 64, "n_epochs": 1}
)


@pytest.fixture(autouse=True)
def one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each rollout, instead of twenty."""
    cart = ENVIRONMENTS["CartPole-v1"]
    monkeypatch.setitem(ENVIRONMENTS, "CartPole-v1", replace(cart, options={**cart.options, "n_epochs": 1}))


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_rates_fall_from_first_to_last(kind: Any) -> None:
    rate = Rate(1.0, 0.1, kind)
    values = [rate(remaining) for remaining in np.linspace(1, 0, 11)]
    assert values[0] == pytest.approx(1.0)
    assert values[-1] == pytest.approx(0.1)
    assert values[5] == pytest.approx(0.55)
    assert all(np.diff(values) < 0)
    # A rollout beyond the last step does not climb back.
    assert rate(-0.2) == pytest.approx(0.1)


def test_updates_and_steps_are_what_the_methods_say(tmp_path: Path) -> None:
    updates = 2 * 2 * 2  # rollouts, epochs, minibatches
    expected = {
        "teacher-only": (updates, 0),
        "teacher-only:total-updates": (2 * updates, 0),
        "lot": (updates, updates),
        "lot:n-5": (updates, 5 * updates),
        "lot:k-2": (updates, 2 * updates),
        "dml": (updates, updates),
        "self-distillation": (2 * updates, 0),
    }
    for name, (policy, students) in expected.items():
        found = play(SHORT, METHODS[name], 0, tmp_path / name)
        assert found.data["policy_updates"] == policy, name
        assert found.student_steps == policy + students, name
        assert found.data["env_steps"] == 256 * (2 if name == "self-distillation" else 1)
        assert ("student_kl" in found.values) == (METHODS[name].students > 0)
        assert found.data["episodes"] > 0
        assert [step for step, _ in found.data["curve"]] == [256 * (i + 1) // work.POINTS for i in range(work.POINTS)]


@pytest.mark.parametrize("method", [replace(LOT, student_steps=2), METHODS["dml"], METHODS["self-distillation"]])
def test_an_interrupted_training_ends_as_a_whole_one(
    method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = play(SHORT, method, 3, tmp_path / "whole")

    class Interrupted(Exception):
        pass

    class Interrupting(work.Returns):
        def _on_step(self) -> bool:
            if self.num_timesteps > 150:  # in the second segment
                raise Interrupted
            return super()._on_step()

    monkeypatch.setattr(work, "Returns", Interrupting)
    with pytest.raises(Interrupted):
        play(SHORT, method, 3, tmp_path / "parts")
    monkeypatch.undo()
    again = play(SHORT, method, 3, tmp_path / "parts")
    assert replace(again, seconds=0.0) == replace(whole, seconds=0.0)
    # What is finished is not trained again.
    assert play(SHORT, method, 3, tmp_path / "parts") == again


def test_without_a_weight_lot_is_ppo(tmp_path: Path) -> None:
    alone, beside = (play(SHORT, m, 1, tmp_path / str(m.students)) for m in (Method(), replace(LOT, alpha=0.0)))
    assert beside.data["curve"] == alone.data["curve"]
    assert beside.values["episode_return"] == alone.values["episode_return"]


def test_a_policy_is_distilled_from_one_that_began_elsewhere(tmp_path: Path) -> None:
    seen: list[LoTPPO] = []

    class Watching(work.Returns):
        def _on_training_start(self) -> None:
            super()._on_training_start()
            if isinstance(self.model, LoTPPO):
                seen.append(self.model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "Returns", Watching)
        play(SHORT, METHODS["self-distillation"], 0, tmp_path / "run")
    first = read_model(PPO, tmp_path / "run" / "first.zip")
    (model,) = seen
    assert first.seed != model.seed
    for name, value in first.policy.state_dict().items():
        assert torch.equal(model.students[0].state_dict()[name], value), name


def test_students_have_their_widths() -> None:
    env = SHORT.make_env(0)

    def parameters(method: Method) -> tuple[int, int]:
        model = make_model(SHORT, method, env, 0)
        assert isinstance(model, LoTPPO)
        return tuple(sum(p.numel() for p in network.parameters()) for network in (model.policy, model.students[0]))  # type: ignore[return-value]

    own, equal = parameters(LOT)
    small, large = (parameters(METHODS[f"lot:student-{size}"]) for size in ("smaller", "larger"))
    assert own == equal == small[0] == large[0]
    assert small[1] < own < large[1]


def test_a_game_is_played_and_filmed(tmp_path: Path) -> None:
    video = tmp_path / "game.mp4"
    found = play(GAME, replace(METHODS["lot:student-smaller"]), 0, tmp_path / "run", video)
    assert (found.data["policy_updates"], found.student_steps) == (4, 8)
    assert video.stat().st_size > 1000


def test_a_curve_has_the_means_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "POINTS", 4)
    returns = [(10, 1.0), (25, 3.0), (26, 5.0), (100, 7.0)]
    assert curve_of(returns, 100) == [(25, 2.0), (50, 5.0), (75, None), (100, 7.0)]


def test_the_command_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setitem(main.SIZES, "smoke", main.Size({"CartPole-v1": 1}, 512, 0.01, 1))  # type: ignore[arg-type]
    command = ["lot_atari", "--preset", "smoke", "--backend", "inline", "--out", str(tmp_path)]
    command += ["--study", "table", "peers", "n"]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.method for row in rows if row.metric == "episode_return"} == {
        *TABLE,
        "dml",
        "self-distillation",
        "lot:n-2",
        "lot:n-5",
    }
    assert "\n| lot" in (tmp_path / "table.md").read_text()  # with or without a mark
    shares = {row.method: row.value for row in rows if row.metric == "term_share"}
    assert set(shares) == {"lot", "dml", "self-distillation", "lot:n-2", "lot:n-5"}
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "checkpoints").glob("*"))
    request.getfixturevalue("undrawn")
    assert command_line(command) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows


@pytest.mark.parametrize(
    ("preset", "study", "expected"),
    [
        ("laptop", [], {"Breakout": {*TABLE}, "CartPole-v1": {*TABLE, "lot:n-2", "lot:n-5"}}),
        ("paper", [], {name: {*TABLE, *STUDIES["peers"], *STUDIES["n"]} for name in ("Breakout", "CartPole-v1")}),
        ("laptop", ["--study", "peers"], {"Breakout": {*STUDIES["peers"]}, "CartPole-v1": {*STUDIES["peers"]}}),
    ],
)
def test_what_is_asked_by_default(
    preset: str, study: list[str], expected: dict[str, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[Case] = []
    monkeypatch.setattr(Options, "execute", lambda self, name, stages, report: wanted.extend(stages[0](None)))
    command = ["lot_atari", "--preset", preset, *study, "--environments", *expected, "--out", str(tmp_path)]
    assert command_line(command) == 0
    found: dict[str, set[str]] = {}
    for case in wanted:
        found.setdefault(case.task, set()).add(case.method)
    assert found == expected


def test_games_have_more_steps_in_the_study_of_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[Case] = []
    monkeypatch.setattr(Options, "execute", lambda self, name, stages, report: wanted.extend(stages[0](None)))
    command = ["lot_atari", "--study", "table", "share", "--environments", "Breakout", "CartPole-v1", "--seeds", "1"]
    assert command_line([*command, "--out", str(tmp_path)]) == 0
    steps = {(case.task, case.method): case.config["training"]["steps"] for case in wanted}
    assert steps["Breakout", "lot"] < 1_000_000 <= steps["Breakout", "lot:share-0.1"]
    assert steps["CartPole-v1", "lot"] == steps["CartPole-v1", "lot:share-0.1"]
    # Rows that are older than shares are those of today's methods.
    methods = {case.method: case.config["method"] for case in wanted}
    assert methods["lot"].keys() == methods["teacher-only"].keys() >= {"alpha"}
    assert "term_share" not in methods["lot"]
    assert methods["lot:share-0.1"]["term_share"] == 0.1


def test_a_table_does_not_mix_presets(undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for preset, factor in (("smoke", 0.01), ("laptop", 0.02)):
        monkeypatch.setitem(main.SIZES, preset, main.Size({"CartPole-v1": 1}, 512, factor, 1))  # type: ignore[arg-type]
    command = ["lot_atari", "--methods", "teacher-only", "--seeds", "1", "--backend", "inline", "--out", str(tmp_path)]
    tables = []
    for preset, environment in (("smoke", "CartPole-v1"), ("laptop", "CartPole-v1"), ("smoke", "Pendulum-v1")):
        assert command_line([*command, "--preset", preset, "--environments", environment]) == 0
        tables.append((tmp_path / "table.md").read_text())
    assert len(read_rows(tmp_path / "results.jsonl")) == 3
    assert [table.count("| teacher-only |") for table in tables] == [1, 1, 2]
    assert "CartPole-v1, 600 steps" in tables[0]
    assert "CartPole-v1, 1,200 steps" in tables[1]
    assert "CartPole-v1, 600 steps" in tables[2]


def test_throughput_is_measured_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "alone", lambda function, **arguments: function(**arguments))
    short = replace(GAME, options=GAME.options | {"n_steps": 8, "batch_size": 8})
    monkeypatch.setattr(main, "_GAME", short)
    monkeypatch.setattr(throughput, "GAME_STEPS", 16)
    monkeypatch.setitem(main.SIZES, "smoke", main.Size({}, 512, 1.0, 1))  # type: ignore[arg-type]
    command = ["lot_atari", "--preset", "smoke", "--study", "throughput", "--out", str(tmp_path)]
    assert command_line(command) == 0
    found = {(row.method, row.metric): row.value for row in read_rows(tmp_path / "results.jsonl")}
    assert {method for method, _ in found} == {*throughput.LEARNERS, *throughput.ENVIRONMENTS}
    assert found["ppo", "ratio"] == found["make_atari_env", "ratio"] == 1
    assert all(value > 0 for value in found.values())
    assert "| ale-vector |" in (tmp_path / "table.md").read_text()


def test_tables_tell_differences_of_pairs() -> None:
    def row(method: str, seed: int, value: float) -> Row:
        data = {"curve": [[1, value]], "policy_updates": 10, "env_steps": 100, "episodes": 3}
        config = {"training": {"steps": 100}}
        return Row(
            "lot_atari", "CartPole-v1", "gymnasium", "MlpPolicy", method, seed, "episode_return", value, 20, 1.0,
            config, "0" * 40, {}, data,
        )  # fmt: skip

    rows = [row("teacher-only", seed, 100.0 + 10 * seed) for seed in range(3)]
    rows += [row("lot", seed, 105.0 + 10 * seed + (seed == 1)) for seed in range(3)]
    assert "| +5.3 [+3.9, +6.8], 0.0039 |" in report.make(rows).table()


def test_an_environment_without_its_package_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        raise work.gym.error.DependencyNotInstalled('Box2D is not installed, run `pip install "gymnasium[box2d]"`')

    monkeypatch.setattr(work, "make_vec_env", missing)
    command = ["lot_atari", "--preset", "smoke", "--environments", "LunarLander-v3", "--backend", "inline"]
    assert command_line([*command, "--backend", "inline", "--out", str(tmp_path)]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "LunarLander-v3" in error
    assert "pip install 'teachenv[control]'" in error
    assert "gymnasium[box2d]" in error


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"methods": ("lott",)}, "lot"), ({"environments": ("CartPole-v0",)}, "CartPole-v1"), ({"workers": 0}, "workers")],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options("smoke", **wrong)
