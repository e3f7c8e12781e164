"""Targets that are no labels: numbers, distributions over classes, several classes a sample."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional as F

import meta
import teachenv
from teachenv import MultiLabel, Regression, SoftLabels, Task, TeachEnv, TeachVectorEnv
from teachenv.losses import PLAIN_LOSSES, make_loss, plain_loss
from teachenv.losses.plain import USUAL, reads
from teachenv.students import Prediction
from teachenv.tasks import ClassificationMeasure
from teachenv.tasks.targets import CHECKS

RNG = np.random.default_rng(0)
N, D, C, BATCH = 40, 4, 3, 5
X = RNG.normal(size=(N + 10, D))
WEIGHT = RNG.normal(size=(D, C))
Z = X @ WEIGHT
SOFT = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
TARGETS = {
    "labels": (Z.argmax(1), None),
    "numbers": (Z[:, 0], Regression()),
    "distributions": (SOFT, SoftLabels()),
    "indicators": ((Z > 0).astype(float), MultiLabel()),
}
SETTINGS = {"student": "mlp", "horizon": 4, "steps_per_action": 2, "batch_size": BATCH, "dev_size": 12}


def own(kind, **parts) -> Task:
    targets, measure = TARGETS[kind]
    splits = {"pool": (X[:N], targets[:N]), "test": (X[N:], targets[N:])}
    return Task(**({"name": "own", "dataset": "own", "measure": measure, **splits} | parts))


def options(kind, **more):
    base = {"loss": "sample-weights", "loss_kwargs": {"base": USUAL[kind]}}
    return {**SETTINGS, **base, "learning_rate": 0.05, "dtype": "float64", **more}


# --- losses ----------------------------------------------------------------------------------------------------------

OF_OTHERS = [name for name in PLAIN_LOSSES if reads(name) != ("labels",)]


def literal(name, z, t):
    """The formula for one sample, in Python's own numbers; t as long as z."""
    p = [math.exp(a) / sum(map(math.exp, z)) for a in z]
    errors = [b - a for a, b in zip(z, t, strict=True)]
    sigma = [1 / (1 + math.exp(-a)) for a in z]
    each = {
        "cross-entropy": [-b * math.log(q) * C for q, b in zip(p, t, strict=True)],
        "label-smoothing": [-(0.9 * b + 0.1 / C) * math.log(q) * C for q, b in zip(p, t, strict=True)],
        "brier": [(q - b) ** 2 * C for q, b in zip(p, t, strict=True)],
        "squared-error": [e**2 for e in errors],
        "absolute-error": [abs(e) for e in errors],
        "huber": [e**2 / 2 if abs(e) <= 1 else abs(e) - 0.5 for e in errors],
        "quantile": [max(0.5 * e, -0.5 * e) for e in errors],
        "binary-cross-entropy": [-b * math.log(s) - (1 - b) * math.log(1 - s) for s, b in zip(sigma, t, strict=True)],
    }[name]
    return sum(each) / C


@pytest.mark.parametrize("name", OF_OTHERS)
def test_losses_of_other_targets_are_their_formulas(name):
    z = torch.from_numpy(2 * RNG.normal(size=(N, C)))
    t = torch.from_numpy(TARGETS["indicators" if "indicators" in reads(name) else "distributions"][0][:N])
    found = plain_loss(name)(Prediction(z), t)
    assert found.tolist() == pytest.approx([literal(name, *row) for row in zip(z.tolist(), t.tolist(), strict=True)])
    leaf = z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: plain_loss(name)(Prediction(z), t), leaf)


def test_options_of_regression_losses_reach_the_formula():
    z, y = torch.zeros(2, 1), torch.tensor([3.0, -0.5])
    assert plain_loss("huber", delta=2.0)(Prediction(z), y).tolist() == [2 * (3 - 1.0), 0.125]
    assert plain_loss("huber", delta=1e30)(Prediction(z), y).tolist() == [4.5, 0.125]
    torch.testing.assert_close(plain_loss("quantile", level=0.9)(Prediction(z), y), torch.tensor([2.7, 0.05]))
    for bad in ({"delta": 0}, {"delta": math.inf}):
        with pytest.raises(ValueError, match="delta must be"):
            plain_loss("huber", **bad)
    for bad in (0, 1, "half"):
        with pytest.raises(ValueError, match="level must be"):
            plain_loss("quantile", level=bad)


