"""The batched environment as an SB3 `VecEnv`: what a `DummyVecEnv` of single environments is, to float tolerance."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from agents import DDPG
from meta import RMD, ActionGradient, GymVecEnv, VectorActionGradient
from meta.wrappers.vec_env import as_vec_env
from teachenv import Task, TeachEnv, TeachVectorEnv

COUNT, HORIZON = 3, 4


def settings(**changes):
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    inputs = rng.normal(size=(60, 5)) + 2 * rng.normal(size=(3, 5))[targets]
    task = Task("vectors", "made-up", (inputs[:50], targets[:50]), (inputs[50:], targets[50:]), 3)
    return {"task": task, "horizon": HORIZON, "batch_size": 8, "dev_size": 20} | changes


def pair(**changes):
    batch = GymVecEnv(TeachVectorEnv(COUNT, **settings(**changes)))
    singles = DummyVecEnv([lambda: TeachEnv(**settings(**changes))] * COUNT)
    return batch, singles


def assert_same(found, wanted):
    """Equal infos: the same keys, kinds and, to float tolerance, values."""
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert isinstance(found[key], type(value)), key
        if isinstance(value, float | np.ndarray):
            np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-5, err_msg=key)
        else:
            assert found[key] == value, key


@pytest.mark.parametrize("options", [{}, {"steps_per_action": 2}, {"loss": "sample-weights", "resplit": False}])
def test_it_is_a_dummy_vec_env_of_single_environments(options):
    batch, singles = pair(**options)
    for env in (batch, singles):
        env.seed(10)
    np.testing.assert_allclose(batch.reset(), singles.reset(), atol=1e-5)
    rng = np.random.default_rng(1)
    ended = 0
    for _ in range(2 * HORIZON + 3):
        for found, wanted in zip(batch.reset_infos, singles.reset_infos, strict=True):
            assert_same(found, wanted)
        actions = rng.uniform(-1, 1, (COUNT, *batch.action_space.shape)).astype(np.float32)
        ours, theirs = batch.step(actions), singles.step(actions)
        for found, wanted in zip(ours[:3], theirs[:3], strict=True):
            assert found.dtype == wanted.dtype
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        for found, wanted in zip(ours[3], theirs[3], strict=True):
            assert_same(found, wanted)
        ended += ours[2].sum()
    assert ended >= 2 * COUNT


def test_the_action_gradient_comes_through_with_the_episode_that_ended():
    batch = GymVecEnv(VectorActionGradient(TeachVectorEnv(COUNT, **settings(dtype="float64"))))
    singles = DummyVecEnv([lambda: ActionGradient(TeachEnv(**settings(dtype="float64")))] * COUNT)
    for env in (batch, singles):
        env.seed(10)
        env.reset()
    rng = np.random.default_rng(1)
    for t in range(2 * HORIZON):
        actions = rng.uniform(-1, 1, (COUNT, 9))
        infos, wanted = batch.step(actions)[3], singles.step(actions)[3]
        for i in range(COUNT):
            assert ("action_gradient" in infos[i]) == (t % HORIZON == HORIZON - 1)
            assert "action_gradient" not in batch.reset_infos[i]
            assert_same(infos[i], wanted[i])


def test_seeds_hold_for_one_reset():
    batch, _ = pair()
    batch.seed(3)
    first = batch.reset()
    assert not np.array_equal(batch.reset(), first)
    batch.seed(3)
    np.testing.assert_array_equal(batch.reset(), first)
    alone = TeachEnv(**settings())
    np.testing.assert_allclose(alone.reset(seed=4)[0], first[1], atol=1e-5)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED, None])
def test_other_autoreset_modes_are_refused(mode):
    venv = TeachVectorEnv(COUNT, autoreset_mode=mode or "SameStep", **settings())
    if mode is None:  # an environment of somebody else's that does not say
        venv.metadata = {}
    for adapt in (GymVecEnv, lambda envs: RMD("AttentionPolicy", envs), lambda envs: DDPG("AttentionPolicy", envs)):
        with pytest.raises(ValueError, match=r"SAME_STEP\), found .*leave autoreset_mode out"):
            adapt(venv)


@pytest.mark.parametrize("name", ["TeachDigits-v0", "TeachControl-v0"])
def test_students_in_gymnasiums_own_vector_environment_are_known_as_students(name):
    model = DDPG("AttentionPolicy", gym.make_vec(name, 2, "sync", horizon=2), seed=0)
    assert (model.gamma, model.reward_scale) == (1.0, 100.0)  # a teacher's defaults
    single = gym.make_vec(name, 2, "sync", horizon=2)
    alone = DummyVecEnv([lambda: gym.make(name, horizon=2)] * 2)
    together = as_vec_env(single)
    for envs in (alone, together):
        envs.seed(1)
    np.testing.assert_array_equal(together.reset(), alone.reset())


class Plain(gym.vector.VectorWrapper):
    """A wrapper around all environments."""


@pytest.mark.parametrize("wrap", [Plain, lambda envs: envs], ids=["wrapped", "in processes"])
def test_students_that_a_vector_environment_hides_are_refused(wrap):
    envs = gym.make_vec("TeachDigits-v0", 1, "sync" if wrap is Plain else "async", horizon=2)
    try:
        with pytest.raises(ValueError, match=r"behind which teachers cannot see the students.*SubprocVecEnv"):
            DDPG("AttentionPolicy", wrap(envs))
    finally:
        envs.close()


def test_algorithms_of_stable_baselines3_say_what_they_take_a_batch_as():
    envs = TeachVectorEnv(2, **settings())
    for algorithm in (stable_baselines3.PPO, stable_baselines3.TD3):
        with pytest.raises(ValueError, match=r"of type .*TeachVectorEnv', which .* takes as meta.GymVecEnv\(envs\)"):
            algorithm("MlpPolicy", envs)
    model = stable_baselines3.PPO("MlpPolicy", GymVecEnv(envs), n_steps=4, batch_size=8, n_epochs=1, device="cpu")
    assert model.learn(8).num_timesteps == 8


def test_a_foreign_vector_environment_works_too():
    venv = gym.make_vec(
        "Pendulum-v1", num_envs=2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    singles = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    batch = GymVecEnv(venv)
    for env in (batch, singles):
        env.seed(0)
        env.reset()
    for _ in range(205):  # past the time limit
        actions = np.full((2, 1), 0.5, dtype=np.float32)
        ours, theirs = batch.step(actions), singles.step(actions)
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
        assert [i["TimeLimit.truncated"] for i in ours[3]] == [i["TimeLimit.truncated"] for i in theirs[3]]
        for found, wanted in zip(ours[3], theirs[3], strict=True):
            np.testing.assert_allclose(found.get("terminal_observation", 0), wanted.get("terminal_observation", 0))
    batch.close()


def test_methods_and_attributes_reach_the_batch():
    batch, _ = pair()
    batch.reset()
    assert batch.num_envs == COUNT
    assert batch.has_attr("get_state")
    assert not batch.has_attr("no_such_thing")
    assert batch.get_attr("OBSERVATION_FIELDS")[0][0] == "progress"
    (state,) = batch.env_method("get_state")
    actions = np.full((COUNT, 9), 0.5, dtype=np.float32)
    first = batch.step(actions)
    batch.env_method("set_state", state)
    np.testing.assert_array_equal(batch.step(actions)[0], first[0])
    assert batch.env_method("evaluate", "dev")[0]["dev_accuracy"].shape == (COUNT,)
    assert batch.env_is_wrapped(Monitor) == [False] * COUNT
    assert batch.get_attr("render_mode") == [None] * COUNT
    batch.set_attr("note", 7)
    assert batch.venv.unwrapped.note == 7


def test_returns_are_monitored():
    env = as_vec_env(TeachVectorEnv(COUNT, **settings()))
    assert isinstance(env, VecMonitor)
    start = [None] * COUNT
    env.reset()
    start = [info["objective"] for info in env.venv.reset_infos]
    for _ in range(HORIZON):
        *_, infos = env.step(np.zeros((COUNT, 9), dtype=np.float32))
    for info, before in zip(infos, start, strict=True):
        assert info["episode"]["l"] == HORIZON
        assert info["episode"]["r"] == pytest.approx(info["objective"] - before, abs=1e-5)
    single = TeachEnv(**settings())
    assert as_vec_env(single) is single
