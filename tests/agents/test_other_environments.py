"""DDPG, TD3 and SAC where no student is trained, and with every option of SB3's."""

from __future__ import annotations

import inspect
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import DDPG, SAC, TD3
from meta.teachers.policies import Attention

ALGORITHMS = pytest.mark.parametrize("algorithm", [DDPG, TD3, SAC])
POLICIES = pytest.mark.parametrize("policy", ["AttentionPolicy", "MlpPolicy"])
SMALL: dict[str, Any] = {
    "seed": 0,
    "learning_starts": 5,
    "batch_size": 4,
    "buffer_size": 50,
    "policy_kwargs": {"net_arch": [8]},
}
SHAPE = (2, 3)


class Toy(gym.Env[np.ndarray, np.ndarray]):
    """Four steps; the reward is minus the mean square of the action, which must lie in its space."""

    def __init__(self, actions: spaces.Space[Any] | None = None, observations: spaces.Space[Any] | None = None) -> None:
        self.action_space = spaces.Box(-1, 1, SHAPE) if actions is None else actions
        self.observation_space = spaces.Box(-1, 1, (4,)) if observations is None else observations
        self.taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.taken = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action))
        self.taken += 1
        return self.observation_space.sample(), -float(np.square(action).mean()), False, self.taken == 4, {}


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.policy.state_dict().items() if "_target" not in name}


@ALGORITHMS
def test_it_is_sb3s_algorithm_to_the_last_bit(algorithm: Any) -> None:
    sb3s = getattr(stable_baselines3, algorithm.__name__)
    options = {"seed": 0, "learning_starts": 10, "batch_size": 4, "policy_kwargs": {"net_arch": [8]}}
    # SB3's default device is the accelerator, if there is one, and its default buffer a million transitions.
    ours, theirs = (made("MlpPolicy", "Pendulum-v1", **options).learn(24) for made in (algorithm, sb3s))
    for name in ("gamma", "buffer_size", "learning_rate", "device", "action_noise", "learning_starts"):
        assert getattr(ours, name) == getattr(theirs, name)
    wanted = parameters(theirs)
    assert {name for name, value in parameters(ours).items() if torch.equal(value, wanted[name])} == set(wanted)


@ALGORITHMS
def test_what_is_given_holds_there_too(algorithm: Any) -> None:
    model = algorithm(
        "MlpPolicy", Toy(), learning_rate=0.1, noise=0.5, reward_scale=3.0, action_penalty=2.0, uniform_start=False,
        gamma=0.5, device="cpu", **SMALL | {"buffer_size": 400, "learning_starts": 400},
    )  # fmt: skip
    assert (model.gamma, model.learning_rate, model.noise) == (0.5, 0.1, 0.5)
    rewards: list[float] = []
    model.learn(300, callback=lambda local, _: rewards.extend(local["rewards"]) or True)
    actions = model.replay_buffer.actions[:300].reshape(300, -1)
    if algorithm is not SAC:
        assert actions.std() == pytest.approx(0.5, rel=0.15)
    shaped = 3.0 * np.array(rewards) - 2.0 * np.square(actions).mean(1)
    np.testing.assert_allclose(model.replay_buffer.rewards[:300, 0], shaped, rtol=1e-4, atol=1e-6)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "action_noise": {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(SHAPE), np.ones(SHAPE))},
    "n_steps": {"n_steps": 3},
    "episodes": {"train_freq": (1, "episode"), "gradient_steps": -1},
    "saved memory": {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    "networks": {
        "policy_kwargs": {
            "share_features_extractor": True,
            "net_arch": {"pi": [5], "qf": [6]},
            "activation_fn": torch.nn.Tanh,
        }
    },
    "no layers": {"policy_kwargs": {"net_arch": []}},
    "images": {"policy_kwargs": {"normalize_images": False, "net_arch": [8]}},
    "several environments": {"train_freq": (3, "step"), "gradient_steps": -1},
    "entropy": {"ent_coef": "auto_0.1", "target_update_interval": 2, "target_entropy": -1.0},
    "target noise": {"target_policy_noise": 0.1, "target_noise_clip": 0.2, "policy_delay": 1},
    "gsde": {"use_sde": True},
    "gsde, warm": {
        "use_sde": True,
        "use_sde_at_warmup": True,
        "sde_sample_freq": 2,
        "noise": 0.2,
        "policy_kwargs": {"use_expln": True, "net_arch": []},
    },
}
ONLY = {"entropy": SAC, "gsde": SAC, "gsde, warm": SAC, "target noise": TD3}


@pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored")  # SB3 says so, falsely, when it loads such a model
@pytest.mark.parametrize(
    ("algorithm", "options"), [(a, o) for o in OPTIONS for a in (DDPG, TD3, SAC) if ONLY.get(o, a) is a]
)
@POLICIES
def test_it_trains_and_its_parts_can_be_saved_alone(policy: str, algorithm: Any, options: str, tmp_path: Any) -> None:
    if options == "n_steps" and "n_steps" not in inspect.signature(stable_baselines3.SAC).parameters:
        pytest.skip("SB3 has it from 2.7 on")
    env = DummyVecEnv([lambda: Monitor(Toy())] * (2 if options == "several environments" else 1))
    model = algorithm(policy, env, **SMALL | OPTIONS[options])
    before = {name: value.clone() for name, value in parameters(model).items()}
    model.learn(12)
    assert any(not torch.equal(value, before[name]) for name, value in parameters(model).items() if "mu" in name)
    states = np.random.default_rng(0).uniform(-1, 1, (6, 4)).astype(np.float32)
    wanted = model.predict(states, deterministic=True)[0]
    assert wanted.shape == (6, *SHAPE)
    model.save(tmp_path / "model.zip")
    loaded = [algorithm.load(tmp_path / "model.zip")]
    for part in (model.actor, model.policy):
        part.save(tmp_path / "part")
        loaded.append(type(part).load(tmp_path / "part", device="cpu"))
    for each in loaded:
        np.testing.assert_array_equal(each.predict(states, deterministic=True)[0], wanted)
    assert np.isfinite(evaluate_policy(model, env, 2)[0])


