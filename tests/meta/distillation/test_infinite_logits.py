"""Logits of −∞ (masked actions, padded vocabularies): 0 log 0 = 0, and no NaN where a loss is finite."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import distributions as td
from torch import nn
from torch.nn import functional as F

import meta
from agents.distributions import policy_distance
from meta.distillation import losses
from meta.lot import imitability
from teachenv.losses import LOSSES, PLAIN_LOSSES, make_loss, plain_loss
from teachenv.losses.plain import reads
from teachenv.students import Prediction

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ABSENT = -math.inf


def policies(taught: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return policy_distance([td.Categorical(logits=own)], [td.Categorical(logits=taught)], 1.5)


OF_TWO: dict[str, Loss] = {
    "divergence": lambda t, s: losses.divergence(t, s, 1.5).mean(),
    "soft-cross-entropy": lambda t, s: losses.soft_cross_entropy(t, s, 1.5).mean(),
    "spherical": lambda t, s: losses.spherical(t, s).mean(),
    "relational-inter": lambda t, s: losses.relational(t, s)[0],
    "relational-intra": lambda t, s: losses.relational(t, s)[1],
    "squared": lambda t, s: losses.squared(t, s).mean(),
    "imitability-kl": lambda t, s: imitability(s, t, 1.5),
    "imitability-l2": lambda t, s: imitability(s, t, 1.5, metric="l2"),
    "imitability-dim": lambda t, s: imitability(s.t(), t.t(), dim=0),
    "policies": policies,
}
LOGARITHMIC = (
    "divergence",
    "soft-cross-entropy",
    "spherical",
    "squared",
    "imitability-kl",
    "imitability-dim",
    "policies",
)
"""Infinite where the student rules out what the teacher does not."""


def drawn(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def padded(z: torch.Tensor) -> torch.Tensor:
    return F.pad(z, (1, 2), value=ABSENT)


def slopes(loss: Callable[..., torch.Tensor], *logits: torch.Tensor) -> list[torch.Tensor]:
    """Value and gradients; zeros for what the loss holds."""
    leaves = [z.detach().clone().requires_grad_() for z in logits]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves, materialize_grads=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", OF_TWO.values(), ids=OF_TWO)
def test_a_class_absent_in_both_changes_nothing(loss: Loss, dtype: torch.dtype) -> None:
    taught, own = drawn(0, dtype), drawn(1, dtype)
    value, *gradients = slopes(loss, taught, own)
    found, *of_padded = slopes(loss, padded(taught), padded(own))
    torch.testing.assert_close(found, value)
    for wide, narrow in zip(of_padded, gradients, strict=True):
        torch.testing.assert_close(wide, F.pad(narrow, (1, 2)))


def test_divergence_is_that_of_distributions() -> None:
    taught, own = drawn(0), drawn(1)
    taught[0, 1] = own[0, 1] = taught[2, :3] = ABSENT  # of both, and of the teacher only
    expected = td.kl_divergence(td.Categorical(logits=taught), td.Categorical(logits=own))
    torch.testing.assert_close(losses.divergence(taught, own), expected)
    own[3, 2] = ABSENT
    assert losses.divergence(taught, own)[3] == math.inf
    assert losses.divergence(taught, own)[:3].isfinite().all()


@pytest.mark.parametrize("loss", OF_TWO.values(), ids=OF_TWO)
def test_one_network_may_rule_a_class_out(loss: Loss, request: pytest.FixtureRequest) -> None:
    taught, own = drawn(0), drawn(1)
    name = request.node.callspec.id
    by_teacher, by_student = taught.clone(), own.clone()
    by_teacher[1, 2] = by_student[1, 2] = ABSENT
    for logits, infinite in (((by_teacher, own), name == "squared"), ((taught, by_student), name in LOGARITHMIC)):
        value, _, gradient = slopes(loss, *logits)
        assert not value.isnan()
        assert bool(value == math.inf) == infinite
        assert infinite or gradient.isfinite().all()


@pytest.mark.parametrize("metric", ["kl", "l2"])
def test_lot_trains_networks_with_a_padded_vocabulary(metric: str) -> None:
    class Padded(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.pad(super().forward(x), (0, 2), value=ABSENT)

    torch.manual_seed(0)
    model, student, x, y = Padded(4, 3), Padded(4, 3), torch.randn(16, 4), torch.randint(3, (16,))
    lot = meta.LoT(student, torch.optim.SGD(student.parameters(), lr=0.5), metric=metric)  # type: ignore[arg-type]
    distances = []
    for _ in range(5):
        loss = F.cross_entropy(model(x), y) + lot(model(x), x)
        loss.backward()  # type: ignore[no-untyped-call]
        distances.append(float(lot.step(model)))
    assert loss.isfinite()
    assert model.weight.grad is not None
    assert model.weight.grad.isfinite().all()
    assert distances[-1] < distances[0]


def prediction(logits: torch.Tensor) -> Prediction:
    rng = torch.Generator().manual_seed(3)
    features, head = (torch.randn(9, 4, dtype=torch.float64, generator=rng)[:rows] for rows in logits.shape)
    return Prediction(logits, features, head)


@pytest.mark.parametrize("name", [n for n in PLAIN_LOSSES if reads(n)[0] == "labels" and n != "label-smoothing"])
def test_losses_of_labels_ignore_an_absent_class(name: str) -> None:
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    loss = plain_loss(name)
    value, gradient = slopes(lambda z: loss(prediction(z), targets).mean(), drawn(0))
    found, wide = slopes(lambda z: loss(prediction(F.pad(z, (0, 2), value=ABSENT)), targets).mean(), drawn(0))
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(wide, gradient)


FAMILIES = [name for name in LOSSES if not make_loss(name).of_pairs]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_finite_where_a_class_is_absent(name: str) -> None:
    options = {"shares": [1.0, 3.0]} if name == "domain-weights" else {}
    family, logits = make_loss(name, options), F.pad(drawn(0), (0, 2), value=ABSENT)
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    size = family.action_size(7, 6)
    neutral = torch.zeros(size, dtype=torch.float64)
    drawn_action = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, size))
    # Label smoothing, a part of the mixture, gives each class a part, and an action may give any class a label's.
    actions = [neutral] if name in ("mixture", "label-weights") else [neutral, drawn_action]
    for action in actions:
        found = slopes(lambda a, z: family(a, prediction(z), targets), action, logits)
        assert all(part.isfinite().all() for part in found)


def of_pair(loss: Callable[..., torch.Tensor], action: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    return loss(action, Prediction(outputs, None, None), torch.tensor([1, 2, 3, 4, 5, 1]))


def test_distillation_family_is_finite_where_a_class_is_absent() -> None:
    family = make_loss("distillation", {})
    pair = torch.cat([padded(drawn(0)), padded(drawn(1))], 1)
    for loss in (family, family.of_teacher):  # type: ignore[attr-defined]
        found = slopes(
            functools.partial(of_pair, loss),
            torch.zeros(6, dtype=torch.float64),
            pair,
        )
        assert all(part.isfinite().all() for part in found)
