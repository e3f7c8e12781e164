"""A teacher that weighs samples by influence, on the distillation environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import meta
from meta.distillation.losses import soft_cross_entropy
from teachenv import TeachEnv

SMALL = {"horizon": 4, "batch_size": 6, "dev_size": 40}


def made(**settings: Any) -> TeachEnv:
    env = gym.make("TeachDistill-v0", **{**SMALL, **settings}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_what_is_shown_is_influence(temperature: float) -> None:
    """By the public function, on the networks themselves."""
    env = made(dtype="float64", momentum=0.9, loss_kwargs={"temperature": temperature, "student_labels": 0.2})
    wrapped = meta.InfluenceTeaching(env)
    wrapped.reset(seed=0)
    observation, *_ = wrapped.step(np.full(6, 0.5))
    pair: Any = env.dynamics.student.build()
    pair.load_state_dict(env.student.parameters)
    inputs, labels = env.dynamics.minibatch(env.episode, 1)
    taught = pair.teacher(inputs).detach()
    own = dict(pair.student.named_parameters())
    distance = soft_cross_entropy(taught, pair.student(inputs), temperature).mean()
    loss = 0.2 * nn.functional.cross_entropy(pair.student(inputs), labels) + 0.8 * distance
    gradient = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
    rate = env.dynamics.rate(1)
    after = {n: p.detach() - rate * (0.9 * env.student.slots[f"student.{n}"] + gradient[n]) for n, p in own.items()}

    def of_labels(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def of_teacher(model: nn.Module, batch: Any) -> torch.Tensor:
        return soft_cross_entropy(batch[1], model(batch[0]), temperature)

    v = meta.held_out_gradient(pair.student, of_labels, env.dynamics.dev(env.episode), after)
    expected = meta.influence(pair.student, of_teacher, (inputs, taught), v, method="per-sample")
    torch.testing.assert_close(wrapped.influence(), expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(observation, expected / expected.abs().max())


def test_observations_lie_in_their_space_and_end_in_zeros() -> None:
    wrapped = meta.InfluenceTeaching(made())
    observation, _ = wrapped.reset(seed=0)
    for _ in range(4):
        assert wrapped.observation_space.contains(observation)
        assert np.abs(observation).max() == 1
        observation, _, ended, _, _ = wrapped.step(np.zeros(6, np.float32))
    assert ended
    assert wrapped.observation_space.contains(observation)
    assert not observation.any()


def test_the_teacher_weighs_by_influence_and_survives_a_file(tmp_path: Path) -> None:
    env = made()
    teacher = meta.InfluenceTeacher("InfluencePolicy", env, policy_kwargs={"gain": 0.5}, seed=0)
    teacher.learn(4)
    observation, _ = meta.InfluenceTeaching(env).reset(seed=3)
    action, _ = teacher.predict(observation, deterministic=True)
    np.testing.assert_allclose(action, 0.5 * observation, rtol=1e-5)
    teacher.save(tmp_path / "teacher")
    again = meta.InfluenceTeacher.load(tmp_path / "teacher", env=env)
    assert np.array_equal(again.predict(observation)[0], action)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="loss='distillation'"):
        meta.InfluenceTeaching(gym.make("TeachDigits-v0", horizon=3, dev_size=50))
    with pytest.raises(ValueError, match="steps_per_action=1"):
        meta.InfluenceTeaching(made(steps_per_action=2))
    with pytest.raises(TypeError, match="TeachEnv"):
        meta.InfluenceTeaching(gym.make("CartPole-v1"))
