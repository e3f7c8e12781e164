"""PPO as a teacher: what is its own; the contract of all teachers is in `tests/contracts/test_teachers.py`."""

from __future__ import annotations

import functools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import PPO
from meta import GymVecEnv
from meta.teachers.policies import Attention
from teachenv import Task, TeachEnv, TeachVectorEnv

HORIZON = 5


@functools.cache
def task() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(90) % 3
    inputs = rng.normal(size=(90, 5)) + rng.normal(size=(3, 5))[targets]
    return Task("vectors", "made-up", (inputs[:80], targets[:80]), (inputs[80:], targets[80:]), 3)


def environment(count: int | None = None, **changes: Any) -> TeachEnv | TeachVectorEnv:
    settings = {"task": task(), "horizon": HORIZON, "batch_size": 8, "dev_size": 24, **changes}
    return TeachEnv(**settings) if count is None else TeachVectorEnv(count, **settings)


def states(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).random((count, 6)).astype(np.float32)


class Toy(gym.Env[np.ndarray, np.ndarray]):
    """Four steps; the reward is minus the mean square of the action, which must lie in its space."""

    observation_space = spaces.Box(-1, 1, (4,))

    def __init__(self, actions: spaces.Space[Any]) -> None:
        self.action_space = actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action.astype(self.action_space.dtype))
        self.taken += 1
        return np.zeros(4, np.float32), -float(np.square(action).mean()), self.taken == 4, False, {}


@pytest.mark.parametrize("sde", [False, True])
def test_it_is_sb3s_algorithm_to_the_last_bit_where_no_student_is_trained(sde: bool) -> None:
    options: dict[str, Any] = {"seed": 0, "n_steps": 16, "batch_size": 8, "n_epochs": 2, "use_sde": sde}
    ours, theirs = (made("MlpPolicy", "Pendulum-v1", **options).learn(32) for made in (PPO, stable_baselines3.PPO))
    for name in ("gamma", "learning_rate", "device", "ent_coef"):
        assert getattr(ours, name) == getattr(theirs, name)
    wanted = theirs.policy.state_dict()
    assert ours.policy.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in ours.policy.state_dict().items())


@pytest.mark.parametrize("count", [None, 3])
def test_a_rollout_is_a_whole_training_of_each_student(count: int | None) -> None:
    for env in (environment(count), GymVecEnv(environment(count or 1))):
        model = PPO("AttentionPolicy", env)
        assert (model.n_steps, model.batch_size) == (HORIZON, HORIZON)
        assert (model.gamma, model.reward_scale, model.noise, model.learning_rate) == (1.0, 100.0, 0.1, 1e-3)
    given = PPO("AttentionPolicy", environment(count), n_steps=6, batch_size=3, gamma=0.5)
    assert (given.n_steps, given.batch_size, given.gamma) == (6, 3, 0.5)
    assert PPO("AttentionPolicy", environment(horizon=1)).n_steps == 2


def test_an_update_in_many_coordinates_ends_before_ratios_of_probabilities_overflow() -> None:
    steps: dict[str, Any] = {"learning_rate": 1.0, "noise": 0.01, "seed": 0}
    batch = gym.make_vec("TeachDigits-v0", num_envs=4, horizon=8, batch_size=8)
    model = PPO("AttentionPolicy", batch, **steps).learn(96)
    assert all(p.isfinite().all() for p in model.policy.parameters())


@pytest.mark.parametrize("policy", ["AttentionPolicy", "MlpPolicy"])
def test_its_actor_is_the_gradient_teachers_and_starts_near_the_neutral_action(policy: str) -> None:
    model = PPO(policy, environment(), seed=0, noise=0.2)
    assert isinstance(model.actor_network, Attention) == (policy == "AttentionPolicy")
    shapes = [tuple(p.shape) for p in model.actor_network.parameters() if p.dim() == 2]
    assert shapes == ([(10, 6), (9, 10)] if policy == "AttentionPolicy" else [(64, 6), (64, 64), (9, 64)])
    assert 0 < np.abs(model.predict(states(), deterministic=True)[0]).max() < 0.05
    drawn = np.arctanh(model.predict(states(2000))[0])
    assert drawn.std() == pytest.approx(0.2, rel=0.05)
    moved = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert moved == {id(p) for p in model.policy.parameters()}


