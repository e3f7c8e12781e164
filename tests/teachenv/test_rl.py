"""Students that learn by reinforcement: their tasks, their PPO, and the environment around them."""

from __future__ import annotations

import functools
import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from teachenv import TeachEnv, TeachVectorEnv, randomness
from teachenv.rl import CONTROLS, PHYSICS, ControlSettings, TeachControlEnv
from teachenv.rl.dynamics import explained_variance
from teachenv.rl.policy import Actor, Distribution
from teachenv.rl.settings import USUAL

SMALL: dict[str, Any] = {
    "horizon": 3,
    "copies": 2,
    "rollout_steps": 12,
    "epochs": 2,
    "batch_size": 8,
    "hidden": [8],
    "evaluation_episodes": 2,
    "test_episodes": 3,
}
NUMBERS = (
    "objective",
    "dev_return",
    "train_loss",
    "value_loss",
    "entropy",
    "explained_variance",
    "kl",
    "learning_rate",
)
INFO = dict.fromkeys(NUMBERS, float) | dict.fromkeys(("student_step", "env_steps"), int)
INFO |= {"diverged": bool, "task": str, "dataset": str}
make = functools.partial(gym.make, "TeachControl-v0", **SMALL)
each_task = pytest.mark.parametrize("task", PHYSICS)


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 steps, so that Acrobot's, which no small student ends, take no time."""
    for physics in PHYSICS.values():
        monkeypatch.setattr(type(physics), "limit", 40)


def neutral(env: Any) -> np.ndarray:
    return np.zeros(env.action_space.shape, np.float32)


def roll(env: Any, seed: int = 0, steps: int = 99) -> list[tuple[np.ndarray, float, dict[str, Any]]]:
    """Random actions to the end of the episode, or for some steps."""
    rng, taken, ended = np.random.default_rng(seed), [], False
    while not ended and len(taken) < steps:
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, ended, truncated, info = env.step(action)
        assert not truncated
        taken.append((observation, reward, info))
    return taken


def same(one: Any, other: Any) -> bool:
    return pickle.dumps([(o.tobytes(), r, i) for o, r, i in one]) == pickle.dumps(
        [(o.tobytes(), r, i) for o, r, i in other]
    )


@each_task
def test_tasks_are_gymnasiums(task: str) -> None:
    physics, rng = PHYSICS[task], np.random.default_rng(0)
    env: Any = gym.make(task).unwrapped
    env.reset(seed=0)
    assert env.observation_space.shape == (physics.observation_size,)
    state = physics.begin(rng.random((5, physics.state_size)))
    for _ in range(30):
        action = rng.integers(physics.choices, size=5) if physics.choices else rng.uniform(-3, 3, (5, 1))
        after, reward, ended = physics.step(state, action)
        for i in range(5):
            env.state, env.steps_beyond_terminated = state[i].copy(), None
            seen, paid, over, *_ = env.step(action[i])
            np.testing.assert_allclose(env.state, after[i], rtol=0, atol=1e-12)
            np.testing.assert_allclose(seen, physics.observe(after[i]), rtol=1e-5, atol=1e-6)
            assert paid == pytest.approx(reward[i], abs=1e-12)
            assert over == ended[i]
        lowest, highest = physics.returns
        assert np.all(reward <= max(highest, 1.0))
        assert np.all(reward >= lowest)
        state = after


def test_limits_and_first_states_are_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for task, physics in PHYSICS.items():
        spec = gym.spec(task)
        assert physics.limit == spec.max_episode_steps
        env: Any = gym.make(task).unwrapped
        first = np.array([(env.reset(seed=i), env.state)[1] for i in range(200)])
        ours = physics.begin(np.random.default_rng(0).random((4000, physics.state_size)))
        assert np.all(np.abs(first) <= np.abs(ours).max(0) * 1.01)
        np.testing.assert_allclose(first.std(0), ours.std(0), rtol=0.15)


@each_task
def test_the_contract_holds(task: str) -> None:
    env = make(task=task)
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env.unwrapped)
    observation, info = env.reset(seed=1)
    begin = info["objective"]
    steps = [(observation, 0.0, info), *roll(env)]
    for number, (seen, _, info) in enumerate(steps):
        assert env.observation_space.contains(seen)
        assert {name: type(value) for name, value in info.items()} == INFO
        json.dumps(info, allow_nan=False)
        assert info["student_step"] == number
        assert info["env_steps"] == number * 24
        fields = dict(zip(env.unwrapped.OBSERVATION_FIELDS, seen.tolist(), strict=True))
        assert fields["progress"] == pytest.approx(number / 3)
        assert fields["mean_return"] == pytest.approx(info["objective"], abs=1e-6)
    assert info["student_step"] == 3
    assert sum(reward for _, reward, _ in steps) == pytest.approx(info["objective"] - begin, abs=1e-12)
    assert info["kl"] > 0
    assert env.unwrapped.evaluate("dev")["dev_return"] == info["dev_return"]
    assert env.unwrapped.evaluate("test") == env.unwrapped.evaluate("test")


