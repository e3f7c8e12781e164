"""Students that learn by reinforcement: their PPO is Stable-Baselines3's, and teachers learn to teach them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import meta
from agents import DDPG, SAC
from agents import PPO as PPOTeacher
from teachenv.rl import PHYSICS

SMALL: dict[str, Any] = {
    "horizon": 3,
    "copies": 2,
    "rollout_steps": 8,
    "epochs": 1,
    "batch_size": 16,
    "hidden": [8],
    "evaluation_episodes": 1,
}
NAMES = {"policy": "action_net", "value": "value_net"}


def as_sb3s(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our parameters by SB3's names."""
    named = {}
    for name, value in parameters.items():
        part, *rest = name.split(".")
        last = rest and f"{part}.{int(rest[0]) + 1}.weight" not in parameters
        if not rest:
            named[name] = value
        elif last:
            named[f"{NAMES[part]}.{rest[1]}"] = value
        else:
            named[f"mlp_extractor.{part}_net.{2 * int(rest[0])}.{rest[1]}"] = value
    return named


@pytest.mark.parametrize("task", PHYSICS)
def test_an_update_is_sb3s(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(PHYSICS[task]), "limit", 10)
    options = {**SMALL, "rollout_steps": 32, "batch_size": 64, "epochs": 3, "hidden": [16, 16], "dtype": "float64"}
    env: Any = gym.make("TeachControl-v0", task=task, **options).unwrapped
    env.reset(seed=0)
    student, dynamics, settings = env.student, env.dynamics, env.problem.settings
    rollout, _, _ = dynamics.collect(student, env.episode)
    assert (rollout.beyond != 0).any()

    theirs = PPO(
        "MlpPolicy", make_vec_env(task, 2), learning_rate=settings.learning_rate, n_steps=32, batch_size=64, n_epochs=3,
        gamma=settings.discount, gae_lambda=settings.trace, clip_range=settings.clip, ent_coef=settings.entropy,
        vf_coef=settings.value, policy_kwargs={"net_arch": [16, 16]}, device="cpu",
    )  # fmt: skip
    theirs.policy.load_state_dict(as_sb3s(student.parameters))
    theirs.policy.double()
    buffer = theirs.rollout_buffer
    buffer.reset()
    for t in range(32):
        # SB3 adds the value beyond the time limit to the reward.
        rewards = rollout.rewards[t] + settings.discount * rollout.beyond[t]
        buffer.add(
            rollout.observations[t].numpy(), rollout.actions[t].numpy().reshape(2, -1), rewards.numpy(),
            rollout.starts[t].numpy(), rollout.values[t], rollout.log_prob[t],
        )  # fmt: skip
    buffer.compute_returns_and_advantage(rollout.values[-1], rollout.starts[-1].numpy())
    ours = rollout.advantages(settings.discount, settings.trace)
    np.testing.assert_allclose(buffer.advantages, ours, rtol=1e-4, atol=1e-4)
    # SB3 keeps numbers in float32, and so does the policy that learns from them.
    theirs.policy.float()
    theirs._setup_learn(1)
    theirs.train()
    parameters = as_sb3s(dynamics.update(student, rollout, np.zeros(5), env.episode)[0])
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(value.double(), parameters[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("teacher", "options"),
    [
        (DDPG, {"learning_starts": 2, "batch_size": 4, "buffer_size": 20, "policy_kwargs": {"net_arch": [8]}}),
        (SAC, {"learning_starts": 2, "batch_size": 4, "buffer_size": 20, "policy_kwargs": {"net_arch": [8]}}),
        (PPOTeacher, {"n_epochs": 1}),
        (meta.EvolutionStrategies, {"sigma": 0.5}),
    ],
)
def test_teachers_learn_and_go_on_from_a_file_to_the_bit(teacher: Any, options: dict[str, Any], tmp_path: Any) -> None:
    def make() -> Any:
        return gym.make("TeachControl-v0", **SMALL)

    def start() -> Any:
        return teacher("AttentionPolicy", make(), seed=0, **options)

    total = 12
    whole = start()
    before = {name: value.clone() for name, value in whole.policy.state_dict().items()}
    whole.learn(total)
    after = whole.policy.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in after)

    halted = start().learn(total, callback=lambda local, _: local["self"].num_timesteps < total / 2)
    halted.save(tmp_path / "teacher")
    again = teacher.load(tmp_path / "teacher", env=make())
    again.learn(total - again.num_timesteps, reset_num_timesteps=False)
    for name, value in again.policy.state_dict().items():
        assert torch.equal(value, after[name]), name


def test_rl_teachers_have_a_teachers_defaults() -> None:
    model = DDPG("AttentionPolicy", gym.make("TeachControl-v0", **SMALL))
    assert (model.gamma, model.reward_scale, model.uniform_start, model.noise) == (1.0, 100.0, False, 0.1)
    assert PPOTeacher("AttentionPolicy", gym.make("TeachControl-v0", **SMALL)).n_steps == 3
