"""The derivative of tests' losses with respect to the weights of training samples."""

import csv
import io
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meta
from teachenv import Task, TeachEnv

CLASSES, TESTS = 3, 4


def task() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(36) % CLASSES
    inputs = rng.normal(size=(36, 5)) + 1.5 * rng.normal(size=(CLASSES, 5))[targets]
    return Task("vectors", "made-up", (inputs[:30], targets[:30]), (inputs[30:], targets[30:]), CLASSES)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES))


def dropped() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, CLASSES))


def make(**changes) -> TeachEnv:
    options = {"loss": "data-weights", "horizon": 8, "steps_per_action": 8, "batch_size": 5, "dev_size": 6}
    return TeachEnv(**({"task": task(), "dtype": "float64", **options} | changes))


def of_tests(env: TeachEnv) -> tuple[torch.Tensor, torch.Tensor]:
    return env.task.test[0][:TESTS], env.task.test[1][:TESTS]


def losses_under(env: TeachEnv, action: np.ndarray, seed: int) -> np.ndarray:
    env.reset(seed=seed)
    env.step(action)
    inputs, targets = of_tests(env)
    return F.cross_entropy(env.predict(inputs), targets, reduction="none").numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"student": "mlp", "momentum": 0.9, "weight_decay": 0.01},
        {"student": "mlp", "optimizer": "adam", "learning_rate": 0.02, "lr_schedule": "cosine"},
        {"student": normed},
        {"student": dropped},
    ],
    ids=["sgd", "adam", "batch-norm", "dropout"],
)
def test_values_are_the_slopes_of_the_tests_losses_over_trainings(options):
    env = make(**options)
    scores = meta.attribute(env, of_tests(env), seeds=[3])
    assert scores.values.shape == (TESTS, 30)
    np.testing.assert_allclose(scores.losses, losses_under(env, np.zeros(30), 3), rtol=1e-10)
    rng, step = np.random.default_rng(1), 1e-5
    for _ in range(3):
        along = rng.normal(size=30)
        slopes = (losses_under(env, step * along, 3) - losses_under(env, -step * along, 3)) / (2 * step)
        np.testing.assert_allclose(scores.values @ along, slopes, rtol=1e-6, atol=1e-9)


def test_one_test_all_tests_and_several_trainings_agree():
    env = make()
    inputs, targets = of_tests(env)
    each = [meta.attribute(env, (inputs, targets), seeds=[seed]) for seed in (0, 1)]
    alone = meta.attribute(env, (inputs[2:3], targets[2:3]), seeds=[0])
    np.testing.assert_allclose(alone.values[0], each[0].values[2], rtol=1e-9, atol=1e-12)
    whole = meta.attribute(env, (inputs, targets), seeds=[0], together=True)
    np.testing.assert_allclose(whole.values[0], each[0].values.mean(0), rtol=1e-9, atol=1e-12)
    both = meta.attribute(env, (inputs, targets), seeds=[0, 1])
    np.testing.assert_allclose(both.values, (each[0].values + each[1].values) / 2, rtol=1e-9)
    assert both.trainings == 2
    other = meta.attribute(env, (inputs, targets), seeds=[0], objective=lambda z, y: -2 * F.cross_entropy(z, y))
    np.testing.assert_allclose(other.values, -2 * each[0].values, rtol=1e-9, atol=1e-12)


def test_samples_that_the_training_does_not_see_have_no_value_and_the_environment_stays():
    env = make(train_size=10)
    env.reset(seed=5)
    before = {name: tensor.clone() for name, tensor in env.student.parameters.items()}
    scores = meta.attribute(env, of_tests(env))
    unseen = np.setdiff1d(np.arange(30), env.episode.batches.numpy())
    assert len(unseen) >= 20
    assert (scores.values[:, unseen] == 0).all()
    assert (np.delete(scores.values, unseen, 1) != 0).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in env.student.parameters.items())
    again = meta.attribute(env, of_tests(env), seeds=[5])
    assert np.array_equal(scores.values, again.values)  # the current episode is that of the seed