def test_pictures_and_text() -> None:
    env = make(render_mode="rgb_array", control=["clip"])
    env.reset(seed=0)
    roll(env, steps=1)
    assert env.render().shape == (480, 960, 3)
    env = make(render_mode="ansi")
    env.reset(seed=0)
    assert "CartPole-v1" in env.render()


@each_task
def test_episodes_repeat_and_snapshots_go_on_to_the_bit(task: str) -> None:
    before = randomness.generator_states()
    env, other = make(task=task), make(task=task)
    env.reset(seed=3)
    roll(env, steps=1)
    state = pickle.loads(pickle.dumps(env.unwrapped.get_state()))
    rest = roll(env, 1)
    assert randomness.generator_states() == before
    other.reset(seed=99)
    other.unwrapped.set_state(state)
    assert same(roll(other, 1), rest)
    for each in (env, other):  # the generator goes on alike, too
        each.reset()
    assert same(roll(env), roll(other))
    other.reset(seed=3)
    roll(other, steps=1)
    assert same(roll(other, 1), rest)


AGAIN = """
import sys, pickle, gymnasium as gym, numpy as np, torch, teachenv
torch.set_num_threads(1)
with open(sys.argv[1], "rb") as file:
    options, state = pickle.load(file)
from teachenv.rl import PHYSICS
type(PHYSICS["CartPole-v1"]).limit = 40
env = gym.make("TeachControl-v0", **options)
env.reset(seed=5)
env.unwrapped.set_state(state)
o, r, *_ = env.step(np.full(5, 0.5, np.float32))
print([o.tobytes().hex(), r])
print("stable_baselines3" in sys.modules)
"""


def test_a_snapshot_goes_on_in_another_process_which_needs_no_sb3(in_new_process: Any, tmp_path: Any) -> None:
    env = make()
    env.reset(seed=0)
    roll(env, steps=1)
    (tmp_path / "state").write_bytes(pickle.dumps((SMALL, env.unwrapped.get_state())))
    there, needs_sb3 = in_new_process(AGAIN, tmp_path / "state").splitlines()
    observation, reward, *_ = env.step(np.full(5, 0.5, np.float32))
    assert eval(there) == [observation.tobytes().hex(), reward]
    assert needs_sb3 == "False"


def test_a_spec_survives_json() -> None:
    env = make(task="Acrobot-v1")
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.problem.settings == env.unwrapped.problem.settings


def test_the_zero_action_changes_no_coefficient_and_the_others_a_tenth_to_ten_times() -> None:
    base = ControlSettings().coefficients
    assert base.under(tuple(CONTROLS), np.zeros(5, np.float32)) == base
    for end, factor in ((1.0, 10.0), (-1.0, 0.1)):
        under = base.under(tuple(CONTROLS), np.full(5, end))
        for name in ("entropy", "value", "clip", "learning_rate"):
            assert getattr(under, name) == pytest.approx(factor * getattr(base, name))
        assert 1 / (1 - under.discount) == pytest.approx(factor / (1 - base.discount))


@pytest.mark.parametrize("name", CONTROLS)
def test_each_coefficient_changes_the_student(name: str) -> None:
    env = make(control=[name], hidden=[4], learning_rate=0.03)
    after = []
    for action in (0.0, -1.0):
        env.reset(seed=0)
        for _ in range(2):
            env.step(np.full(1, action, np.float32))
        after.append(env.unwrapped.student.parameters)
    assert any(not torch.equal(after[0][key], after[1][key]) for key in after[0])


def test_evaluations_have_common_random_numbers_and_tests_others() -> None:
    dynamics = make().unwrapped.dynamics
    student = dynamics.init(0)
    measured = [dynamics.mean_return(student, seed, p, 8) for seed, p in ((0, 10), (0, 10), (1, 10), (0, 11))]
    assert measured[0] == measured[1]
    physics = dynamics.physics
    first = [randomness.generator(seed, p).random((8, physics.state_size)) for seed, p in ((0, 10), (0, 11))]
    assert not np.array_equal(*first)


@each_task
def test_the_actor_is_the_policy(task: str) -> None:
    dynamics = make(task=task, dtype="float64").unwrapped.dynamics
    physics, rng = dynamics.physics, np.random.default_rng(0)
    student = dynamics.init(1)
    student.parameters["policy.1.weight"].mul_(100)
    observation = rng.normal(size=(1, physics.observation_size)).repeat(20_000, 0)
    noise = rng.gumbel(size=(20_000, physics.choices)) if physics.choices else rng.normal(size=(20_000, 1))
    actor, distribution = (
        Actor(student.parameters, physics),
        Distribution.of(student.parameters, torch.tensor(observation)),
    )
    drawn = actor.drawn(observation, noise)
    if physics.choices:
        shares = np.bincount(drawn, minlength=physics.choices) / len(drawn)
        np.testing.assert_allclose(shares, distribution.center[0].exp(), atol=0.015)
        assert actor.best(observation)[0] == distribution.center[0].argmax()
    else:
        assert drawn.mean() == pytest.approx(float(distribution.center[0]), abs=0.03)
        assert drawn.std() == pytest.approx(1.0, abs=0.03)


