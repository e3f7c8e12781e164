"""RL teachers, and SB3's own algorithms, unchanged, on the environments."""

import functools
import importlib

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecMonitor

import agents
from agents import DDPG, SAC, TD3
from meta import GymVecEnv
from meta.teachers.policies import Attention
from teachenv import Task, TeachEnv, TeachVectorEnv

HORIZON = 5
POLICIES = pytest.mark.parametrize("policy", ["AttentionPolicy", "MlpPolicy"])
ALGORITHMS = pytest.mark.parametrize("algorithm", [DDPG, TD3, SAC])


@functools.cache
def task() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(90) % 3
    inputs = rng.normal(size=(90, 5)) + rng.normal(size=(3, 5))[targets]
    return Task("vectors", "made-up", (inputs[:80], targets[:80]), (inputs[80:], targets[80:]), 3)


def environment(count=None, **changes):
    settings = {"task": task(), "horizon": HORIZON, "batch_size": 8, "dev_size": 24, **changes}
    return TeachEnv(**settings) if count is None else TeachVectorEnv(count, **settings)


def states(count=20):
    return np.random.default_rng(0).random((count, 6)).astype(np.float32)


def stored(model, name):
    return getattr(model.replay_buffer, name)[: model.replay_buffer.pos].reshape(
        -1, *getattr(model.replay_buffer, name).shape[2:]
    )


@pytest.mark.parametrize("name", [name for name in agents.__all__ if hasattr(stable_baselines3, name)])
def test_a_teacher_named_as_sb3s_algorithm_is_one(name):
    assert issubclass(getattr(agents, name), getattr(stable_baselines3, name))


@ALGORITHMS
@POLICIES
def test_it_starts_near_the_neutral_action(algorithm, policy):
    model = algorithm(policy, environment(), seed=0)
    actions, _ = model.predict(states(), deterministic=True)
    assert 0 < np.abs(actions).max() < 0.05
    if algorithm is SAC:
        return
    with torch.no_grad():
        np.testing.assert_array_equal(
            model.actor_target(torch.as_tensor(states())).numpy(), model.actor(torch.as_tensor(states())).numpy()
        )


@ALGORITHMS
@POLICIES
def test_its_actor_is_the_gradient_teachers(algorithm, policy):
    model = algorithm(policy, environment(), seed=0)
    if policy == "AttentionPolicy":
        assert isinstance(model.actor.mu, Attention)
        assert [tuple(p.shape) for p in model.actor.mu.parameters()] == [(10, 6), (9, 10)]
    else:
        hidden = [256, 256] if algorithm is SAC else [400, 300]
        shapes = [tuple(p.shape) for p in model.actor.mu.parameters() if p.dim() == 2]
        assert shapes == [(hidden[0], 6), (hidden[1], hidden[0]), (9, hidden[1])]
    moved = {id(p) for group in model.actor.optimizer.param_groups for p in group["params"]}
    assert moved == {id(p) for p in model.actor.parameters()}


@ALGORITHMS
@pytest.mark.parametrize("count", [None, 3])
def test_it_explores_with_gaussian_noise_from_the_first_step(algorithm, count):
    """Uniform actions, which SB3 takes until `learning_starts`, have a standard deviation of 0.58."""
    model = algorithm("AttentionPolicy", environment(count), seed=0, learning_starts=1000, noise=0.2)
    assert isinstance(model.action_noise, NormalActionNoise) == (algorithm is not SAC)
    model.learn(120)
    actions = stored(model, "actions")
    assert len(actions) == 120
    assert actions.std() == pytest.approx(0.2, rel=0.1)
    assert abs(actions.mean()) < 0.03
    assert len(np.unique(actions)) > 0.99 * actions.size


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_noise_of_ones_own(noise):
    own = OrnsteinUhlenbeckActionNoise(np.zeros(9), np.full(9, noise))
    model = DDPG("AttentionPolicy", environment(), seed=0, action_noise=own, learning_starts=100)
    assert model.action_noise is own
    model.learn(20)
    assert (np.abs(stored(model, "actions")).max() < 0.05) == (noise == 0)


@ALGORITHMS
@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize(("scale", "penalty"), [(1.0, 0.0), (100.0, 0.0), (10.0, 0.5)])
def test_reward_scale_and_action_penalty_reach_the_replay_buffer(algorithm, count, scale, penalty):
    options = {"reward_scale": scale, "action_penalty": penalty, "noise": 0.5}
    model = algorithm("AttentionPolicy", environment(count), seed=0, **options)
    rewards = []
    model.learn(4 * HORIZON, callback=lambda local, _: rewards.append(local["rewards"].copy()) or True)
    squares = np.square(stored(model, "actions")).mean(1)
    assert squares.max() > 0.1
    assert np.abs(np.concatenate(rewards)).max() > 1e-3
    np.testing.assert_allclose(
        stored(model, "rewards"), scale * np.concatenate(rewards) - penalty * squares, rtol=1e-5, atol=1e-6
    )
    assert sum(e["r"] for e in model.ep_info_buffer) == pytest.approx(np.concatenate(rewards).sum(), abs=1e-4)


@ALGORITHMS
def test_it_learns_to_act_where_the_penalty_is_all_that_counts(algorithm):
    """A critic that learns c·mean(a²) moves the actor to the zero action."""
    options = {
        "reward_scale": 0.0,
        "action_penalty": 10.0,
        "noise": 0.5,
        "learning_rate": 1e-2,
        "gamma": 0.0,
        "batch_size": 64,
    }
    model = algorithm(
        "AttentionPolicy", environment(), seed=0, policy_kwargs={"initial_scale": 2.0, "net_arch": [64, 64]}, **options
    )
    before = np.abs(model.predict(states())[0]).mean()
    model.learn(300)
    assert before > 0.3
    assert np.abs(model.predict(states())[0]).mean() < 0.5 * before


