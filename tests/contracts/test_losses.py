"""What every loss family of the registry does. Those of a teacher network and a student are in `test_joint.py`."""

import inspect

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from teachenv.losses import LOSSES, PLAIN_LOSSES, make_loss, plain_loss
from teachenv.losses.plain import reads
from teachenv.students import Prediction

SAMPLES, CLASSES, FEATURES = 12, 5, 7
# What a family needs to know, where there is no task to take it from.
NEEDED = {"domain-weights": {"shares": [0.5, 0.2, 0.3]}}
FAMILIES = {name: NEEDED.get(name, {}) for name in LOSSES if not make_loss(name).of_pairs}
# The same families with other options.
VARIANTS = {
    "sample-weights/large-margin": {"base": "large-margin", "margin": 3},
    "sample-weights/normalised": {"normalise": True},
    "data-weights/normalised": {"normalise": True},
    "mixture/two": {"components": ["cross-entropy", "brier"], "scale": 2.0},
}
CASES = FAMILIES | VARIANTS
by_case = pytest.mark.parametrize("case", CASES)


def generalized(prediction, targets):
    return plain_loss("generalized-cross-entropy", q=0.7)(prediction, targets).mean()


def sigmoid(prediction, targets):
    p = prediction.outputs.softmax(1).gather(1, targets[:, None])
    return (-p / (1 + p)).mean()


# The loss at the zero action, where it is not cross-entropy.
NEUTRAL = {
    "bilinear-generalized": generalized,
    "bilinear-sigmoid": sigmoid,
    "diagonal-sigmoid": sigmoid,
    "dynamic-network": None,  # only near to cross-entropy: see test_dynamic_network
    "sample-weights/large-margin": lambda *at: plain_loss("large-margin", margin=3)(*at).mean(),
}
# Those whose gradient there is not the same to the last bit, as they are written otherwise.
ROUNDED = ("bilinear-sigmoid", "diagonal-sigmoid", "dynamic-network", "sample-weights/large-margin")


def cross_entropy(prediction, targets):
    return F.cross_entropy(prediction.outputs, targets)


def family(case):
    return make_loss(case.split("/")[0], CASES[case])


def data(seed=0, dtype=torch.float64):
    """Features, head weight and bias, and targets that cover every class."""
    rng = torch.Generator().manual_seed(seed)
    shapes = ((SAMPLES, FEATURES), (CLASSES, FEATURES), (CLASSES,))
    features, weight, bias = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in shapes)
    return (2 * features).to(dtype), weight.to(dtype), bias.to(dtype), torch.arange(SAMPLES) % CLASSES


def predict(features, weight, bias):
    return Prediction(features @ weight.T + bias, features, weight)


def action_of(loss, seed=0):
    size = loss.action_size(CLASSES, SAMPLES)
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, size))


@pytest.mark.parametrize("case", [case for case in CASES if family(case).drops_samples])
def test_a_dropped_sample_does_not_reach_the_loss(case):
    loss, (*head, targets) = family(case), data()
    outputs = predict(*head).outputs.detach().requires_grad_()
    action = action_of(loss)
    action[3] = -1.0
    (gradient,) = torch.autograd.grad(loss(action, Prediction(outputs, head[0], head[1]), targets), outputs)
    reached = gradient.abs().sum(1)
    assert reached[3] < 1e-15
    assert (reached[torch.arange(SAMPLES) != 3] > 1e-6).all()


@pytest.mark.parametrize("case", [case for case in CASES if NEUTRAL.get(case, cross_entropy)])
def test_the_zero_action_is_the_plain_loss(case):
    loss, (*head, targets) = family(case), data()
    zero = torch.zeros(loss.action_size(CLASSES, SAMPLES), dtype=torch.float64)
    plain = NEUTRAL.get(case, cross_entropy)(predict(*head), targets)
    torch.testing.assert_close(loss(zero, predict(*head), targets), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ROUNDED])
def test_the_zero_actions_gradient_is_the_plain_losss_bitwise(case, dtype):
    loss, (*head, targets) = family(case), data(dtype=dtype)
    zero = torch.zeros(loss.action_size(CLASSES, SAMPLES), dtype=dtype)
    gradients = []
    for function in (lambda *at: loss(zero, *at), NEUTRAL.get(case, cross_entropy)):
        leaves = [t.clone().requires_grad_() for t in head]
        gradients.append(
            torch.autograd.grad(function(predict(*leaves), targets), leaves, allow_unused=True, materialize_grads=True)
        )
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@by_case
def test_every_action_coordinate_and_the_outputs_get_the_right_gradient(case):
    loss, (*head, targets) = family(case), data()
    action = action_of(loss).requires_grad_()
    leaves = [t.requires_grad_() for t in head]

    def value(action, *head):
        return loss(action, predict(*head), targets)

    # Of a long action the derivative along one random direction is checked, not along each coordinate.
    assert torch.autograd.gradcheck(value, [action, *leaves], fast_mode=len(action) > 100)
    (of_action,) = torch.autograd.grad(value(action, *head), action)
    assert (of_action != 0).all() or (len(action) > 100 and (of_action != 0).double().mean() > 0.9)


@pytest.mark.parametrize("name", [*CASES, *PLAIN_LOSSES])
def test_vmap_over_students_is_each_student(name):
    students = [data(seed) for seed in range(3)]
    features, weight, bias, targets = (torch.stack(t) for t in zip(*students, strict=True))
    if name in CASES:
        loss = family(name)
        actions = torch.stack([action_of(loss, seed) for seed in range(3)])
    else:
        base = plain_loss(name)
        actions = torch.zeros(3, 1)
        targets = torch.randn(3, SAMPLES, CLASSES, dtype=torch.float64) if reads(name)[0] != "labels" else targets

        def loss(_, prediction, targets):
            return base(prediction, targets).mean()

    def one(action, *rest):
        *head, targets = rest
        return loss(action, predict(*head), targets)

    arguments = (actions, features, weight, bias, targets)
    together = torch.func.vmap(torch.func.grad(one, argnums=(1, 2)))(*arguments)
    alone = [torch.func.grad(one, argnums=(1, 2))(*row) for row in zip(*arguments, strict=True)]
    torch.testing.assert_close(together, tuple(torch.stack(t) for t in zip(*alone, strict=True)))
    torch.testing.assert_close(
        torch.func.vmap(one)(*arguments), torch.stack([one(*row) for row in zip(*arguments, strict=True)])
    )


@pytest.mark.parametrize("name", LOSSES)
def test_families_say_what_they_are(name):
    loss = make_loss(name, NEEDED.get(name))
    assert "scale" in inspect.signature(type(loss)).parameters  # how far the box reaches
    action = torch.zeros(len(loss.shares) if loss.of_domains else loss.action_size(CLASSES, SAMPLES))
    assert action.dim() == 1
    assert len(action) > 0
    assert loss.coefficients(action).dim() == 2
    assert loss.coefficient_label
    with pytest.raises(TypeError, match="no_such_option"):
        make_loss(name, {"no_such_option": 1})


@pytest.mark.parametrize("name", ["sample-weights", "data-weights"])
def test_options_of_weighted_samples_are_theirs_and_the_base_losss(name):
    with pytest.raises(TypeError, match=r"weighted samples of 'focal': .*'scal', did you mean 'scale'"):
        make_loss(name, {"base": "focal", "scal": 0.5})
    assert make_loss(name, {"base": "focal", "gamma": 3.0, "scale": 0.5}).scale == 0.5