def test_a_student_that_diverges_ends_the_episode_with_finite_numbers() -> None:
    env = make(value=1e38, horizon=9, divergence_penalty=2.0)
    env.reset(seed=0)
    steps = roll(env)
    *_, (observation, reward, info) = steps
    assert info["diverged"]
    assert len(steps) < 9
    assert reward == -2.0
    assert np.isfinite(observation).all()
    json.dumps(info, allow_nan=False)
    assert env.unwrapped.evaluate()["diverged"] == 1.0
    with pytest.raises(gym.error.ResetNeeded):
        env.unwrapped.step(neutral(env))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "CartPole"}, "unknown task 'CartPole', did you mean 'CartPole-v1'"),
        ({"control": ["entropi"]}, "unknown control 'entropi', did you mean 'entropy'"),
        ({"control": []}, "control must be different names, at least one of"),
        ({"control": ["clip", "clip"]}, "control must be different names"),
        ({"entropy": 0.0}, "control holds 'entropy', whose actions change entropy=0 by a factor, to no effect"),
        ({"discount": 0.5}, "discount must be at least 0.9, found 0.5"),
        ({"horizon": 0}, "horizon must be an integer of at least 1, found 0"),
        ({"hidden": 3}, "hidden must be a list of integers, found 3"),
        ({"render_mode": "human"}, "render_mode must be None or one of"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        TeachControlEnv(**options)
    assert "\n" not in str(caught.value)


def test_unknown_options_and_foreign_snapshots_are_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'horizn', did you mean 'horizon'"):
        TeachControlEnv(horizn=3)
    env = make().unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="call env"):
        env.evaluate()
    state = make(horizon=4).unwrapped.get_state()
    with pytest.raises(ValueError, match=r"state of another environment.*horizon: 4 there, 3 here"):
        env.set_state(state)
    env.reset(seed=0)
    state = {**env.get_state(), "standing": {"student": {}}}
    with pytest.raises(ValueError, match="this state is damaged: its 'standing' is"):
        env.set_state(state)
    with pytest.raises(ValueError, match="unknown split 'train'"):
        env.evaluate("train")


GIVEN: dict[str, dict[str, Any]] = {
    "TeachEnv": {"horizon": 2, "dev_size": 20, "batch_size": 4},
    "TeachVectorEnv of 2 students": {"horizon": 2, "dev_size": 20, "batch_size": 4},
    "TeachControlEnv": {"horizon": 2, "copies": 2},
}
"""Settings of an environment of each kind that are not the defaults."""


def of_kind(kind: str) -> Any:
    makers: dict[str, Any] = {
        "TeachEnv": TeachEnv,
        "TeachVectorEnv of 2 students": functools.partial(TeachVectorEnv, 2),
        "TeachControlEnv": functools.partial(TeachControlEnv, task="Pendulum-v1"),  # which has defaults of its own
    }
    return makers[kind](**GIVEN[kind])


@pytest.mark.parametrize("there", GIVEN)
@pytest.mark.parametrize("here", GIVEN)
def test_a_snapshot_of_another_kind_of_environment_is_refused(there: str, here: str) -> None:
    state, env = of_kind(there).get_state(), of_kind(here)
    if there == here:
        env.set_state(state)
    else:
        with pytest.raises(ValueError, match=rf"this is the state of a {there}, expected that of a {here}$"):
            env.set_state(state)


@pytest.mark.parametrize("kind", GIVEN)
def test_a_setting_that_a_snapshot_lacks_had_its_default(kind: str) -> None:
    env = of_kind(kind)
    state = env.get_state()
    for name in state["settings"].keys() - {"task"}:  # every version had that
        settings = {other: text for other, text in state["settings"].items() if other != name}
        if name in GIVEN[kind]:
            with pytest.raises(ValueError, match=rf"state of another environment \({name}: .* there, .* here\)"):
                env.set_state({**state, "settings": settings})
        else:
            env.set_state({**state, "settings": settings})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1234.567])
def test_equal_returns_have_no_variance_to_explain(value: float, dtype: torch.dtype) -> None:
    values = torch.randn(12, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert explained_variance(value - values, values) == 0.0
    assert explained_variance(torch.zeros_like(values), values) == 1.0


def test_each_task_has_its_usual_settings() -> None:
    assert set(USUAL) == set(PHYSICS)
    for task in USUAL:
        ControlSettings.from_kwargs({"task": task})
