"""Products of a graph that is held by its ends alone are autograd's, and nothing else is held."""

import weakref

import pytest
import torch

from teachenv.graphs import Products, sources


def graph_of(w, b, x):
    """(two gradients of a loss with respect to w, b; something without a graph)."""
    loss = torch.tanh(x @ w).square().sum() + (b**2).sum()
    return *torch.autograd.grad(loss, [w, b], create_graph=True), torch.ones(2)


def tensors():
    rng = torch.Generator().manual_seed(0)
    sizes = {"w": (3, 2), "b": (2,), "unused": (4,)}
    made = {name: torch.randn(size, generator=rng, dtype=torch.float64) for name, size in sizes.items()}
    return made, torch.randn(5, 3, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, False)])
def test_products_are_autograds(given):
    values, x = tensors()
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    cotangents = [torch.ones(3, 2).double(), torch.arange(2.0).double()]
    outputs = graph_of(leaves["w"], leaves["b"], x)
    total = sum((o * c).sum() for o, c, g in zip(outputs, cotangents, given, strict=False) if g)
    wanted = [torch.zeros_like(value) for value in values.values()]
    if any(given):
        wanted = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)

    inputs = sources(values)
    products = Products(graph_of(inputs["w"], inputs["b"], x), list(inputs.values()))
    found = products([*(c if g else None for c, g in zip(cotangents, given, strict=True)), torch.ones(2)])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_many_cotangents_are_taken_at_once():
    values, x = tensors()
    cotangents = torch.randn(4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def products(cotangents):
        inputs = sources(values)
        return Products(graph_of(inputs["w"], inputs["b"], x), list(inputs.values()))([cotangents, None, None])

    each = [products(cotangent) for cotangent in cotangents]
    for i, together in enumerate(products(cotangents)):
        torch.testing.assert_close(together, torch.stack([one[i] for one in each]), rtol=1e-12, atol=0)


def test_a_graph_does_not_keep_what_it_does_not_read():
    values, x = tensors()
    inputs = sources(values)
    gradient, *rest = graph_of(inputs["w"], inputs["b"], x)
    products = Products([gradient, *rest], list(inputs.values()))
    kept = [weakref.ref(tensor) for tensor in (gradient, inputs["w"])]
    del gradient, rest, inputs
    assert [reference() for reference in kept] == [None, None]
    assert products([torch.ones(3, 2).double(), None, None])[0].any()
