"""Joint distillation: the return of a pair of networks is differentiated through both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import agents
import meta
from agents.replay import ReplayTeacher
from meta.hypergradients.memory_policies import MEMORY_POLICIES
from teachenv import TeachEnv

SMALL = {"horizon": 4, "batch_size": 6, "dev_size": 40, "dtype": "float64", "learning_rate": 0.3}
OPTIMIZERS = (
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.0},
    {"momentum": 0.9, "nesterov": True},
    {"optimizer": "adamw", "learning_rate": 0.01, "momentum": 0.0},
)


def made(**settings: Any) -> TeachEnv:
    env = gym.make("TeachDistill-v0", **{**SMALL, **settings}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


def actions(env: TeachEnv, seed: int = 1) -> np.ndarray:
    shape = env.problem.actions, *(env.action_space.shape or ())
    return np.random.default_rng(seed).uniform(-0.8, 0.8, shape)


def played(env: Any, given: np.ndarray) -> tuple[float, Any]:
    """(Return, last info) of an episode."""
    env.reset(seed=5)
    total, info = 0.0, None
    for action in given:
        _, reward, _, _, info = env.step(action)
        total += reward
    return total, info


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=lambda s: "-".join(map(str, s)))
@pytest.mark.parametrize("per_action", [1, 2])
def test_the_action_gradient_is_the_slope_of_the_return(settings: dict[str, Any], per_action: int) -> None:
    settings = {**settings, "steps_per_action": per_action}
    env = meta.ActionGradient(made(**settings), "rmd")
    given, h = actions(env.unwrapped), 1e-5  # type: ignore[arg-type]
    gradient = played(env, given)[1]["action_gradient"]
    assert gradient.shape == given.shape
    for t, i in [(0, 0), (1, 3), (len(given) - 1, 5)]:
        moved = []
        for side in (h, -h):
            other = given.copy()
            other[t, i] += side
            moved.append(played(made(**settings), other)[0])
        assert (moved[0] - moved[1]) / (2 * h) == pytest.approx(gradient[t, i], rel=1e-5, abs=1e-10)
    assert np.abs(gradient).max() > 1e-6


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=lambda s: "-".join(map(str, s)))
def test_the_action_gradient_is_that_of_unrolled_autograd(settings: dict[str, Any]) -> None:
    env = made(**settings)
    wrapped = meta.ActionGradient(env, "rmd")
    given = actions(env)
    gradient = played(wrapped, given)[1]["action_gradient"]
    twin = made(**settings)
    twin.reset(seed=5)
    dynamics, episode = twin.dynamics, twin.episode
    leaves = torch.tensor(given, requires_grad=True)
    family: Any = dynamics.loss
    parameters, slots = dict(twin.student.parameters), dict(twin.student.slots)
    for t in range(len(given)):
        inputs, targets = dynamics.minibatch(episode, t)
        for prefix in ("teacher.", "student."):
            # Copies: a gradient is a partial derivative, though one network depends on where the other one was.
            values = {n: p.clone() if p.requires_grad else p.clone().requires_grad_() for n, p in parameters.items()}
            prediction, _ = dynamics.student(values, twin.student.buffers, inputs, training=True, differentiable=True)
            loss = (family.of_teacher if prefix == "teacher." else family)(leaves[t], prediction, targets)
            own = {n: p for n, p in values.items() if n.startswith(prefix)}
            found = torch.autograd.grad(loss, list(own.values()), create_graph=True)
            mine = {n: s for n, s in slots.items() if n.rpartition(":")[2] in own}
            rate = dynamics.rate(t)
            stepped, fresh = dynamics.optimizer.update(own, dict(zip(own, found, strict=True)), mine, rate, t)
            parameters, slots = values | stepped, slots | fresh
    dev, labels = dynamics.dev(episode)
    outputs = dynamics.student(parameters, twin.student.buffers, dev, training=False)[0].outputs
    objective = -F.cross_entropy(outputs[:, 10:], labels)
    (expected,) = torch.autograd.grad(objective, leaves)
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *((method, settings) for method in ("finite-difference", "forward") for settings in OPTIMIZERS[:2]),
        # Where a gradient is almost zero, Adam's reverse rule is steep, and rounding shows in differences.
        ("forward", OPTIMIZERS[3]),
    ],
)
def test_other_methods_agree(method: str, settings: dict[str, Any]) -> None:
    settings = {**settings, "horizon": 2, "batch_size": 3}
    given = actions(made(**settings))
    exact, other = (
        played(meta.ActionGradient(made(**settings), name), given)[1]["action_gradient"] for name in ("rmd", method)
    )
    np.testing.assert_allclose(other, exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("memory", ["all", *(name for name, p in MEMORY_POLICIES.items() if p.spacing(1)), 2])
def test_memory_policies_agree(memory: Any) -> None:
    given = actions(made())
    one, other = (
        played(meta.ActionGradient(made(), "rmd", m), given)[1]["action_gradient"] for m in ("states", memory)
    )
    np.testing.assert_allclose(other, one, rtol=1e-12)


@pytest.mark.parametrize("path", ["vmap", "loop"])
def test_a_batch_of_pairs_is_as_many_single_ones(path: str) -> None:
    many = gym.make_vec("TeachDistill-v0", num_envs=2, path=path, **SMALL).unwrapped
    wrapped = meta.VectorActionGradient(many, "rmd")  # type: ignore[arg-type]
    wrapped.reset(seed=5)
    given = np.stack([actions(made(), seed) for seed in (1, 2)], 1)
    for action in given:
        _, rewards, _, _, infos = wrapped.step(action)
    for i in range(2):
        env = meta.ActionGradient(made(), "rmd")
        env.reset(seed=5 + i)
        for action in given[:, i]:
            _, reward, _, _, info = env.step(action)
        assert rewards[i] == pytest.approx(reward, rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(infos["action_gradient"][i], info["action_gradient"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("policy", ["AttentionPolicy", "SamplePolicy"])
def test_gradient_and_rl_teachers_learn_on_it(policy: str, tmp_path: Path) -> None:
    env = made(dtype="float32")
    for kind in (meta.RMD, agents.DDPG, agents.TD3, agents.SAC, agents.PPO):
        options = {"learning_starts": 4, "batch_size": 4} if issubclass(kind, ReplayTeacher) else {}
        teacher: Any = kind(policy, env, seed=0, **options)
        before = [p.detach().clone() for p in teacher.actor_network.parameters()]
        teacher.learn(8)
        assert any((p != old).any() for p, old in zip(teacher.actor_network.parameters(), before, strict=True))
        observation, _ = env.reset(seed=0)
        action, _ = teacher.predict(observation, deterministic=True)
        env.step(action)
        teacher.save(tmp_path / "teacher")
        again, _ = kind.load(tmp_path / "teacher").predict(observation, deterministic=True)
        assert np.array_equal(again, action)