def test_weights_of_minibatches_are_attributed_to_their_samples():
    of_places = make(loss="sample-weights", steps_per_action=1)
    of_places_scores = meta.attribute(of_places, of_tests(of_places), seeds=[3])
    np.testing.assert_array_equal(of_places_scores.values, meta.attribute(make(), of_tests(make()), seeds=[3]).values)


def test_samples_are_ranked_and_written(tmp_path):
    values = np.array([[0.5, -1.0, 0.0], [-2.0, 0.25, 1.0]])
    scores = meta.Attribution(values, np.zeros(2), 1, 8, "states", 1, 16, 8, 0)
    assert scores.ranked(0).tolist() == [0, 2, 1]
    assert scores.ranked().tolist() == [2, 1, 0]
    for test in (2, -1, 0.5, True):
        with pytest.raises(ValueError, match="test must be an integer of at least 0 and at most 1, found"):
            scores.ranked(test)
    assert repr(scores) == "Attribution(tests=2, samples=3, trainings=1, steps=8)"
    assert scores.to_frame().loc[1].tolist() == values[1].tolist()
    scores.to_csv(tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == values.ravel().tolist()
    assert [(row["test"], row["sample"]) for row in rows][:4] == [("0", "0"), ("0", "1"), ("0", "2"), ("1", "0")]


@pytest.mark.parametrize("training", [None, "TeachDigits-v0", gym.make("CartPole-v1")])
def test_what_is_no_training_is_said(training):
    with pytest.raises(TypeError, match=r"needs a TeachEnv or a meta.OwnTraining, found .*meta.Training.of"):
        meta.attribute(training, (np.zeros((2, 5)), np.zeros(2, int)))


def test_tests_that_are_no_numbers_are_said():
    env = make()
    with pytest.raises(TypeError, match=r"tests: expected a pair \(inputs, targets\) or a Dataset.*found a ndarray"):
        meta.attribute(env, np.zeros((3, 5)), seeds=[0])
    with pytest.raises(TypeError, match=r"tests: targets are of dtype <U3; expected numbers: .*return_inverse=True"):
        meta.attribute(env, (np.zeros((2, 5)), ["cat", "dog"]), seeds=[0])


@pytest.mark.parametrize("memory", ["all", "states", "reversible", "sqrt", "log", 2])
@pytest.mark.parametrize("options", [{"student": "mlp", "momentum": 0.9}, {"student": normed, "optimizer": "adam"}])
def test_every_memory_policy_gives_the_same_values_and_says_what_it_took(options, memory):
    env = make(horizon=9, steps_per_action=9, learning_rate=0.05, **options)
    plain = meta.attribute(env, of_tests(env), seeds=[0])
    scores = meta.attribute(env, of_tests(env), seeds=[0], memory=memory)
    np.testing.assert_allclose(scores.values, plain.values, rtol=1e-9, atol=1e-12)
    assert (scores.memory, scores.walks, plain.memory) == (memory, 1, "all")
    evaluations = {"all": 9, "states": 18, "reversible": 19, "sqrt": 22, "log": 18, 2: 22}
    assert scores.gradient_evaluations == evaluations[memory]
    assert scores.measured_bytes > scores.values.nbytes


def test_tests_that_do_not_fit_into_memory_together_are_taken_in_groups(monkeypatch):
    env = make()
    whole = meta.attribute(env, of_tests(env), seeds=[0, 1])
    monkeypatch.setattr(sys.modules["meta.influence.measured_training"], "_BYTES_TOGETHER", 60_000)
    grouped = meta.attribute(env, of_tests(env), seeds=[0, 1])
    assert whole.walks == 1 < grouped.walks < TESTS
    np.testing.assert_allclose(grouped.values, whole.values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grouped.losses, whole.losses, rtol=1e-12)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("memory", ["all", "states", "reversible"])
def test_a_bar_counts_the_steps_of_all_trainings_on_a_terminal_alone(monkeypatch, memory):
    env, screen, log = make(), Terminal(), io.StringIO()
    for stream in (screen, log):
        monkeypatch.setattr(sys, "stderr", stream)
        meta.attribute(env, of_tests(env), seeds=[0, 1], memory=memory)
    assert "attribution" in screen.getvalue()
    assert "16/16" in screen.getvalue()
    assert log.getvalue() == ""


class Unbatched(nn.Module):
    """A network whose double backward vmap cannot take."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(_Cubed.apply(self.last(x) @ self.last.weight))


class _Cubed(torch.autograd.Function):
    """x³, whose derivative looks at a value, as vmap does not allow."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return _Slope.apply(x, dy)


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dy):
        ctx.save_for_backward(x, dy)
        return 3 * x**2 * dy

    @staticmethod
    def backward(ctx, d):
        x, dy = ctx.saved_tensors
        return 6 * x * dy * d if float(d.norm()) > 0 else torch.zeros_like(x), 3 * x**2 * d