@pytest.mark.parametrize(("scale", "penalty"), [(1.0, 0.0), (10.0, 0.5)])
def test_reward_scale_and_action_penalty_reach_the_rollout_buffer(scale: float, penalty: float) -> None:
    """Monitors add up the environment's own rewards."""
    model = PPO("AttentionPolicy", environment(2), seed=0, noise=0.5, reward_scale=scale, action_penalty=penalty)
    model.learn(2 * HORIZON)
    squares = np.square(model.rollout_buffer.actions).reshape(2 * HORIZON, 9).mean(1)
    assert squares.min() > 0.05
    true = sum(episode["r"] for episode in model.ep_info_buffer)
    assert abs(true) > 1e-3
    assert model.rollout_buffer.rewards.sum() == pytest.approx(scale * true - penalty * squares.sum(), rel=1e-4)


def test_it_learns_to_act_where_the_penalty_is_all_that_counts() -> None:
    options = {"reward_scale": 0.0, "action_penalty": 10.0, "noise": 0.3, "learning_rate": 1e-2, "gamma": 0.0}
    model = PPO(
        "AttentionPolicy", environment(8), seed=0, n_steps=16, batch_size=64, ent_coef=0.0,
        policy_kwargs={"initial_scale": 2.0}, **options,
    )  # fmt: skip
    before = np.abs(model.predict(states(), deterministic=True)[0]).mean()
    model.learn(640)
    assert before > 0.3
    assert np.abs(model.predict(states(), deterministic=True)[0]).mean() < 0.8 * before


def test_the_rewards_of_an_environment_that_normalises_them_are_left_in_size() -> None:
    env = VecNormalize(GymVecEnv(environment(2)), norm_obs=False, norm_reward=True)  # type: ignore[arg-type]
    assert PPO("AttentionPolicy", env).reward_scale == 1.0


SPACES = {
    "unequal bounds": spaces.Box(np.array([-1.0, 0.0, 2.0], np.float32), np.array([0.0, 5.0, 2.5], np.float32)),
    "float64": spaces.Box(-1, 1, (2, 3), np.float64),
    "one coordinate": spaces.Box(-2, 2, (1,)),
}


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_actions_stay_in_boxes_of_other_bounds_and_kinds(space: str, sde: bool) -> None:
    env = DummyVecEnv([lambda: Toy(SPACES[space])])
    model = PPO("AttentionPolicy", env, n_steps=8, batch_size=8, n_epochs=1, noise=2.0, use_sde=sde, seed=0).learn(16)
    assert SPACES[space].contains(model.predict(np.zeros(4, np.float32))[0].astype(SPACES[space].dtype))


def test_state_dependent_noise_begins_as_large_as_was_asked_for() -> None:
    model = PPO("MlpPolicy", Toy(spaces.Box(-1, 1, (3,))), use_sde=True, noise=0.4, seed=0,
                policy_kwargs={"initial_scale": 0.01}, n_steps=4, batch_size=4)  # fmt: skip
    features = torch.tensor([[1.0, -1.0, 1.0, -1.0]]).expand(4000, -1)  # a mean square of 1
    model.policy.reset_noise(4000)
    with torch.no_grad():
        drawn = model.policy(features)[0]
    assert torch.atanh(drawn).std().item() == pytest.approx(0.4, rel=0.1)
    given = PPO("MlpPolicy", environment(), policy_kwargs={"log_std_init": -1.0})
    assert given.policy.log_std.exp().mean().item() == pytest.approx(math.exp(-1.0))


@pytest.mark.parametrize(
    ("policy", "env", "options", "message"),
    [
        ("MlpPolicy", lambda: "CartPole-v1", {}, "expected actions in a Box, found Discrete"),
        ("MlpPolicy", environment, {"noise": 0.0}, "noise must be positive"),
        ("MlpPolicy", environment, {"action_penalty": -1.0}, "action_penalty must be a finite number of at least 0"),
        (stable_baselines3.ppo.MlpPolicy, environment, {"noise": 0.1}, "found ActorCriticPolicy; leave it out"),
    ],
)
def test_what_cannot_be_is_refused(policy: Any, env: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PPO(policy, env(), **options)
    assert "\n" not in str(caught.value)