@pytest.mark.parametrize("name", ["bilinear", "bilinear-generalized", "bilinear-sigmoid", "label-weights"])
def test_rows_with_a_single_one_are_labels(name):
    loss, labels = make_loss(name), torch.arange(BATCH) % C
    outputs = torch.from_numpy(RNG.normal(size=(BATCH, C)))
    action = torch.from_numpy(RNG.uniform(-1, 1, loss.action_size(C, BATCH)))
    both = [loss(action, Prediction(outputs), y) for y in (labels, F.one_hot(labels, C).double())]
    torch.testing.assert_close(*both)


def test_a_teachers_matrix_acts_on_soft_labels_as_on_the_mixture_of_labels():
    loss = make_loss("bilinear", {"scale": 1.0})
    outputs, q = torch.from_numpy(RNG.normal(size=(1, C))), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    action = torch.from_numpy(RNG.uniform(-1, 1, C * C))
    of_classes = torch.stack([loss(action, Prediction(outputs), torch.tensor([c])) for c in range(C)])
    torch.testing.assert_close(loss(action, Prediction(outputs), q[None]), q @ of_classes)


# --- measures --------------------------------------------------------------------------------------------------------


def test_regression_is_measured_as_sklearn_does():
    given, outputs = torch.from_numpy(Z), torch.from_numpy(Z + RNG.normal(size=Z.shape))
    assert float(Regression().score(outputs, given)) == pytest.approx(metrics.r2_score(Z, outputs))
    report = Regression().report(outputs, given)
    assert report["mse"] == pytest.approx(metrics.mean_squared_error(Z, outputs))
    assert report["mae"] == pytest.approx(metrics.mean_absolute_error(Z, outputs))
    assert float(Regression().objective(outputs, given)) == pytest.approx(-report["mse"])
    worse = torch.full((10, 1), 9.0, dtype=torch.float64)
    r2 = float(Regression().score(worse, given[:10, 0]))
    assert r2 == pytest.approx(metrics.r2_score(Z[:10, 0], worse))
    assert r2 < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [2.0, 0.1, 1 / 3, 1234.567, 1e-30])
@pytest.mark.parametrize("count", [2, 10, 397])
def test_targets_that_are_all_the_same_have_the_r2_that_is_documented(count, value, dtype):
    given = torch.full((count, 1), value, dtype=dtype)
    outputs = torch.stack([given + torch.arange(count, dtype=dtype)[:, None], given])
    assert [float(Regression().score(each, given)) for each in outputs] == [0.0, 1.0]
    assert torch.func.vmap(Regression().score, (0, None))(outputs, given).tolist() == [0.0, 1.0]
    beside = torch.cat([given, torch.arange(count, dtype=dtype)[:, None]], 1)  # another output, which is met
    assert float(Regression().score(beside + torch.tensor([1.0, 0.0]), beside)) == 0.5


def test_several_classes_are_measured_as_sklearn_does():
    given = TARGETS["indicators"][0]
    outputs = np.round(Z + RNG.normal(size=Z.shape), 1)  # with ties
    tensors = torch.from_numpy(outputs), torch.from_numpy(given)
    assert float(MultiLabel().score(*tensors)) == pytest.approx(metrics.f1_score(given, outputs > 0, average="macro"))
    report = MultiLabel().report(*tensors)
    assert report["micro_f1"] == pytest.approx(metrics.f1_score(given, outputs > 0, average="micro"))
    assert report["mean_average_precision"] == pytest.approx(metrics.average_precision_score(given, outputs))
    bce = F.binary_cross_entropy_with_logits(*tensors)
    torch.testing.assert_close(MultiLabel().objective(*tensors), -bce)


def test_classes_that_nothing_has_count_for_nothing():
    given, outputs = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    assert float(MultiLabel().score(outputs, given)) == pytest.approx(2 / 3)
    assert float(MultiLabel().score(-torch.ones(2, 2), torch.zeros(2, 2))) == 1.0
    assert MultiLabel().report(-torch.ones(2, 2), torch.zeros(2, 2)) == {"mean_average_precision": 0.0, "micro_f1": 1.0}


