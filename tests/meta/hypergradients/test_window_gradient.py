"""The gradient of the dev error through a window: what it is, how it is shown, and that showing it changes nothing."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import meta
from meta.hypergradients.training import Training
from meta.hypergradients.window_gradient import decoded, encoded
from teachenv import TeachEnv
from teachenv.students import Prediction

SMALL = {"horizon": 9, "steps_per_action": 3, "batch_size": 8, "dev_size": 60, "dtype": "float64"}


def made(**settings: Any) -> TeachEnv:
    env = gym.make("TeachDigits-v0", **{**SMALL, **settings}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


def action_of(env: gym.Env[Any, Any], seed: int = 0, size: float = 0.3) -> np.ndarray:
    shape, dtype = env.action_space.shape, env.action_space.dtype  # type: ignore[attr-defined]
    return np.random.default_rng(seed).uniform(-size, size, shape).astype(dtype)


def test_zero_is_encoded_as_the_smallest_size_without_a_sign() -> None:
    assert encoded(torch.zeros(2)).tolist() == [-1.0, -1.0, 0.0, 0.0]


@given(st.lists(st.floats(-2e4, 2e4, allow_subnormal=False), min_size=1, max_size=5))
def test_an_encoded_gradient_is_bounded_odd_in_its_sign_and_can_be_decoded(values: list[float]) -> None:
    gradient = torch.tensor(values, dtype=torch.float64)
    seen = encoded(gradient)
    assert seen.abs().max() <= 1
    n = len(values)
    torch.testing.assert_close(encoded(-gradient), torch.cat([seen[:n], -seen[n:]]))
    torch.testing.assert_close(decoded(seen), gradient, rtol=1e-9, atol=1e-9)


def test_the_two_branches_meet() -> None:
    edge = float(np.exp(-10))
    below, above = (encoded(torch.tensor([edge * f], dtype=torch.float64)) for f in (1 - 1e-9, 1 + 1e-9))
    torch.testing.assert_close(below, above, rtol=0, atol=3e-5)


@pytest.mark.parametrize("window", ["next", "last"])
def test_what_was_shown_is_told_afterwards_and_counted_in_units(window: Any) -> None:
    env, plain = (meta.WindowGradient(made(), window, unit=unit) for unit in (4.0, 1.0))
    for wrapped in (env, plain):
        wrapped.reset(seed=0)
    for number in range(2):
        shown, *_, info = env.step(action_of(env, number))
        expected = plain.step(action_of(env, number))[-1]
        np.testing.assert_array_equal(info["window_gradient"], expected["window_gradient"])
    *_, info = env.step(action_of(env, 2))
    np.testing.assert_allclose(4 * decoded(torch.as_tensor(shown)), info["previewed_gradient"], rtol=1e-9, atol=1e-9)
    assert info["previewed_gradient"].any()


@pytest.mark.parametrize("objective", ["accuracy", "likelihood"])
@pytest.mark.parametrize("loss", ["dynamic-network", "bilinear"])
def test_it_is_the_derivative_of_the_error_that_the_window_ends_with(loss: str, objective: str) -> None:
    env = meta.WindowGradient(made(loss=loss, objective=objective))
    env.reset(seed=0)
    env.step(action_of(env))
    before, action, direction = env.get_state(), action_of(env, 1), action_of(env, 2, 1.0)
    *_, info = env.step(action)
    errors = []
    for step in (1e-7, -1e-7):  # short: the gradient of a piecewise linear loss jumps
        env.set_state(before)
        *_, there = env.step(action + step * direction)
        assert there["window_error"] == pytest.approx(-there["objective"], rel=1e-12)
        errors.append(there["window_error"])
    slope = (errors[0] - errors[1]) / 2e-7
    assert abs(slope) > 1e-6
    assert float(info["window_gradient"] @ direction) == pytest.approx(slope, rel=1e-5)


def test_it_is_that_of_an_unrolled_graph() -> None:
    """Of an ordinary network, trained with create_graph=True by plain SGD."""
    wrapped = meta.WindowGradient(made(loss="dynamic-network", objective="likelihood", momentum=0.0))
    wrapped.reset(seed=0)
    env = wrapped.unwrapped
    assert isinstance(env, TeachEnv)
    start, taken = env.student, action_of(env)
    action = torch.tensor(taken, requires_grad=True)
    network: Any = env.dynamics.student.build().double()
    weights = {name: p.clone().requires_grad_() for name, p in start.parameters.items()}
    for t in range(3):
        inputs, targets = env.dynamics.minibatch(env.episode, t)
        outputs = torch.func.functional_call(network, weights, inputs)
        family = env.dynamics.loss
        loss = family(action, Prediction(outputs), targets)
        gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {n: p - env.dynamics.rate(t) * g for (n, p), g in zip(weights.items(), gradient, strict=True)}
    inputs, targets = env.dynamics.dev(env.episode)
    error = F.cross_entropy(torch.func.functional_call(network, weights, inputs), targets)
    (expected,) = torch.autograd.grad(error, action)
    *_, info = wrapped.step(taken)
    assert info["window_error"] == pytest.approx(error.item(), rel=1e-10)
    np.testing.assert_allclose(info["window_gradient"], expected, rtol=1e-8, atol=1e-12)


def test_what_is_previewed_comes_about_if_the_action_stays() -> None:
    """The same student, minibatches and dev samples in both stages."""
    env = meta.WindowGradient(made(loss="dynamic-network"), dev_batch=20)
    observation, _ = env.reset(seed=0)
    action = np.zeros(5000)
    for _ in range(3):
        shown = observation
        observation, _, _, _, info = env.step(action)
        assert info["previewed_error"] == info["window_error"]
        np.testing.assert_array_equal(shown, encoded(torch.tensor(info["window_gradient"])))


@pytest.mark.parametrize("window", ["next", "last"])
def test_looking_leaves_the_training_as_it_is(window: Any) -> None:
    plain, wrapped = made(), meta.WindowGradient(made(), window)
    plain.reset(seed=0)
    observation, _ = wrapped.reset(seed=0)
    ended = False
    while not ended:
        assert wrapped.observation_space.contains(observation)
        action = action_of(plain, 5)
        _, reward, ended, _, _ = plain.step(action)
        observation, found, also, _, _ = wrapped.step(action)
        assert (found, also) == (reward, ended)
    there = wrapped.unwrapped
    assert isinstance(there, TeachEnv)
    assert all(torch.equal(p, there.student.parameters[n]) for n, p in plain.student.parameters.items())
    np.testing.assert_array_equal(decoded(torch.tensor(observation)), np.zeros(100))  # no window is left


def test_the_last_window_is_shown_after_it() -> None:
    env = meta.WindowGradient(made(), window="last")
    observation, _ = env.reset(seed=0)
    assert not decoded(torch.tensor(observation)).any()
    observation, *_, info = env.step(action_of(env))
    assert np.abs(info["window_gradient"]).max() > 0
    np.testing.assert_array_equal(observation, encoded(torch.tensor(info["window_gradient"])))


def test_each_window_has_dev_samples_of_its_own() -> None:
    env = meta.WindowGradient(made(), dev_batch=10)
    errors = []
    for _ in range(2):
        env.reset(seed=0)
        for size in (0.1, 0.0):
            *_, info = env.step(action_of(env, 0, size))
            errors.append((info["window_error"], -info["objective"]))
    assert errors[:2] == errors[2:]
    assert all(sampled != whole for sampled, whole in errors)


def test_samples_are_drawn_from_those_that_are_measured() -> None:
    """As many as are measured are all of them, in another order."""
    env = meta.WindowGradient(made(dev_measured=30), dev_batch=30)
    env.reset(seed=0)
    *_, info = env.step(action_of(env))
    assert info["window_error"] == pytest.approx(-info["objective"], rel=1e-12)


def test_samples_of_the_pool_are_those_that_the_window_does_not_train_on(monkeypatch: pytest.MonkeyPatch) -> None:
    env = meta.WindowGradient(made(train_on="pool", dev_measured=5), dev_batch=300, dev_from="pool")
    seen = []

    def spied(dynamics: Any, episode: Any) -> Any:
        seen.append(dynamics.dev(episode)[0])
        return Training(dynamics, episode)

    monkeypatch.setattr("meta.hypergradients.window_gradient.Training", spied)
    env.reset(seed=0)
    env.step(action_of(env))
    teach = env.unwrapped
    assert isinstance(teach, TeachEnv)
    pool = teach.problem.task.pool[0]
    trained = {tuple(row) for row in pool[teach.episode.batches[:3].reshape(-1)].tolist()}
    judged = [tuple(row) for row in seen[0].tolist()]
    assert len(set(judged)) == len(judged) == 300
    assert not trained & set(judged)
    assert torch.equal(seen[0], seen[1])  # the same in both stages
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.filterwarnings("ignore:the gradient is zero")  # before it diverges it saturates
def test_a_student_that_diverges_shows_nothing() -> None:
    env = meta.WindowGradient(made(learning_rate=1e300, student_kwargs={"activation": "relu"}))
    observation, _ = env.reset(seed=0)
    ended, info = False, {}
    while not ended:
        observation, _, ended, _, info = env.step(action_of(env))
        assert env.observation_space.contains(observation)
    assert info["diverged"]
    assert not info["window_gradient"].any()
    assert np.isfinite(info["window_error"])


@pytest.mark.parametrize("window", ["next", "last"])
def test_a_snapshot_goes_on_bitwise_from_a_file(window: Any) -> None:
    env = meta.WindowGradient(made(), window, dev_batch=20)
    env.reset(seed=0)
    env.step(action_of(env))
    state = pickle.dumps(env.get_state())
    runs = []
    for again in (env, meta.WindowGradient(made(), window, dev_batch=20)):
        again.set_state(pickle.loads(state))
        observation, reward, *_, info = again.step(action_of(env, 3))
        runs.append((observation.tolist(), reward, info["previewed_error"], info["window_error"]))
    assert runs[0] == runs[1]


def test_the_last_student_outlives_a_reset() -> None:
    env = meta.WindowGradient(made())
    env.reset(seed=0)
    assert env.final_state is None
    for _ in range(3):
        env.step(action_of(env))
    teach = env.unwrapped
    assert isinstance(teach, TeachEnv)
    expected = teach.evaluate("test")
    env.reset()
    assert teach.evaluate("test") != expected
    assert env.final_state is not None
    teach.set_state(env.final_state)
    assert teach.evaluate("test") == expected


def test_running_statistics_are_those_of_the_committed_student() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 10))

    env = meta.WindowGradient(made(student=network, loss="dynamic-network"))
    env.reset(seed=0)
    teach = env.unwrapped
    assert isinstance(teach, TeachEnv)
    for window in range(1, 4):
        before = teach.student.buffers["2.running_mean"].clone()
        env.step(action_of(env))
        assert not torch.equal(before, teach.student.buffers["2.running_mean"])
        assert int(teach.student.buffers["2.num_batches_tracked"]) == 3 * window  # the first stage counts for nothing


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="found CartPole"):
        meta.WindowGradient(gym.make("CartPole-v1"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown window 'now'"):
        meta.WindowGradient(made(), window="now")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown source of dev samples 'test'"):
        meta.WindowGradient(made(), dev_from="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs dev_batch"):
        meta.WindowGradient(made(), dev_from="pool")
    with pytest.raises(ValueError, match="expected None or 1 to 976, the pool without a window's minibatches"):
        meta.WindowGradient(made(), dev_from="pool", dev_batch=977)
    with pytest.raises(ValueError, match="dev_batch=61, expected None or 1 to 60"):
        meta.WindowGradient(made(), dev_batch=61)
    with pytest.raises(ValueError, match="unit must be a finite number above 0, found 0"):
        meta.WindowGradient(made(), unit=0)
    with pytest.raises(ValueError, match="without WindowGradient"):
        meta.WindowGradient(made()).set_state(made().get_state())