@ALGORITHMS
def test_its_defaults_are_a_teachers(algorithm):
    model = algorithm("AttentionPolicy", environment())
    assert (model.gamma, model.reward_scale, model.action_penalty, model.noise) == (1.0, 100.0, 0.0, 0.1)


@ALGORITHMS
@POLICIES
def test_double_precision_environments_work(algorithm, policy, tmp_path):
    model = algorithm(policy, environment(dtype="float64"), seed=0, learning_starts=5, batch_size=4, buffer_size=50)
    model.learn(4 * HORIZON)
    model.save(tmp_path / "teacher")
    loaded = algorithm.load(tmp_path / "teacher")
    found, wanted = (teacher.predict(states(), deterministic=True)[0] for teacher in (loaded, model))
    np.testing.assert_array_equal(found, wanted)


@ALGORITHMS
def test_options_and_noise_survive_a_checkpoint(algorithm, tmp_path):
    model = algorithm(
        "AttentionPolicy", environment(), seed=0, noise=0.3, reward_scale=7.0, action_penalty=0.5,
        policy_kwargs={"keys": 4, "initial_scale": 0.1},
    )  # fmt: skip
    model.learn(HORIZON).save(tmp_path / "teacher")
    loaded = algorithm.load(tmp_path / "teacher", env=environment())
    assert (loaded.noise, loaded.reward_scale, loaded.action_penalty) == (0.3, 7.0, 0.5)
    assert loaded.actor.mu.query.out_features == 4
    loaded.learn(4 * HORIZON)
    assert stored(loaded, "actions").std() == pytest.approx(0.3, rel=0.3)


def test_a_checkpoint_holds_no_empty_part_of_the_replay_buffer(tmp_path):
    sizes = []
    for capacity in (50, 200_000):
        model = DDPG("AttentionPolicy", environment(), seed=0, buffer_size=capacity).learn(4 * HORIZON)
        model.save(tmp_path / "teacher")
        assert model.saved_transitions is None
        sizes.append((tmp_path / "teacher.zip").stat().st_size)
    assert sizes[1] < 1.1 * sizes[0]


def test_a_replay_buffer_is_saved_by_itself(tmp_path):
    model = DDPG("AttentionPolicy", environment(), seed=0, buffer_size=50).learn(4 * HORIZON)
    model.save_replay_buffer(tmp_path / "buffer")
    other = DDPG("AttentionPolicy", environment(), seed=1, buffer_size=50)
    other.load_replay_buffer(tmp_path / "buffer")
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        np.testing.assert_array_equal(stored(other, name), stored(model, name))
    assert (other.replay_buffer.pos, other.replay_buffer.full) == (4 * HORIZON, False)
    smaller = DDPG("AttentionPolicy", environment(), buffer_size=20)
    with pytest.raises(ValueError, match="holds a replay buffer of 50 steps of 1 environments"):
        smaller.load_replay_buffer(tmp_path / "buffer")
    (tmp_path / "buffer").write_bytes(b"")
    with pytest.raises(ValueError, match="buffer is empty"):
        other.load_replay_buffer(tmp_path / "buffer")


@ALGORITHMS
@pytest.mark.parametrize(("steps", "size"), [(4, 3), (12, 20)], ids=["smaller", "larger than a full one"])
def test_a_checkpoint_of_another_replay_buffer_is_refused_until_it_starts_anew(algorithm, steps, size, tmp_path):
    small = {"buffer_size": 10, "learning_starts": 4, "batch_size": 4}
    algorithm("AttentionPolicy", environment(), seed=0, **small).learn(steps).save(tmp_path / "teacher")
    loaded = algorithm.load(tmp_path / "teacher", env=environment(), buffer_size=size)
    with pytest.raises(ValueError, match=rf"steps of a replay buffer, found a buffer of {size} steps; load it without"):
        loaded.learn(8, reset_num_timesteps=False)
    assert loaded.learn(8).num_timesteps == 8


# --- SB3's own algorithms ---------------------------------------------------------------------------------------------

SHORT = {
    "DDPG": {"learning_starts": 5, "batch_size": 8, "buffer_size": 100},
    "TD3": {"learning_starts": 5, "batch_size": 8, "buffer_size": 100},
    "SAC": {"learning_starts": 5, "batch_size": 8, "buffer_size": 100},
    "PPO": {"n_steps": 8, "batch_size": 8, "n_epochs": 2},
    "A2C": {"n_steps": 8},
}


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("name", SHORT)
def test_sb3s_algorithms_train_unchanged(name, vector):
    if vector:
        env = VecMonitor(GymVecEnv(gym.make_vec("TeachDigits-v0", num_envs=2, horizon=HORIZON)))
    else:
        env = gym.make("TeachDigits-v0", horizon=HORIZON)
    algorithm = getattr(importlib.import_module("stable_baselines3"), name)
    kwargs = {} if name == "A2C" else {"policy_kwargs": {"net_arch": [16]}}
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **kwargs, **SHORT[name])
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(32)
    assert model.num_timesteps == 32
    assert any(not torch.equal(p, old) for p, old in zip(model.policy.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in model.policy.parameters())
    assert {e["l"] for e in model.ep_info_buffer} == {HORIZON}


@pytest.mark.parametrize(
    "option",
    [
        *({name: value} for name in ("noise", "action_penalty") for value in (-1.0, float("nan"), "0.1", True)),
        {"reward_scale": float("inf")},
        {"uniform_start": "no"},
    ],
    ids=str,
)
def test_options_of_another_kind_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be"):
        DDPG("AttentionPolicy", environment(), **option)