def test_soft_labels_with_a_single_one_are_measured_as_labels():
    labels, outputs = torch.from_numpy(TARGETS["labels"][0]), torch.from_numpy(RNG.normal(size=Z.shape))
    rows, plain, soft = F.one_hot(labels, C).double(), ClassificationMeasure(C), SoftLabels()
    torch.testing.assert_close(soft.objective(outputs, rows), plain.objective(outputs, labels))
    torch.testing.assert_close(soft.score(outputs, rows), plain.score(outputs, labels))
    assert soft.report(outputs, rows)["cross_entropy"] == pytest.approx(float(F.cross_entropy(outputs, labels)))
    assert float(soft.score(outputs, torch.from_numpy(SOFT))) == pytest.approx(
        SOFT[np.arange(len(SOFT)), outputs.argmax(1)].mean()
    )
    with pytest.raises(ValueError, match="temperature must be"):
        SoftLabels(0)


# --- environments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numbers", "distributions", "indicators"])
def test_a_training_is_a_plain_loop_and_its_measures_are_called_what_they_are(kind):
    env = TeachEnv(task=own(kind), **options(kind, momentum=0.0))
    observation, info = env.reset(seed=1)
    name = {"numbers": "r2", "distributions": "expected_accuracy", "indicators": "macro_f1"}[kind]
    assert list(env.OBSERVATION_FIELDS) == ["progress", f"train_{name}", f"dev_{name}"]
    assert env.observation_space.contains(observation)
    assert not any("accuracy" in key for key in info) or kind == "distributions"
    parameters = {n: p.clone().requires_grad_() for n, p in env.student.parameters.items()}
    for t in range(2):
        inputs, targets = env.dynamics.minibatch(env.episode, t)
        prediction, _ = env.dynamics.student(parameters, {}, inputs, training=True)
        loss = {
            "numbers": lambda z, y: F.mse_loss(z[:, 0], y),
            "distributions": F.cross_entropy,
            "indicators": F.binary_cross_entropy_with_logits,
        }[kind](prediction.outputs, targets)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        parameters = {
            n: (p - 0.05 * g).detach().requires_grad_() for (n, p), g in zip(parameters.items(), gradients, strict=True)
        }
    env.step(np.zeros(BATCH))
    for n, p in env.student.parameters.items():
        torch.testing.assert_close(p, parameters[n].detach())
    evaluated = env.evaluate()
    assert {f"test_{name}", "test_error", *(f"test_{each}" for each in env.dynamics.measure.reported)} <= {*evaluated}
    assert evaluated["test_error"] == 1 - evaluated[f"test_{name}"]


@pytest.mark.parametrize("kind", ["numbers", "distributions", "indicators"])
def test_the_action_gradient_is_the_slope_of_the_return(kind):
    env = meta.ActionGradient(TeachEnv(task=own(kind), **options(kind)))

    def taught(actions):
        env.reset(seed=2)
        steps = [env.step(action) for action in actions]
        return sum(step[1] for step in steps), steps[-1][-1]

    actions = RNG.uniform(-0.5, 0.5, (2, BATCH))
    _, info = taught(actions)
    along = RNG.normal(size=actions.shape)
    slope = (taught(actions + 1e-6 * along)[0] - taught(actions - 1e-6 * along)[0]) / 2e-6
    assert (info["action_gradient"] * along).sum() == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("kind", ["numbers", "distributions", "indicators"])
def test_many_students_are_each_of_them(kind):
    students = TeachVectorEnv(num_envs=2, task=own(kind), **options(kind))
    students.reset(seed=[4, 5])
    actions = RNG.uniform(-1, 1, (2, BATCH))
    observations, rewards, *_ = students.step(actions)
    evaluated = students.evaluate()
    for i in range(2):
        env = TeachEnv(task=own(kind), **options(kind))
        env.reset(seed=4 + i)
        observation, reward, *_ = env.step(actions[i])
        np.testing.assert_allclose(observations[i], observation, atol=1e-9)
        np.testing.assert_allclose(rewards[i], reward, atol=1e-9)
        for name, value in env.evaluate().items():
            assert evaluated[name][i] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "loss"), [("numbers", F.mse_loss), ("indicators", F.binary_cross_entropy_with_logits)]
)
def test_attribution_measures_tests_by_the_usual_loss(kind, loss):
    targets, _ = TARGETS[kind]
    own = meta.OwnTraining(
        module=lambda: torch.nn.Linear(D, 1 if kind == "numbers" else C),
        data=(X[:N], targets[:N]),
        loss=USUAL[kind],
        optimizer_kwargs={"lr": 1e-12},
        steps=1,
        dtype="float64",
    )
    scores = meta.attribute(own, (X[N:], targets[N:]))
    env = own.environment()
    env.reset(seed=own.seed)
    outputs, given = env.predict(X[N:]), torch.from_numpy(targets[N:])
    expected = [loss(z, y.view(z.shape)) for z, y in zip(outputs, given, strict=True)]
    np.testing.assert_allclose(scores.losses, torch.stack(expected).numpy())


