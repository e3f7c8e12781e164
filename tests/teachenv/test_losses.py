import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from teachenv import TeachEnv
from teachenv.losses import PLAIN_LOSSES, make_loss, plain_loss
from teachenv.losses.mixture import COMPONENTS
from teachenv.losses.plain import reads
from teachenv.students import Prediction

N, C, D = 12, 5, 7
SCALES = {"bilinear-sigmoid": {"scale": 1.0}}
CLASSIFICATION = [name for name in PLAIN_LOSSES if reads(name)[0] == "labels"]


def family(name):
    return make_loss(name, SCALES.get(name))


def data(seed=0, dtype=torch.float64, scale=2.0):
    """Features, head weight and bias, and targets that cover every class."""
    rng = torch.Generator().manual_seed(seed)
    features, weight, bias = (torch.randn(*s, generator=rng, dtype=torch.float64) for s in ((N, D), (C, D), (C,)))
    return (scale * features).to(dtype), weight.to(dtype), bias.to(dtype), torch.arange(N) % C


def predict(features, weight, bias):
    return Prediction(features @ weight.T + bias, features, weight)


def action_of(loss, seed=0, dtype=torch.float64):
    size = loss.action_size(C, N)
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, size)).to(dtype)


def gradients(function, tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    return torch.autograd.grad(function(*leaves), leaves, allow_unused=True, materialize_grads=True)


# --- bilinear --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bilinear", "bilinear-generalized", "bilinear-sigmoid"])
def test_bilinear_losses_are_their_formula(name):
    loss, (*head, y) = family(name), data()
    action, prediction = action_of(loss), predict(*head)
    phi = torch.eye(C, dtype=torch.float64) + loss.scale * action.reshape(C, C)
    log_p = prediction.outputs.log_softmax(1)
    if name == "bilinear-generalized":
        log_p = (log_p.exp() ** loss.q - 1) / loss.q
    values = torch.stack([torch.eye(C, dtype=torch.float64)[t] @ phi @ row for t, row in zip(y, log_p, strict=True)])
    expected = (-torch.sigmoid(values) if name == "bilinear-sigmoid" else -values).mean()
    torch.testing.assert_close(loss(action, prediction, y), expected)
    torch.testing.assert_close(loss.coefficients(action), phi)


def test_cross_entropy_has_its_share_of_the_sigmoid_loss():
    """The released code's final mixture at a half; at 0 the loss is the sigmoid alone, at 1 cross-entropy alone."""
    *head, y = data()
    action, prediction = action_of(make_loss("bilinear-sigmoid")), predict(*head)
    alone = make_loss("bilinear-sigmoid")(action, prediction, y)
    plain = F.cross_entropy(prediction.outputs, y)
    for share in (0.0, 0.5, 1.0):
        mixture = make_loss("bilinear-sigmoid", {"cross_entropy": share})(action, prediction, y)
        torch.testing.assert_close(mixture, share * plain + (1 - share) * alone)


def test_the_generalised_bilinear_loss_is_bounded_and_tends_to_the_bilinear_one():
    *head, y = data(scale=1e3)
    action = action_of(make_loss("bilinear", {"scale": 2.0}))
    bounded = make_loss("bilinear-generalized", {"scale": 2.0, "q": 0.5})
    assert abs(bounded(action, predict(*head), y)) <= (1 + 2.0 * C) / 0.5
    *head, y = data()
    near, limit = make_loss("bilinear-generalized", {"scale": 2.0, "q": 1e-8}), make_loss("bilinear", {"scale": 2.0})
    torch.testing.assert_close(near(action, predict(*head), y), limit(action, predict(*head), y), rtol=1e-6, atol=1e-6)
    for q in (0.0, 1.5):
        with pytest.raises(ValueError, match="q must be"):
            make_loss("bilinear-generalized", {"q": q})


@given(log_odds=st.floats(-30, 30))
def test_the_neutral_sigmoid_loss_starves_on_confidently_wrong_samples(log_odds):
    p = 1 / (1 + math.exp(-log_odds))
    outputs = torch.tensor([[log_odds, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = make_loss("bilinear-sigmoid")(torch.zeros(4, dtype=torch.float64), Prediction(outputs), torch.tensor([0]))
    assert loss.item() == pytest.approx(-p / (1 + p), abs=1e-14)
    (gradient,) = torch.autograd.grad(loss, outputs)
    in_log_p = -p / (1 + p) ** 2  # and d log p_y / dz_y = 1 − p
    assert gradient[0].tolist() == pytest.approx([in_log_p * (1 - p), -in_log_p * (1 - p)], abs=1e-14)


def test_the_sigmoid_of_a_zero_matrix_is_a_half_and_teaches_nothing():
    *head, y = data()
    loss = make_loss("bilinear-sigmoid", {"scale": 1.0})
    minus_identity = -torch.eye(C, dtype=torch.float64).flatten()
    assert float(loss(minus_identity, predict(*head), y)) == -0.5
    assert all((g == 0).all() for g in gradients(lambda *h: loss(minus_identity, predict(*h), y), head))


@pytest.mark.parametrize("name", ["bilinear", "bilinear-sigmoid"])
def test_rows_belong_to_labels_and_only_their_part_along_log_p_counts(name):
    loss, (features, weight, bias, _) = family(name), data()
    prediction = predict(features[:1], weight, bias)
    y, log_p = torch.tensor([2]), prediction.outputs.log_softmax(1)[0]
    matrix = 0.3 * action_of(loss).reshape(C, C)
    value = loss(matrix.flatten(), prediction, y)
    others = matrix.clone()
    others[[0, 1, 3, 4]] += 0.2
    torch.testing.assert_close(loss(others.flatten(), prediction, y), value, rtol=0, atol=0)
    direction = torch.linspace(-1, 1, C, dtype=torch.float64)
    direction = direction - (direction @ log_p) / (log_p @ log_p) * log_p
    along, across = matrix.clone(), matrix.clone()
    across[2] += 0.1 * direction
    along[2] += 0.1 * log_p / log_p.norm()
    torch.testing.assert_close(loss(across.flatten(), prediction, y), value)
    assert (loss(along.flatten(), prediction, y) - value).abs() > 1e-4


# --- plain losses ----------------------------------------------------------------------------------------------------


def liu(prediction, bias, y, margin, annealing):
    """Liu et al. 2016, literally: angles by arccos, an integer k, cos(mθ)."""
    losses = []
    for x, z, t in zip(prediction.features, prediction.outputs, y.tolist(), strict=True):
        w = prediction.head_weight[t]
        norms = float(w.norm() * x.norm())
        theta = math.acos(float(w @ x) / norms)
        k = min(int(theta * margin / math.pi), margin - 1)
        assert k * math.pi / margin <= theta <= (k + 1) * math.pi / margin
        psi = (-1) ** k * math.cos(margin * theta) - 2 * k
        logits = z.clone()
        logits[t] = norms * (annealing * math.cos(theta) + psi) / (1 + annealing) + bias[t]
        losses.append(float(torch.logsumexp(logits, 0) - logits[t]))
    return torch.tensor(losses, dtype=torch.float64)


@given(seed=st.integers(0, 10**6), margin=st.integers(1, 4), annealing=st.sampled_from([0.0, 1.0, 5.0]))
@settings(max_examples=60)
def test_large_margin_is_liu_et_als(seed, margin, annealing):
    features, weight, bias, y = data(seed)
    prediction = predict(features, weight, bias)
    found = plain_loss("large-margin", margin=margin, annealing=annealing)(prediction, y)
    torch.testing.assert_close(found, liu(prediction, bias, y, margin, annealing), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_psi_falls_with_the_angle_without_jumps_from_one_to_its_floor(margin):
    angle = torch.linspace(1e-3, math.pi - 1e-3, 2001, dtype=torch.float64)
    features = torch.stack([angle.cos(), angle.sin()], 1)
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    prediction = Prediction(features @ weight.T, features, weight)
    y = torch.zeros(len(angle), dtype=torch.int64)
    loss = plain_loss("large-margin", margin=margin, annealing=0.0)(prediction, y)
    psi = -torch.log(torch.expm1(loss))  # loss = log(1 + exp(−ψ)), the other logit being 0
    assert (psi.diff() < 0).all()
    assert psi.diff().abs().max() < 0.01
    assert float(psi[0]) == pytest.approx(1, abs=1e-4)
    assert float(psi[-1]) == pytest.approx(1 - 2 * margin, abs=1e-4)


def test_margin_one_is_cross_entropy_and_larger_margins_ask_for_more():
    *head, y = data()
    prediction = predict(*head)
    losses = [plain_loss("large-margin", margin=m)(prediction, y) for m in (1, 2, 3, 4)]
    torch.testing.assert_close(losses[0], F.cross_entropy(prediction.outputs, y, reduction="none"))
    assert all((b > a).all() for a, b in pairwise(losses))


def test_large_margin_has_finite_gradients_where_features_or_weights_vanish():
    features, weight, bias, y = data()
    found = gradients(
        lambda *h: plain_loss("large-margin")(predict(*h), y).mean(), (features * 0, weight, bias)
    ) + gradients(lambda *h: plain_loss("large-margin")(predict(*h), y).mean(), (features, weight * 0, bias))
    assert all(g.isfinite().all() for g in found)


def literal(name, z, t):
    """The formula for one sample, in Python's own numbers."""
    p = [math.exp(a) / sum(map(math.exp, z)) for a in z]
    margin = z[t] - max(a for j, a in enumerate(z) if j != t)
    return {
        "cross-entropy": -math.log(p[t]),
        "label-smoothing": -0.9 * math.log(p[t]) - 0.1 * sum(map(math.log, p)) / C,
        "smooth-01": math.log1p(math.exp(-50 * margin)),
        "focal": -((1 - p[t]) ** 2) * math.log(p[t]),
        "generalized-cross-entropy": (1 - p[t] ** 0.7) / 0.7,
        "brier": sum((p[j] - (j == t)) ** 2 for j in range(C)),
        "hinge": max(0.0, 1.0 - margin),
    }[name]


@pytest.mark.parametrize("name", [n for n in CLASSIFICATION if n not in ("large-margin", "class-balanced")])
def test_losses_are_their_formulas(name):
    *head, y = data(scale=0.5)
    prediction = predict(*head)
    expected = [literal(name, z, t) for z, t in zip(prediction.outputs.tolist(), y.tolist(), strict=True)]
    assert plain_loss(name)(prediction, y).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_options_reach_the_formula():
    *head, y = data()
    prediction = predict(*head)
    flat = plain_loss("smooth-01", sharpness=0.0)(prediction, y)
    assert flat.tolist() == pytest.approx([math.log(2)] * N)
    torch.testing.assert_close(
        plain_loss("focal", gamma=0.0)(prediction, y), plain_loss("cross-entropy")(prediction, y)
    )
    q = plain_loss("generalized-cross-entropy", q=1e-9)(prediction, y)
    torch.testing.assert_close(q, plain_loss("cross-entropy")(prediction, y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("size", [1e-3, 1e4])
def test_losses_and_gradients_stay_finite_for_extreme_logits(name, size):
    features, weight, bias, y = data(dtype=torch.float32)
    found = gradients(lambda *h: plain_loss(name)(predict(*h), y).mean(), (size * features, weight, bias))
    assert all(g.isfinite().all() for g in found)


def test_squared_error_takes_targets_with_and_without_a_trailing_dimension():
    outputs, targets = torch.tensor([[1.0], [4.0]]), torch.tensor([0.0, 2.0])
    for shape in ((2,), (2, 1)):
        assert plain_loss("squared-error")(Prediction(outputs), targets.view(shape)).tolist() == [1.0, 4.0]


# --- mixture and sample weights --------------------------------------------------------------------------------------


def test_a_mixture_is_the_weighted_sum_of_its_components():
    *head, y = data()
    loss, prediction = make_loss("mixture", {"scale": 0.7, "options": {"smooth-01": {"sharpness": 3}}}), predict(*head)
    action = action_of(loss)
    coefficients = 0.7 * action
    coefficients[0] += 1
    means = [
        plain_loss(name, **({"sharpness": 3} if name == "smooth-01" else {}))(prediction, y).mean()
        for name in COMPONENTS
    ]
    torch.testing.assert_close(loss(action, prediction, y), (coefficients * torch.stack(means)).sum())
    torch.testing.assert_close(loss.coefficients(action), coefficients[None])


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_sample_weights_weigh_samples(scale):
    *head, y = data()
    loss, prediction = make_loss("sample-weights", {"base": "brier", "scale": scale}), predict(*head)
    action = action_of(loss)
    weights = 1 + scale * action
    torch.testing.assert_close(loss(action, prediction, y), (weights * plain_loss("brier")(prediction, y)).sum() / N)
    torch.testing.assert_close(loss.coefficients(action), weights[None])
    assert (loss.coefficients(-torch.ones(N)) >= 0).all()


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_normalised_weights_have_mean_one(scale):
    *head, y = data()
    loss = make_loss("sample-weights", {"scale": scale, "normalise": True})
    outputs, action = predict(*head).outputs.detach().requires_grad_(), action_of(loss)
    weights = (1 + scale * action) / (1 + scale * action).mean()
    losses = F.cross_entropy(outputs, y, reduction="none")
    torch.testing.assert_close(loss(action, Prediction(outputs), y), (weights * losses).mean())
    torch.testing.assert_close(loss.coefficients(action), weights[None])
    counts = torch.arange(N, dtype=torch.float64) % 3
    shares = counts * (1 + scale * action) / (counts * (1 + scale * action)).sum()
    torch.testing.assert_close(loss(action, Prediction(outputs, weights=counts), y), (shares * losses).sum())


def test_normalised_weights_that_are_all_zero_are_no_loss():
    *head, y = data()
    loss = make_loss("sample-weights", {"normalise": True})
    outputs, action = predict(*head).outputs.detach().requires_grad_(), -torch.ones(N, dtype=torch.float64)
    action.requires_grad_()
    value = loss(action, Prediction(outputs), y)
    gradients = torch.autograd.grad(value, [outputs, action], create_graph=True)
    assert value == 0
    assert not gradients[0].any()
    assert gradients[1].isfinite().all()
    assert not loss.coefficients(action).any()


@pytest.mark.parametrize("scale", [0.5, 0.99])
def test_class_weights_are_those_of_pytorchs_cross_entropy(scale):
    *head, y = data()
    loss, prediction = make_loss("class-weights", {"scale": scale}), predict(*head)
    action = action_of(loss)
    weights = 1 + scale * action
    torch.testing.assert_close(loss(action, prediction, y), F.cross_entropy(prediction.outputs, y, weights))
    torch.testing.assert_close(loss.coefficients(action), weights[None])
    plain = F.cross_entropy(prediction.outputs, y)
    torch.testing.assert_close(loss(torch.full_like(action, -0.9), prediction, y), plain)
    assert (loss.coefficients(-torch.ones(C)) > 0).all()


def test_class_weights_average_to_one_over_what_counts():
    *head, y = data()
    loss, counts = make_loss("class-weights"), torch.arange(N, dtype=torch.float64) % 3
    action = action_of(loss)
    weights = counts * (1 + 0.5 * action)[y]
    weights = weights / weights.sum()
    outputs = predict(*head).outputs
    expected = (weights * F.cross_entropy(outputs, y, reduction="none")).sum()
    torch.testing.assert_close(loss(action, Prediction(outputs, weights=counts), y), expected)


COUNTED = {"beta": 0.9, "counts": [5, 3, 0, 40] + [7] * (C - 4)}


def test_class_balanced_weights_are_those_of_the_effective_numbers():
    *head, y = data()
    outputs = predict(*head).outputs
    n = np.array(COUNTED["counts"], float)
    effective = np.where(n > 0, (1 - 0.9**n) / 0.1, np.inf)
    weights = 1 / effective / (1 / effective).sum() * (n > 0).sum()
    expected = torch.from_numpy(weights)[y] * F.cross_entropy(outputs, y, reduction="none")
    torch.testing.assert_close(plain_loss("class-balanced", **COUNTED)(Prediction(outputs), y), expected)
    plain = plain_loss("class-balanced", beta=0.0, counts=[3] * C)(Prediction(outputs), y)
    torch.testing.assert_close(plain, F.cross_entropy(outputs, y, reduction="none"))
    of_minibatch = plain_loss("class-balanced", counts=torch.bincount(y, minlength=C).tolist())
    torch.testing.assert_close(
        plain_loss("class-balanced")(Prediction(outputs), y), of_minibatch(Prediction(outputs), y)
    )


@pytest.mark.parametrize("loss", ["sample-weights", "data-weights"])
def test_a_family_takes_the_counts_of_the_pools_labels(loss):
    def of(labels, classes):
        return SimpleNamespace(pool=(None, labels), num_outputs=classes)

    labels = torch.tensor([0] * 7 + [2] * 3)
    family = make_loss(loss, {"base": "class-balanced", "beta": 0.9, "scale": 0.5, "normalise": True})
    fitted = family.fitted(of(labels, 3))
    assert type(fitted) is type(family)
    assert fitted.options == {"beta": 0.9, "counts": (7, 0, 3)}
    assert (fitted.scale, fitted.normalise) == (0.5, True)
    assert fitted.of_data().options == fitted.options
    assert fitted.fitted(of(labels, 3)) is fitted
    plain = make_loss(loss)
    assert plain.fitted(of(labels, 3)) is plain
    with pytest.raises(ValueError, match="counts has 3 numbers, expected one for each of 4 classes"):
        fitted.fitted(of(labels, 4))
    with pytest.raises(ValueError, match=r"counts labels, one a sample.*float32 of shape \(2,\).*counts=\(\.\.\.\)"):
        family.fitted(of(torch.zeros(4, 2), 2))


def test_an_environment_gives_its_pools_counts():
    env = TeachEnv(loss={"name": "sample-weights", "base": "class-balanced"}, label_noise=0.3, horizon=1, dev_size=20)
    counts = torch.bincount(env.task.pool[1], minlength=10).tolist()
    assert env.dynamics.loss.options == {"counts": tuple(counts)}


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("bilinaer", {}, ValueError, "did you mean 'bilinear'"),
        ("bilinear", {"scale": 0}, ValueError, "scale must be a finite number above 0, found 0"),
        ("bilinear-sigmoid", {"scale": -1}, ValueError, "scale must be a finite number above 0"),
        ("bilinear-sigmoid", {"cross_entropy": 2}, ValueError, "cross_entropy must be"),
        ("bilinear", {"scal": 1}, TypeError, "scal"),
        ("sample-weights", {"scale": 1.5}, ValueError, r"in \(0, 1\], found 1.5"),
        (
            "sample-weights",
            {"base": "class-balanced", "beta": 1.0},
            ValueError,
            r"beta must be a finite number in \[0, 1\), found 1.0",
        ),
        (
            "sample-weights",
            {"base": "class-balanced", "counts": [0, 0]},
            ValueError,
            "counts must have a class with samples",
        ),
        ("sample-weights", {"base": "class-balanced", "counts": [3, -1]}, ValueError, r"counts\[1\] must be"),
        ("sample-weights", {"normalise": 1}, ValueError, "normalise must be True or False, found 1"),
        ("sample-weights", {"base": "smooth01"}, ValueError, "did you mean 'smooth-01'"),
        ("sample-weights", {"base": "focal", "gama": 1}, TypeError, "did you mean 'gamma'"),
        (
            "sample-weights",
            {"base": "large-margin", "margin": 5},
            ValueError,
            "margin must be an integer of at least 1 and at most 4, found 5",
        ),
        ("class-weights", {"scale": 1.0}, ValueError, r"in \(0, 0.999\], found 1.0"),
        ("mixture", {"components": ["brier"]}, ValueError, "first component must be 'cross-entropy'"),
        ("mixture", {"components": ["cross-entropy", "briar"]}, ValueError, "did you mean 'brier'"),
        ("mixture", {"scale": 0.0}, ValueError, "scale must be a finite number above 0"),
    ],
)
def test_bad_families_are_errors(name, options, error, message):
    with pytest.raises(error, match=message):
        make_loss(name, options)
