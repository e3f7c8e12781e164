"""L2RW's weights, and the look ahead that they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import meta
from meta.hypergradients.look_ahead import likelihood, look_ahead
from teachenv import TeachEnv, TeachVectorEnv

NORMALISED = {"name": "sample-weights", "normalise": True}
SMALL: dict[str, Any] = {"horizon": 4, "batch_size": 6, "dev_size": 40, "dev_measured": 30, "loss": NORMALISED}


class Normed(nn.Module):
    """With batch statistics, on which every sample of a minibatch depends."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 10))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.body(inputs)
        return outputs


def made(**settings: Any) -> TeachEnv:
    env = gym.make("TeachDigits-v0", **{**SMALL, **settings}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


def unrolled(env: TeachEnv, weights_of: Any, at: torch.Tensor) -> torch.Tensor:
    """The derivative of the dev loss after a plain step, by autograd through the step of an ordinary module."""
    step = env.student.step
    network = env.dynamics.student.build()
    state = dict(env.student.parameters) | dict(env.student.buffers)
    parameters = {name: value.clone().requires_grad_() for name, value in env.student.parameters.items()}
    at = at.clone().requires_grad_()
    inputs, labels = env.dynamics.minibatch(env.episode, step)
    kept = {name: value.clone() for name, value in env.student.buffers.items()}
    outputs = functional_call(network.train(), kept | parameters, (inputs,))
    loss = (weights_of(at) * nn.functional.cross_entropy(outputs, labels, reduction="none")).mean()
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    rate = env.dynamics.rate(step)
    ahead = {name: p - rate * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}
    inputs, labels = env.dynamics.dev(env.episode)
    assert len(labels) == 30
    dev = nn.functional.cross_entropy(functional_call(network.eval(), state | kept | ahead, (inputs,)), labels)
    return torch.autograd.grad(dev, at)[0]


@pytest.mark.parametrize("student", ["mlp", Normed])
def test_weights_are_those_of_autograd_through_an_unrolled_step(student: Any) -> None:
    env = made(student=student, dtype="float64", momentum=0.9, weight_decay=0.1, lr_schedule="cosine")
    wrapped = meta.Reweighting(env)
    wrapped.reset(seed=0)
    observation, *_ = wrapped.step(np.full(6, 0.5))
    of_weights = -unrolled(env, lambda weights: weights, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(wrapped.influence(), of_weights, rtol=1e-9, atol=1e-14)
    action, _ = meta.L2RW("L2RWPolicy", wrapped).predict(observation)
    weights = of_weights.clamp(min=0) / of_weights.clamp(min=0).sum()
    assert (weights == 0).any()
    assert (weights > 0).sum() > 1
    # What the student's loss makes of the action: weights of mean 1.
    np.testing.assert_allclose(env.dynamics.loss.coefficients(torch.as_tensor(action))[0] / 6, weights, atol=1e-9)


@pytest.mark.parametrize("student", ["mlp", Normed])
def test_looking_ahead_is_autograd_through_an_unrolled_step_at_any_action(student: Any) -> None:
    env = made(student=student, dtype="float64", momentum=0.9, weight_decay=0.1)
    env.reset(seed=1)
    env.step(np.full(6, 0.2))
    action = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, 6))
    found = look_ahead(env.dynamics, likelihood(env.problem), env.student, env.episode, action)
    expected = unrolled(env, lambda a: (1 + a) / (1 + a).mean(), action)
    torch.testing.assert_close(found.action, expected, rtol=1e-9, atol=1e-14)
    envs = TeachVectorEnv(2, **{"student": student, "dtype": "float64", "momentum": 0.9, "weight_decay": 0.1, **SMALL})
    envs.reset(seed=[1, 2])
    envs.step(np.full((2, 6), 0.2))
    of_two = look_ahead(
        envs.dynamics, likelihood(envs.problem), envs.students, envs.episodes, torch.stack([action, action])
    )
    torch.testing.assert_close(of_two.action[0], found.action, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(of_two.error[0], found.error)
    assert not torch.allclose(of_two.action[1], found.action)


def test_the_zero_action_leaves_a_weight_for_each_sample_of_the_pool_at_its_place() -> None:
    env = made(loss="data-weights", dtype="float64")
    env.reset(seed=0)
    action = env.problem.neutral_action
    found = look_ahead(env.dynamics, likelihood(env.problem), env.student, env.episode, action).action
    expected = unrolled(env, lambda w: 1 + w, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(found[env.episode.batches[0]], expected, rtol=1e-9, atol=1e-14)
    assert found.count_nonzero() == 6


def test_samples_with_wrong_labels_get_smaller_weights() -> None:
    env = made(label_noise=0.4, dev_noise=False, horizon=60, batch_size=32, dev_size=200, dev_measured=None)
    clean = made(pool_size=None).task.pool[1]
    wrapped = meta.Reweighting(env)
    teacher = meta.L2RW("L2RWPolicy", wrapped)
    observation, _ = wrapped.reset(seed=0)
    of_right, of_wrong, ended, t = list[float](), list[float](), False, 0
    while not ended:
        action, _ = teacher.predict(observation)
        weights = env.dynamics.loss.coefficients(torch.as_tensor(action))[0].numpy()
        batch = env.episode.batches[t]
        is_wrong = (env.task.pool[1][batch] != clean[batch]).numpy()
        of_wrong += weights[is_wrong].tolist()
        of_right += weights[~is_wrong].tolist()
        observation, _, ended, _, _ = wrapped.step(action)
        t += 1
    assert np.mean(of_wrong) < 0.6 * np.mean(of_right)


def test_the_teacher_survives_a_file(tmp_path: Path) -> None:
    env = made()
    teacher = meta.L2RW("L2RWPolicy", env, seed=0).learn(4)
    observation, _ = meta.Reweighting(env).reset(seed=3)
    assert meta.Reweighting(env).observation_space.contains(observation)
    action, _ = teacher.predict(observation, deterministic=True)
    np.testing.assert_allclose(action, 2 * observation.clip(0) - 1, rtol=1e-5)
    teacher.save(tmp_path / "teacher")
    again = meta.L2RW.load(tmp_path / "teacher", env=env)
    assert np.array_equal(again.predict(observation)[0], action)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"need loss='sample-weights' with scale 1, found loss='bilinear'.*normalise"):
        meta.Reweighting(made(loss="bilinear"))
    with pytest.raises(ValueError, match="with scale 1"):
        meta.Reweighting(made(loss={"name": "sample-weights", "scale": 0.5}))
    with pytest.raises(ValueError, match="steps_per_action=1"):
        meta.Reweighting(made(steps_per_action=2))
    with pytest.raises(TypeError, match="TeachEnv"):
        meta.Reweighting(gym.make("CartPole-v1"))