# --- how targets are read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "outputs"), [(Z[:, 0], 1), (Z[:, :1], 1), (Z, C), (np.round(Z[:, 0]), 1), (np.arange(50), 1)]
)
def test_numbers_that_can_be_no_labels_are_predicted(targets, outputs):
    given = {"num_outputs": 1} if (targets == np.round(targets)).all() else {}
    if targets.dtype.kind == "i":
        given["measure"] = Regression()
    task = Task("own", "own", (X[:N], targets[:N]), (X[N:], targets[N:]), **given)
    assert isinstance(task.measure, Regression)
    assert task.num_outputs == outputs
    assert task.pool[1].is_floating_point()


def test_whole_numbers_are_labels():
    task = Task("own", "own", (X[:N], np.arange(N) % 7.0), (X[N:], np.arange(10) % 2))
    assert task.measure is None
    assert task.num_outputs == 7


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        ("numbers", {"num_outputs": 3}, "targets are numbers for regression, 1 a sample, but num_outputs is 3"),
        ("numbers", {"pool": (X, Z[:, 0] * np.nan)}, "targets contain NaN"),
        ("distributions", {"pool": (X, 2 * SOFT)}, "the target of sample 0 is no distribution .*its sum 2;"),
        ("distributions", {"pool": (X, Z.argmax(1))}, r"targets have shape \(50,\).*probabilities .*one_hot"),
        ("distributions", {"num_outputs": 4}, r"expected the probabilities of a sample's classes, \(n, 4\)"),
        ("distributions", {"measure": None}, r"class probabilities give measure=teachenv.SoftLabels\(\)"),
        ("indicators", {"pool": (X, SOFT)}, "have 0.* among them, expected 0 or 1 for each class"),
        (
            "indicators",
            {"measure": None},
            r"multi-label targets .0 or 1 for each class. measure=teachenv.MultiLabel\(\)",
        ),
        ("indicators", {"pool": (X, Z.argmax(1))}, "expected 0 or 1 for each class"),
    ],
)
def test_targets_that_do_not_fit_their_measure_are_said(kind, parts, message):
    with pytest.raises(ValueError, match=message):
        own(kind, **parts)


def test_truth_values_say_which_classes_a_sample_has():
    task = own("indicators", pool=(X[:N], Z[:N] > 0), test=(X[N:], Z[N:] > 0))
    assert torch.equal(task.pool[1], torch.from_numpy(Z[:N] > 0).float())


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", ["cross-entropy", "squared-error", "binary-cross-entropy", "hinge"])
def test_a_loss_of_other_targets_is_refused_and_one_that_fits_named(kind, name):
    chosen = options(kind) | {"loss_kwargs": {"base": name}}
    if kind in reads(name):
        assert TeachEnv(task=own(kind), **chosen).task.target_kind == kind
        return
    with pytest.raises(ValueError, match=rf'targets of task \'own\' are {kind}.*"base": "{USUAL[kind]}"'):
        TeachEnv(task=own(kind), **chosen)


def test_soft_labels_may_be_warmed_up_and_taught_by_the_usual_loss():
    env = TeachEnv(task=own("distributions"), **SETTINGS, warm_start=1)
    env.reset(seed=0)
    assert env.step(np.zeros(C * C, np.float32))[1] != 0


def test_every_kind_has_a_check_and_a_usual_loss_of_it():
    assert {*CHECKS} == {*USUAL} == {*TARGETS}
    assert all(kind in reads(name) for kind, name in USUAL.items())
    assert {*teachenv.__all__} >= {"Regression", "SoftLabels", "MultiLabel"}