def test_tests_of_a_network_that_vmap_does_not_take_are_taken_one_by_one():
    env = make(student=Unbatched, learning_rate=0.01)
    scores = meta.attribute(env, of_tests(env), seeds=[0])
    assert scores.walks == TESTS
    along, step = np.random.default_rng(1).normal(size=30), 1e-5
    slopes = (losses_under(env, step * along, 0) - losses_under(env, -step * along, 0)) / (2 * step)
    np.testing.assert_allclose(scores.values @ along, slopes, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("memory", ["all", "states"])
def test_a_training_that_is_not_deterministic_is_refused_with_its_step(memory):
    calls, steady = [], sys.maxsize

    def drifting(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return (1.0 + 0.1 * (len(calls) > steady)) * F.cross_entropy(z, y, reduction="none")

    def attribute() -> None:
        options = {"data": task().pool, "loss": drifting, "steps": 8, "batch_size": 5}
        meta.attribute(meta.OwnTraining(module=lambda: nn.Linear(5, CLASSES), **options), task().test, memory=memory)

    attribute()
    steady = 2 * len(calls) - 5  # what is compared comes last
    with pytest.raises(RuntimeError, match=r"not deterministic: step \d has the loss .* and, taken again"):
        attribute()


@pytest.mark.parametrize(
    ("changes", "tests", "options", "message"),
    [
        ({}, None, {"objective": "brier"}, "objective must be None or a function of .* found 'brier'"),
        ({"loss": "bilinear"}, None, {}, 'loss="data-weights"'),
        ({}, (np.zeros((2, 7)), np.zeros(2, int)), {}, r"inputs of tests have shape \(2, 7\)"),
        ({}, (np.zeros((2, 5)), np.zeros((2, 2), int)), {}, r"tests: targets have shape \(2, 2\)"),
        ({}, (np.zeros((2, 5)), np.zeros(3, int)), {}, r"tests: inputs \(2, 5\) and targets \(3,\)"),
        ({}, (np.zeros((0, 5)), np.zeros(0, int)), {}, "tests: no samples; expected at least one"),
        ({}, (np.zeros((2, 5)), np.array([0, 3])), {}, "labels of tests go from 0 to 3, expected 0 to 2"),
        ({}, None, {"memory": "stats"}, "memory policy 'stats'"),
        ({}, None, {"objective": lambda z, y: z.mean(1)}, r"must be a scalar tensor, found shape \(1,\)"),
        ({}, None, {"objective": lambda z, y: z.mean(1), "together": True}, r"found shape \(4,\); take its mean"),
        ({"learning_rate": 1e308}, None, {}, "the training diverges"),
        ({}, None, {"seeds": []}, "seeds is empty"),
        ({}, None, {"seeds": [-1]}, "seeds must be"),
        ({}, None, {"together": "all"}, "together must be"),
    ],
)
def test_what_cannot_be_attributed_is_said(changes, tests, options, message):
    env = make(**changes)
    env.reset(seed=0)
    with pytest.raises((ValueError, TypeError), match=message):
        meta.attribute(env, of_tests(env) if tests is None else tests, **options)
