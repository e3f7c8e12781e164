"""The meta-gradient of students that learn by reinforcement, and what refuses them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import meta
from meta.self_tuning import held_out_gain
from teachenv.rl import CONTROLS

SMALL: dict[str, Any] = {
    "horizon": 3,
    "copies": 2,
    "rollout_steps": 10,
    "epochs": 2,
    "batch_size": 10,
    "hidden": [8],
    "evaluation_episodes": 1,
}


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_it_is_the_central_difference_of_the_objective_of_one_update(task: str) -> None:
    # A clip range so small that it cuts some gains, and a norm that clips some gradients.
    env: Any = gym.make("TeachControl-v0", task=task, dtype="float64", clip=0.02, learning_rate=0.01, **SMALL)
    env.reset(seed=0)
    teach = env.unwrapped
    env.step(np.full(5, 0.1, np.float32))  # Adam has moments
    student, dynamics, seed = teach.student, teach.dynamics, teach.episode
    rollout, _, _ = dynamics.collect(student, seed)
    action = np.array([0.3, -0.2, 0.1, 0.2, -0.3])
    env.step(action.astype(np.float32))
    held_out, _, _ = dynamics.collect(teach.student, seed)

    def objective(a: np.ndarray) -> float:
        return float(held_out_gain(dynamics, dynamics.update(student, rollout, a, seed)[0], held_out))

    found = meta.meta_gradient(dynamics, student, action, seed, held_out)
    h = 1e-6
    expected = [(objective(action + h * e) - objective(action - h * e)) / (2 * h) for e in np.eye(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    # A clip range decides which samples count, and not how much: its derivative is 0 wherever there is one.
    assert {name for name, value in zip(CONTROLS, found, strict=True) if value == 0} == {"clip"}


def test_a_student_tunes_itself() -> None:
    env = gym.make("TeachControl-v0", **{**SMALL, "horizon": 4})
    done = meta.self_tune(env, learning_rate=0.2, seed=0)
    assert done.actions.shape == (4, 5)
    assert (done.actions[0] == 0).all()
    # Adam's first step is its learning rate, along the sign of the gradient.
    steep = abs(done.gradients[0]) > 1e-6
    assert steep.any()
    np.testing.assert_allclose(done.actions[1][steep], 0.2 * np.sign(done.gradients[0][steep]), rtol=0.02)
    assert done.info["student_step"] == 4
    again = meta.self_tune(env, learning_rate=0.2, seed=0)
    assert np.array_equal(again.actions, done.actions)


@pytest.mark.parametrize("teacher", [meta.RMD, meta.FiniteDifference])
def test_gradient_teachers_refuse_it_in_one_sentence(teacher: Any) -> None:
    with pytest.raises(
        TypeError, match="needs a training run that is differentiable, found students that draw"
    ) as caught:
        teacher("AttentionPolicy", gym.make("TeachControl-v0", **SMALL))
    assert "\n" not in str(caught.value)


def test_wrong_environments_and_actions_are_refused() -> None:
    with pytest.raises(TypeError, match="self_tune needs a student that learns by reinforcement, found TeachEnv"):
        meta.self_tune(gym.make("TeachDigits-v0", horizon=2))
    rescaled = gym.wrappers.RescaleAction(gym.make("TeachControl-v0", **SMALL), np.float32(0), np.float32(1))
    with pytest.raises(ValueError, match="RescaleAction changes the actions that self_tune learns from: leave it out"):
        meta.self_tune(rescaled)
    teach: Any = gym.make("TeachControl-v0", **SMALL).unwrapped
    teach.reset(seed=0)
    held_out, _, _ = teach.dynamics.collect(teach.student, teach.episode)
    with pytest.raises(ValueError, match=r"an action has shape \(5,\) here, found \(2,\)"):
        meta.meta_gradient(teach.dynamics, teach.student, np.zeros(2), teach.episode, held_out)
