"""Update rules: budgets, that coordinates do not see each other, and the optimisers against PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from meta.hypergradients.window_gradient import encoded
from meta.teachers.update_rules import (
    AdamRule,
    GRURule,
    LSTMRule,
    MlpRule,
    RMSPropRule,
    SGDRule,
    TransformerRule,
    UpdateRule,
)

LEARNED: list[type[Any]] = [LSTMRule, GRURule, MlpRule, TransformerRule]
FIXED: list[type[Any]] = [SGDRule, RMSPropRule, AdamRule]


def gradients(steps: int = 4, coordinates: int = 5) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [10 ** (2 * torch.randn(coordinates, generator=rng, dtype=torch.float64) - 4) for _ in range(steps)]


def updates(rule: UpdateRule, seen: list[torch.Tensor]) -> list[torch.Tensor]:
    inputs = [torch.stack(encoded(g).chunk(2), -1) for g in seen]
    memory, found = rule.initial(inputs[0]), []
    for each in inputs:
        update, memory = rule(each, memory)
        found.append(update)
    return found


def made(kind: type[UpdateRule]) -> UpdateRule:
    torch.manual_seed(0)
    return kind().double()


def test_the_lstm_is_that_of_the_released_code() -> None:
    assert sum(p.numel() for p in LSTMRule().parameters()) == 84_236


@pytest.mark.parametrize("kind", [GRURule, MlpRule])
def test_rules_to_compare_it_with_have_its_budget(kind: type[UpdateRule]) -> None:
    assert sum(p.numel() for p in kind().parameters()) == pytest.approx(84_236, rel=0.01)


@pytest.mark.parametrize("kind", LEARNED + FIXED)
def test_each_coordinate_is_moved_by_its_own_gradients_alone(kind: type[UpdateRule]) -> None:
    rule, seen = made(kind), gradients()
    together = torch.stack(updates(rule, seen))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(torch.stack(updates(rule, [g[order] for g in seen])), together[:, order])
    alone = torch.stack(updates(rule, [g[2:3] for g in seen]))
    torch.testing.assert_close(alone, together[:, 2:3])


@pytest.mark.parametrize("kind", LEARNED)
def test_a_learned_update_is_bounded_and_depends_on_every_parameter(kind: type[UpdateRule]) -> None:
    rule = made(kind)
    found = torch.stack(updates(rule, gradients()))
    assert found.abs().max() < 1
    (found * torch.linspace(1, 2, found.numel()).view_as(found)).sum().backward()  # type: ignore[no-untyped-call]
    for name, p in rule.named_parameters():
        assert p.grad is not None
        assert p.grad.any(), name


@pytest.mark.parametrize(
    ("kind", "remembers"), [(LSTMRule, True), (GRURule, True), (TransformerRule, True), (MlpRule, False)]
)
def test_only_the_memoryless_rule_forgets(kind: type[UpdateRule], remembers: bool) -> None:
    first, second, third, _ = gradients()
    rule = made(kind)
    assert torch.equal(updates(rule, [first, third])[-1], updates(rule, [second, third])[-1]) is not remembers


def test_a_transformer_forgets_what_is_older_than_its_history() -> None:
    rule = TransformerRule(history=2).double()
    a, b, c, d = gradients()
    torch.testing.assert_close(updates(rule, [a, b, c])[-1], updates(rule, [d, b, c])[-1])
    assert not torch.equal(updates(rule, [a, b])[-1], updates(rule, [d, b])[-1])
    with pytest.raises(ValueError, match="history=0"):
        TransformerRule(history=0)


@pytest.mark.parametrize("kind", [LSTMRule, GRURule, MlpRule])
def test_weights_of_zero_give_no_update(kind: type[UpdateRule]) -> None:
    rule = made(kind)
    with torch.no_grad():
        for p in rule.parameters():
            p.zero_()
    assert not torch.stack(updates(rule, gradients())).any()


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        (SGDRule(), lambda p: torch.optim.SGD(p, lr=0.1)),
        (RMSPropRule(), lambda p: torch.optim.RMSprop(p, lr=0.1)),
        (RMSPropRule(0.9, 1e-3), lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, eps=1e-3)),
        (AdamRule(), lambda p: torch.optim.Adam(p, lr=0.1)),
        (AdamRule((0.5, 0.9), 1e-3), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3)),
    ],
)
def test_optimisers_move_as_pytorchs_do(rule: UpdateRule, optimizer: Any) -> None:
    seen = gradients(6)
    weights = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    peer = optimizer([weights])
    moved = torch.zeros_like(weights)
    for gradient, update in zip(seen, updates(rule, seen), strict=True):
        weights.grad = gradient.clone()
        peer.step()
        moved = moved - 0.1 * update
    torch.testing.assert_close(moved, weights.detach(), rtol=1e-6, atol=1e-9)
