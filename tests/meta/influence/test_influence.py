"""Influence: three ways to one number, and what it predicts."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import meta

Batch = tuple[torch.Tensor, torch.Tensor]


class Attention(nn.Module):
    """A transformer encoder on tokens, as small as they come, with dropout and the fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.norm, self.dropout, self.head = nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        heads = (layer(x).unflatten(-1, (2, 4)).transpose(-3, -2) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(*heads).transpose(-3, -2).flatten(-2)
        logits: torch.Tensor = self.head(self.norm(x + self.dropout(mixed)).mean(-2))
        return logits


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3))


def convolutional() -> nn.Module:
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    model = nn.Sequential(*layers)
    with torch.no_grad():
        model.train()(torch.randn(20, 2, 6, 6))
    return model


MODELS = {
    "mlp": (perceptron, lambda n: torch.randn(n, 6)),
    "cnn": (convolutional, lambda n: torch.randn(n, 2, 6, 6)),
    "attention": (Attention, lambda n: torch.randint(20, (n, 5))),
}


def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets, reduction="none")


def made(name: str, samples: int = 5) -> tuple[nn.Module, Batch, dict[str, torch.Tensor]]:
    """A model in float64, a batch, and a held-out gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        build, inputs = MODELS[name]
        model, drawn = build().double(), [inputs(n) for n in (samples, 7)]
        batch, held_out = ((x.double() if x.is_floating_point() else x, torch.randint(3, (len(x),))) for x in drawn)
    return model, batch, meta.held_out_gradient(model, losses, held_out)


@pytest.mark.parametrize("name", MODELS)
def test_exact_is_the_products_of_per_sample_gradients(name: str) -> None:
    model, batch, v = made(name)
    expected = meta.influence(model, losses, batch, v, method="per-sample")
    assert expected.shape == (5,)
    assert expected.abs().min() > 1e-8
    torch.testing.assert_close(meta.influence(model, losses, batch, v), expected, rtol=1e-10, atol=1e-12)
    # And the plain way, by hand.
    model.eval()
    for i in range(5):
        own = torch.autograd.grad(
            losses(model, (batch[0][i : i + 1], batch[1][i : i + 1]))[0], list(model.parameters())
        )
        product = sum((g * v[n]).sum() for g, (n, _) in zip(own, model.named_parameters(), strict=True))
        torch.testing.assert_close(expected[i], product, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_the_error_of_differences_falls_with_the_square_of_their_step(name: str) -> None:
    model, batch, v = made(name)
    exact = meta.influence(model, losses, batch, v)
    radii = [0.3, 0.1, 0.03, 0.01]
    errors = [
        float((meta.influence(model, losses, batch, v, method="finite-difference", radius=r) - exact).norm())
        for r in radii
    ]
    slope = np.polyfit(np.log(radii), np.log(errors), 1)[0]
    assert slope == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("method", meta.INFLUENCE_METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_mean_influence_is_that_of_the_batch(name: str, method: Any) -> None:
    model, batch, v = made(name)
    # Too short a step to reach a kink of ReLU or max-pooling.
    found = meta.influence(model, losses, batch, v, method=method, radius=1e-5)
    whole = meta.held_out_gradient(model, losses, batch)
    expected = sum((whole[n] * v[n]).sum() for n in v)
    assert found.mean() == pytest.approx(float(expected), rel=1e-6)


def test_a_step_on_a_sample_lowers_the_held_out_loss_by_its_influence() -> None:
    model, batch, _ = made("mlp")
    held_out = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), torch.arange(9) % 3
    found = meta.influence(model, losses, batch, meta.held_out_gradient(model, losses, held_out))
    model.eval()
    before = losses(model, held_out).mean().detach()
    for i, own in enumerate(found):
        drops = []
        for rate in (1e-4, -1e-4):
            one = batch[0][i : i + 1], batch[1][i : i + 1]
            gradient = meta.held_out_gradient(model, losses, one)
            stepped = {n: p.detach() - rate * gradient[n] for n, p in model.named_parameters()}
            drops.append(
                before - losses(lambda x, s=stepped: torch.func.functional_call(model, s, (x,)), held_out).mean()
            )
        assert float(drops[0] - drops[1]) / 2e-4 == pytest.approx(float(own), rel=1e-5)


def test_the_held_out_gradient_is_taken_at_the_parameters_given() -> None:
    model, batch, own = made("mlp")
    other = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    there = meta.held_out_gradient(model, losses, batch, other)
    model.load_state_dict(other)
    here = meta.held_out_gradient(model, losses, batch)
    assert all(torch.equal(there[n], here[n]) for n in own)


@pytest.mark.parametrize("method", meta.INFLUENCE_METHODS)
def test_the_model_stays_as_it_is(method: Any) -> None:
    model, batch, v = made("cnn")
    model.train()
    model[1].eval()
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    found = meta.influence(model, losses, batch, v, method=method)
    assert not found.requires_grad
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[5].weight.grad.eq(1).all()
    assert model[0].weight.grad is None
    assert torch.equal(torch.get_rng_state(), generator)


class Counting(nn.Linear):
    """Changes buffers in evaluation mode too: in place, in a view, past the version counter, in size, and new ones."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("kept", torch.zeros(()))
        self.register_buffer("counts", torch.zeros(2))
        self.register_buffer("first", self.counts[:1])
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(x)
        self.passes += 1
        self.first += 1
        self.counts.data += 1
        if not torch._C._functorch.maybe_current_level():  # a batch of samples has no one mean
            self.mean = outputs.mean()
            self.seen.resize_(3)
            self.register_buffer("last", outputs.detach())
            self.kept.copy_(outputs.detach().mean())
        return outputs