SPACES = {
    "unequal bounds": spaces.Box(np.array([-1.0, 0.0, 2.0], np.float32), np.array([0.0, 5.0, 2.5], np.float32)),
    "float64": spaces.Box(-1, 1, SHAPE, np.float64),
    "one number": spaces.Box(-2, 2, ()),
    "one coordinate": spaces.Box(-2, 2, (1,)),
}


@ALGORITHMS
@POLICIES
@pytest.mark.parametrize("space", SPACES)
def test_boxes_of_other_bounds_and_kinds(algorithm: Any, policy: str, space: str) -> None:
    seen = spaces.Box(-1, 1, (4,), np.float64) if space == "float64" else None
    model = algorithm(policy, Toy(SPACES[space], seen), **SMALL).learn(8)
    action = np.asarray(model.predict(model.observation_space.sample())[0])
    assert SPACES[space].contains(action.astype(SPACES[space].dtype))


@ALGORITHMS
@pytest.mark.parametrize("policy", ["AttentionPolicy", "MlpPolicy", "MultiInputPolicy"])
def test_observations_by_name_and_goals_put_in_afterwards(algorithm: Any, policy: str) -> None:
    env = BitFlippingEnv(3, continuous=True, max_steps=3)
    model = algorithm(policy, env, replay_buffer_class=HerReplayBuffer, **SMALL).learn(12)
    assert isinstance(model.actor.mu, Attention) == (policy == "AttentionPolicy")
    assert env.action_space.contains(model.predict(env.observation_space.sample())[0])


@pytest.mark.parametrize("norm_reward", [False, True])
def test_rewards_are_scaled_before_they_are_normalised(norm_reward: bool) -> None:
    env = VecNormalize(DummyVecEnv([Toy]), norm_reward=norm_reward)
    model = DDPG("AttentionPolicy", env, noise=0.5, reward_scale=3.0, action_penalty=1.0, **SMALL).learn(12)
    squares = np.square(model.replay_buffer.actions[:12, 0]).mean(1)
    np.testing.assert_allclose(model.replay_buffer.rewards[:12, 0], -4.0 * squares, rtol=1e-5)


@POLICIES
@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_state_dependent_noise_begins_as_large_as_was_asked_for(policy: str, noise: float) -> None:
    model = SAC(policy, Toy(), use_sde=True, noise=noise, policy_kwargs={"initial_scale": 0.01}, seed=0)
    states = torch.tensor([[1.0, -1.0, 1.0, -1.0]]).expand(4000, -1)  # features with a mean square of 1
    model.actor.reset_noise(4000)
    with torch.no_grad():
        assert torch.atanh(model.actor(states)).std().item() == pytest.approx(noise, rel=0.1)
    given = SAC(policy, Toy(), use_sde=True, policy_kwargs={"log_std_init": -1.0}, seed=0)
    assert given.actor.get_std().mean().item() == pytest.approx(math.exp(-1.0))


@ALGORITHMS
def test_activations_are_the_actors_too(algorithm: Any) -> None:
    options = {"activation_fn": torch.nn.ELU, "initial_scale": 0.1, "net_arch": [4]}
    model = algorithm("MlpPolicy", Toy(), policy_kwargs=options, seed=0)
    kinds = {type(module) for module in model.actor.mu.modules()}
    assert torch.nn.ELU in kinds
    assert torch.nn.ReLU not in kinds


@ALGORITHMS
def test_a_users_options_are_left_as_they_are(algorithm: Any) -> None:
    options = {"net_arch": [4]}
    algorithm("MlpPolicy", Toy(), policy_kwargs=options)
    assert options == {"net_arch": [4]}


@ALGORITHMS
@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        ("CartPole-v1", {}, "expected actions in a Box, found Discrete"),
        (Toy(spaces.Box(-np.inf, 1, (2,))), {}, "expected actions between finite bounds, found Box"),
        (Toy(), {"action_penalty": -1.0}, "action_penalty must be a finite number of at least 0, found -1.0"),
        (Toy(), {"noise": -0.1}, "noise must be a finite number of at least 0, found -0.1"),
    ],
)
def test_what_cannot_be_is_refused(algorithm: Any, env: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        algorithm("MlpPolicy", env, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "noise", "message"),
    [("MlpPolicy", 0.0, "must be positive"), (stable_baselines3.sac.MlpPolicy, 0.1, "found SACPolicy; leave it out")],
)
def test_noise_that_sac_cannot_have_is_refused(policy: Any, noise: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAC(policy, Toy(), noise=noise)
    assert SAC(stable_baselines3.sac.MlpPolicy, Toy(), **SMALL).learn(6).noise is None
