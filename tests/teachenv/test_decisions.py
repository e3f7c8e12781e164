"""Environments whose students make many decisions a sample: their gradients, their batches, and their errors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import meta
from teachenv import TeachEnv
from teachenv.tasks.decisions import SingleDecisions

pytestmark = pytest.mark.usefixtures("few_scenes")

CASES: dict[str, dict[str, Any]] = {
    "TeachSegmentation-v0 fcn": {"task_kwargs": {"image_size": (24, 24)}},
    "TeachSegmentation-v0 deeplab": {"task_kwargs": {"image_size": (24, 24)}, "student": "deeplab"},
    "TeachDetection-v0 ssd": {"task_kwargs": {"image_size": 32}, "learning_rate": 0.02},
}


def settings_of(case: str) -> dict[str, Any]:
    small = {"pool_size": 30, "dev_size": 10, "batch_size": 4, "horizon": 2, "dtype": "float64"}
    return {"student_kwargs": {"width": 2}, **small, **CASES[case]}


def made(case: str, **settings: Any) -> TeachEnv:
    env = gym.make(case.split()[0], **settings_of(case), **settings).unwrapped
    assert isinstance(env, TeachEnv)
    return env


def test_the_margin_error_is_that_of_the_released_code() -> None:
    """2σ(k(max_j p_j − p_y)) − 1 with k = 1/τ: nothing where the label's class is the likeliest."""
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(4), size=9), np.arange(9) % 4
    lead = p.max(1) - p[np.arange(9), y]
    expected = (2 / (1 + np.exp(-50 * lead)) - 1).mean()
    measure = SingleDecisions().judged_by(4, 0.02, "margin")
    logits, labels = torch.log(torch.from_numpy(p)), torch.from_numpy(y)
    assert float(measure.objective(logits, labels)) == pytest.approx(-expected, abs=1e-12)
    right = labels == logits.argmax(1)
    assert float(measure.objective(logits[right], labels[right])) == 0.0
    assert float(measure.score(logits, labels)) == pytest.approx(float(right.double().mean()))


@pytest.mark.parametrize("objective", ["accuracy", "likelihood", "margin"])
@pytest.mark.parametrize("case", CASES)
def test_the_action_gradient_is_that_of_differences(case: str, objective: str) -> None:
    rng = np.random.default_rng(0)
    actions, direction = rng.uniform(-0.3, 0.3, (2, 16)), rng.uniform(-1, 1, (2, 16))
    wrapped = meta.ActionGradient(made(case, objective=objective))

    def final(actions: np.ndarray) -> dict[str, Any]:
        wrapped.reset(seed=0)
        for action in actions:
            *_, info = wrapped.step(action)
        return info

    gradient = final(actions)["action_gradient"]
    step = 1e-7  # short: ReLUs
    ahead, behind = (final(actions + sign * step * direction)["objective"] for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    assert abs(slope) > 1e-6
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_a_vector_environment_is_as_many_environments(case: str) -> None:
    several = gym.make_vec(case.split()[0], num_envs=2, **{**settings_of(case), "horizon": 3})
    several.reset(seed=[3, 4])
    action = np.random.default_rng(0).uniform(-1, 1, (2, 16))
    observations, rewards, *_ = several.step(action)
    found = several.unwrapped.evaluate("test")  # type: ignore[attr-defined]
    for i, seed in enumerate((3, 4)):
        env = made(case)
        env.reset(seed=seed)
        observation, reward, *_ = env.step(action[i])
        # Progress, the first field, is counted in steps of the horizon.
        np.testing.assert_allclose(observations[i][1:], observation[1:], rtol=1e-6, atol=1e-9)
        assert rewards[i] == pytest.approx(reward, abs=1e-9)
        assert {name: float(value[i]) for name, value in found.items()} == pytest.approx(env.evaluate("test"), abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_what_is_of_samples_with_one_label_refuses_them(case: str) -> None:
    with pytest.raises(ValueError, match="is not classification"):
        meta.DataTeaching(made(case, loss="sample-weights"))
    with pytest.raises(ValueError, match="is not classification"):
        meta.TaughtLoss.of(meta.RMD("AttentionPolicy", made(case)))
    with pytest.raises(ValueError, match="have many; leave it at 0"):
        made(case, label_noise=0.1)
