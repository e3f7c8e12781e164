"""The distillation environment: what is particular to it; the contracts of all environments are tested over all ids."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from meta.distillation import Batch, DistillationSettings, ProKT
from teachenv import TeachEnv

SMALL = {"horizon": 5, "batch_size": 8, "dev_size": 100}


def made(**settings: Any) -> TeachEnv:
    env = gym.make("TeachDistill-v0", **{**SMALL, **settings}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


def neutral(env: TeachEnv) -> np.ndarray:
    return np.zeros(env.action_space.shape or (), dtype=env.action_space.dtype)


class Network(nn.Module):
    """One half of a pair, alone."""

    def __init__(self, pair: nn.Module, name: str) -> None:
        super().__init__()
        self.network = getattr(pair, name)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(inputs)
        return logits


def test_the_zero_action_is_online_distillation() -> None:
    """By another implementation: the trainer of LGTM's baselines, whose ProKT is the same without weights."""
    env = made(
        dtype="float64", optimizer="adamw", learning_rate=0.01, momentum=0.0, lr_schedule="linear",
        teacher_learning_rate=0.02, loss_kwargs={"teacher_labels": 0.6, "student_labels": 0.3},
    )  # fmt: skip
    env.reset(seed=0)
    pair = env.dynamics.student.build()
    pair.load_state_dict(env.student.parameters)
    settings = DistillationSettings(5, 0.01, 0.02, student_labels=0.3, teacher_labels=0.6)
    trainer = ProKT(Network(pair, "teacher"), Network(pair, "student"), settings)
    for t in range(5):
        trainer.step(Batch(*env.dynamics.minibatch(env.episode, t)))
        env.step(neutral(env))
    for name, p in pair.named_parameters():
        torch.testing.assert_close(env.student.parameters[name], p.detach(), rtol=1e-10, atol=1e-12)


def test_rewards_are_the_fall_of_the_students_loss() -> None:
    env = made()
    _, info = env.reset(seed=0)
    total, first = 0.0, info["objective"]
    rng = np.random.default_rng(0)
    for _ in range(5):
        _, reward, _, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        total += reward
    assert total == pytest.approx(info["objective"] - first)
    inputs, targets = env.dynamics.dev(env.episode)
    outputs = env.dynamics.student(env.student.parameters, env.student.buffers, inputs, training=False)[0].outputs
    assert info["objective"] == pytest.approx(-float(nn.functional.cross_entropy(outputs[:, 10:], targets)), rel=1e-5)


def test_what_is_observed_of_the_next_minibatch() -> None:
    env = made(dtype="float64")
    env.reset(seed=0)
    observation, *_ = env.step(neutral(env))
    seen = dict(zip(env.OBSERVATION_FIELDS, observation, strict=True))
    inputs, targets = env.dynamics.minibatch(env.episode, 1)
    outputs = env.dynamics.student(env.student.parameters, env.student.buffers, inputs, training=False)[0].outputs
    teacher, student = (torch.distributions.Categorical(logits=z) for z in outputs.chunk(2, -1))
    expected = {
        "teacher_loss": 1 - teacher.log_prob(targets).exp(),
        "student_loss": 1 - student.log_prob(targets).exp(),
        "entropy_gap": 0.5 + (student.entropy() - teacher.entropy()) / (2 * np.log(10)),
        "agreement": (teacher.logits.argmax(-1) == student.logits.argmax(-1)).double(),
    }
    for name, values in expected.items():
        assert seen[name] == pytest.approx(float(values.mean()))
        assert [seen[f"{name}_{i}"] for i in range(8)] == pytest.approx(values.tolist())


def test_a_weight_is_its_samples_part_of_the_teachers_gradient() -> None:
    """Weight zero on all samples and no labels: the teacher stays where it was, and the student learns on."""
    env = made(loss_kwargs={"teacher_labels": 0.0}, momentum=0.0)
    env.reset(seed=0)
    before = env.student.parameters
    env.step(neutral(env) - 1)
    for name, p in env.student.parameters.items():
        assert torch.equal(p, before[name]) == name.startswith("teacher.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": None}, "go together"),
        ({"loss": "bilinear"}, "go together"),
        ({"warm_start": 3}, "warm_start"),
        ({"teacher_learning_rate": -1.0}, "teacher_learning_rate"),
        ({"loss_kwargs": {"scale": 0.0}}, "scale"),
        ({"loss_kwargs": {"teacher_labels": 2.0}}, "teacher_labels"),
        ({"teacher": lambda: nn.Linear(64, 9)}, "teacher and student together have outputs of shape"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_without_assertions_a_batch_trains_to_the_same_numbers() -> None:
    """PyTorch has fewer batching rules then, and warns."""
    # Old releases of what is imported warn at their import.
    code = "import warnings, test_joint; warnings.simplefilter('error'); print(test_joint.batched_rewards())"
    done = subprocess.run([sys.executable, "-O", "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(batched_rewards())


def batched_rewards() -> list[float]:
    envs = gym.make_vec("TeachDistill-v0", num_envs=2, path="vmap", **SMALL)
    envs.reset(seed=0)
    rewards: list[float] = []
    for _ in range(2):
        rewards += envs.step(np.full(envs.action_space.shape or (), 0.5, dtype=np.float32))[1].tolist()
    return rewards