@pytest.mark.parametrize("method", meta.INFLUENCE_METHODS)
def test_buffers_that_change_in_evaluation_mode_are_put_back(method: Any) -> None:
    torch.manual_seed(0)
    model, batch = Counting(), (torch.randn(5, 6), torch.arange(5) % 3)
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    meta.influence(model, losses, batch, meta.held_out_gradient(model, losses, batch), method=method)
    assert dict(model.named_buffers()).keys() == buffers.keys()
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0]
        assert not buffer.requires_grad
        assert torch.equal(buffer, buffers[name][1])
    assert model.first.data_ptr() == model.counts.data_ptr()


@pytest.mark.parametrize("method", meta.INFLUENCE_METHODS)
def test_nothing_has_influence_on_a_loss_without_gradient(method: Any) -> None:
    model, batch, v = made("mlp")
    nowhere = {name: torch.zeros_like(value) for name, value in v.items()}
    assert meta.influence(model, losses, batch, nowhere, method=method).tolist() == [0.0] * 5


@pytest.mark.parametrize("method", meta.INFLUENCE_METHODS)
def test_frozen_parameters_have_no_part_in_it(method: Any) -> None:
    model, batch, _ = made("mlp")
    model[0].requires_grad_(False)
    v = meta.held_out_gradient(model, losses, batch)
    assert set(v) == {"3.weight", "3.bias"}
    whole = {name: torch.zeros_like(p) for name, p in model.named_parameters()} | v
    few, all_of_them = (meta.influence(model, losses, batch, d, method=method) for d in (v, whole))
    torch.testing.assert_close(few, all_of_them)


def test_a_model_that_cannot_be_batched_goes_sample_by_sample() -> None:
    class Branching(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if bool((x.abs() < 100).all()) else x.clamp(-1, 1))

    model, batch, v = made("mlp")
    branching = Branching(*model)
    found = meta.influence(branching, losses, batch, v, method="per-sample")
    torch.testing.assert_close(found, meta.influence(model, losses, batch, v, method="per-sample"))


@given(st.integers(1, 6), st.floats(-3, 3), st.floats(-3, 3))
def test_influence_is_linear_in_the_direction(samples: int, a: float, b: float) -> None:
    model, batch, v = made("mlp", samples)
    u = {name: torch.ones_like(value) for name, value in v.items()}
    both = {name: a * v[name] + b * u[name] for name in v}
    found = [meta.influence(model, losses, batch, d) for d in (v, u, both)]
    torch.testing.assert_close(found[2], a * found[0] + b * found[1])


def test_what_makes_no_sense_is_refused() -> None:
    model, batch, v = made("mlp")
    for wrong, message in [
        ({"method": "exactly"}, "exact"),
        ({"radius": 0.0}, "radius must be a finite number above 0"),
        ({"direction": {}}, "held_out_gradient"),
        ({"direction": {"0.wieght": v["0.weight"]}}, "0.weight"),
        ({"direction": {"0.weight": v["0.bias"]}}, r"found shape \(16,\), the model's has \(16, 6\)"),
        ({"losses": lambda m, b: F.cross_entropy(m(b[0]), b[1])}, 'reduction="none"'),
    ]:
        arguments = {"model": model, "losses": losses, "batch": batch, "direction": v, **wrong}
        with pytest.raises(ValueError, match=message):
            meta.influence(**arguments)
    with pytest.raises(ValueError, match=r"0\.weight"):
        meta.held_out_gradient(model, losses, batch, {"0.wieght": v["0.weight"]})


class Encoding(UserDict[str, Any]):
    """A mapping that is no dictionary, as tokenizers return it."""


@pytest.mark.parametrize("form", [dict, Encoding])
def test_batches_by_name_may_be_any_mapping_and_hold_texts(form: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x, y = torch.randn(6, 4), torch.arange(6) % 3

    def by_name(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    batch = form({"split": "train", "texts": ["a"] * 6, "number": torch.tensor(2), "x": x, "y": y})
    plain = (x, y)
    direction = meta.held_out_gradient(model, by_name, batch)
    wanted = meta.held_out_gradient(model, losses, plain)
    for name, gradient in wanted.items():
        torch.testing.assert_close(direction[name], gradient)
    torch.testing.assert_close(
        meta.influence(model, by_name, batch, wanted), meta.influence(model, losses, plain, wanted)
    )
    with pytest.raises(TypeError, match=r'"per-sample" takes a batch apart into its samples, found a (str|Encoding)'):
        meta.influence(model, by_name, batch, wanted, method="per-sample")
