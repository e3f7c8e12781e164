"""The loss that is a network: L2T-DLN's rows, its 5,000 weights, and what it is at first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from teachenv.losses import make_loss
from teachenv.losses.dynamic_network import (
    WEIGHTS,
    evaluate,
    imitate,
    initial_weights,
    one_against_one,
)
from teachenv.students import Prediction

N = 6


def logits(classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(N, classes, generator=rng, dtype=torch.float64), torch.arange(N) % classes


def weights(seed: int = 0) -> torch.Tensor:
    return initial_weights("random", seed).double()


def value(outputs: torch.Tensor, targets: torch.Tensor, action: torch.Tensor | None = None, **options: Any) -> Any:
    loss = make_loss("dynamic-network", {"initial": "random", **options})
    return loss(torch.zeros(WEIGHTS, dtype=torch.float64) if action is None else action, Prediction(outputs), targets)


def test_it_is_a_network_of_five_thousand_weights() -> None:
    layers = [nn.Linear(a, b, bias=False) for a, b in ((4, 40), (40, 40), (40, 40), (40, 40), (40, 1))]
    steps = [step for layer in layers for step in (layer, nn.LeakyReLU(0.01))][:-1]
    network = nn.Sequential(*steps).double()
    flat = torch.cat([p.flatten() for p in network.parameters()]).detach()
    assert len(flat) == WEIGHTS == 5000 == make_loss("dynamic-network").action_size(10, 32)
    rows = torch.rand(7, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(evaluate(flat, rows), network(rows).squeeze(-1).detach())


@pytest.mark.parametrize("per", ["pairs", "rows"])
def test_the_loss_is_the_mean_over_the_rows_of_wrong_classes(per: str) -> None:
    outputs, targets = logits(4)
    phi, squashed, total = weights(), outputs.sigmoid(), torch.zeros((), dtype=torch.float64)
    for i, y in enumerate(targets.tolist()):
        for k in range(4):
            if k != y:
                row = torch.stack([squashed[i, y], squashed[i, k], torch.tensor(1.0), torch.tensor(0.0)]).double()
                total = total + evaluate(phi, row)
    expected = total / (N * (3 if per == "pairs" else 4))
    torch.testing.assert_close(value(outputs, targets, per=per), expected)


def test_the_labels_own_row_counts_for_nothing_exactly() -> None:
    outputs, targets = logits(5)
    rows = one_against_one(outputs, targets)
    own = rows[torch.arange(N), targets]
    assert (own == 0).all()
    assert (evaluate(weights(), own) == 0).all()


def test_the_order_of_wrong_classes_does_not_matter() -> None:
    outputs, _ = logits(5)
    targets = torch.zeros(N, dtype=torch.long)
    order = torch.tensor([0, 3, 1, 4, 2])
    torch.testing.assert_close(value(outputs[:, order], targets), value(outputs, targets))


def test_one_network_is_a_loss_for_any_number_of_classes() -> None:
    """A further class comes in through its own row alone."""
    outputs, targets = logits(3)
    more = torch.cat([outputs, torch.full((N, 1), -40.0, dtype=torch.float64)], 1)  # σ is 0 there
    row = torch.stack([outputs.sigmoid()[torch.arange(N), targets], *torch.tensor([0.0, 1.0, 0.0]).expand(N, 3).T], 1)
    expected = (2 * N * value(outputs, targets) + evaluate(weights(), row).sum()) / (3 * N)
    torch.testing.assert_close(value(more, targets), expected)


def test_derivatives_are_those_of_differences() -> None:
    outputs, targets = logits(3)
    rng = torch.Generator().manual_seed(1)
    action = (torch.rand(WEIGHTS, generator=rng, dtype=torch.float64) - 0.5).requires_grad_()
    direction = torch.randn(WEIGHTS, generator=rng, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(value(outputs, targets, action), action)
    with torch.no_grad():
        ahead, behind = (value(outputs, targets, action + step * direction) for step in (1e-6, -1e-6))
    assert float(gradient @ direction) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-6)
    assert torch.autograd.gradcheck(lambda z: value(z, targets, action.detach()), [outputs.requires_grad_()])


def test_an_action_moves_the_weights_within_the_scale() -> None:
    outputs, targets = logits(3)
    action = torch.linspace(-1, 1, WEIGHTS, dtype=torch.float64)
    rows = one_against_one(outputs, targets)
    expected = evaluate(weights() + 0.25 * action, rows).sum() / (2 * N)
    torch.testing.assert_close(value(outputs, targets, action, scale=0.25), expected)


def test_what_is_shown_is_the_loss_of_a_pair() -> None:
    """It falls as the label's logit rises, and rises with the other class's."""
    shown = make_loss("dynamic-network").coefficients(torch.zeros(WEIGHTS, dtype=torch.float64))
    assert shown.shape == (21, 21)
    assert float(shown[10, 10]) == pytest.approx(float(F.softplus(torch.tensor(0.0))), abs=0.02)
    assert (shown.diff(dim=0)[4:16, 4:16] < 0).all()
    assert (shown.diff(dim=1)[4:16, 4:16] > 0).all()


def test_students_together_are_each_student() -> None:
    loss = make_loss("dynamic-network")
    pairs = [logits(4, seed) for seed in range(3)]
    outputs, targets = (torch.stack(t) for t in zip(*pairs, strict=True))
    actions = torch.rand(3, WEIGHTS, dtype=torch.float64)
    together = torch.func.vmap(lambda a, z, y: loss(a, Prediction(z), y))(actions, outputs, targets)
    alone = [loss(a, Prediction(z), y) for a, (z, y) in zip(actions, pairs, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize(
    ("initial", "wanted"),
    [("cross-entropy", lambda z: F.softplus(z[:, 1] - z[:, 0])), ("zero-one", lambda z: (z[:, 1] - z[:, 0]).sigmoid())],
)
@pytest.mark.parametrize("activation", ["leaky-relu", "leaky-swish"])
def test_it_begins_as_a_known_loss_of_two_classes(initial: str, wanted: Any, activation: str) -> None:
    z = torch.linspace(-2, 2, 21, dtype=torch.float64)
    outputs, targets = torch.cartesian_prod(z, z).requires_grad_(), torch.zeros(441, dtype=torch.long)
    loss = make_loss("dynamic-network", {"initial": initial, "activation": activation})
    (found,) = torch.autograd.grad(loss(torch.zeros(WEIGHTS).double(), Prediction(outputs), targets), outputs)
    (expected,) = torch.autograd.grad(wanted(outputs).mean(), outputs)
    assert float((found * expected).sum() / (found.norm() * expected.norm())) > 0.99
    assert float(found.norm() / expected.norm()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("wanted", "known"),
    [("cross-entropy", lambda z: F.softplus(z[:, 1] - z[:, 0])), ("zero-one", lambda z: (z[:, 1] - z[:, 0]).sigmoid())],
)
def test_imitation_brings_a_random_network_closer(wanted: Any, known: Any) -> None:
    before = weights()
    after = imitate(wanted, before, steps=150)
    outputs = torch.randn(200, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = one_against_one(outputs, torch.zeros(200, dtype=torch.long))
    errors = [(evaluate(w, rows).sum(1) - known(outputs)).square().mean() for w in (before, after)]
    assert errors[1] < 0.2 * errors[0]
    assert torch.equal(before, weights())


def test_what_a_teacher_differentiates_is_all_only_without_kinks() -> None:
    """How the students' gradient changes with φ: by its derivative, and by differences over a hundredth of the box."""
    outputs, targets = logits(10)
    rng = torch.Generator().manual_seed(2)
    direction = torch.randn(WEIGHTS, generator=rng, dtype=torch.float64)
    errors = {}
    for activation in ("leaky-relu", "leaky-swish"):

        def slope(action: torch.Tensor, activation: str = activation) -> torch.Tensor:
            z = outputs.detach().clone().requires_grad_()
            loss = value(z, targets, action, activation=activation)
            (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
            return gradient

        zero = torch.zeros(WEIGHTS, dtype=torch.float64, requires_grad=True)
        probe = slope(zero)
        weight = torch.randn(probe.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        (derivative,) = torch.autograd.grad((probe * weight).sum(), zero)
        ahead, behind = (slope(step * direction) for step in (0.01, -0.01))
        by_differences = float(((ahead - behind) * weight).sum().detach()) / 0.02
        errors[activation] = abs(float(derivative @ direction) / by_differences - 1)
    assert errors["leaky-swish"] < 0.05 < errors["leaky-relu"]


def test_a_bounded_network_stays_bounded_on_confident_errors() -> None:
    """Ten logits beyond the label's, where cross-entropy is ten."""
    outputs = torch.tensor([[-5.0, 5.0]], dtype=torch.float64)
    targets = torch.zeros(1, dtype=torch.long)
    assert 0.5 < float(value(outputs, targets, initial="zero-one")) < 1.5
    assert float(value(outputs, targets, initial="cross-entropy")) > 4


def test_random_networks_are_drawn_by_their_seed() -> None:
    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
    middle = weights()[160:-40]
    assert float(middle.std()) == pytest.approx((2 / (1 + 0.01**2) / 40) ** 0.5, rel=0.05)


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"initial": "cross-entropi"}, {"per": "class"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scale|cross-entropy|pairs"):
        make_loss("dynamic-network", options)
