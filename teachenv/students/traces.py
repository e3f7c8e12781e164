"""What comes out of short training runs, and whether two of them are the same."""

from __future__ import annotations

import torch

from teachenv.optimizers import Tensors

Trace = list[tuple[str, torch.Tensor]]
"""What came out of a short training run: (what it is, its value)."""


def gradient_of(outputs: torch.Tensor, parameters: Tensors) -> Tensors:
    """The gradient of the mean square of outputs; zeros where they depend on no parameter."""
    if not outputs.requires_grad:
        return {name: torch.zeros_like(p) for name, p in parameters.items()}
    loss = outputs.double().square().mean()
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, grads, strict=True))


def passed(t: int, outputs: torch.Tensor, buffers: Tensors, gradient: Tensors) -> Trace:
    """What came out of training pass t."""
    trace = [(f"its outputs in training pass {t + 1}", outputs.detach().clone())]
    trace += [(f"its values of buffer {name!r} after pass {t + 1}", b.detach().clone()) for name, b in buffers.items()]
    return trace + [(f"its gradients of {name!r} in pass {t + 1}", g.detach()) for name, g in gradient.items()]


def first_difference(one: Trace, other: Trace, tolerance: float) -> str | None:
    """The label of the first thing that differs; None: nothing does."""
    if [label for label, _ in one] != [label for label, _ in other]:
        return "its buffers"
    of_gradients: list[float] = []
    for (label, a), (_, b) in zip(one, other, strict=True):
        if torch.equal(a, b):  # far faster, and large networks are mostly equal
            continue
        scale = 0.1
        if label.startswith("its gradients"):
            # Those that are zero but for rounding (of a bias before a batch norm) are compared on the others' scale.
            of_gradients = of_gradients or [_size(g) for name, g in one if name.startswith("its gradients")]
            scale = max(of_gradients)
        if not equal(a, b, tolerance, scale):
            return label
    return None


def equal(a: torch.Tensor, b: torch.Tensor, tolerance: float = 0.0, scale: float = 0.0) -> bool:
    """Whether two tensors are equal up to a part `tolerance` of the largest entry, or of `scale` if that is larger."""
    if a.shape != b.shape:
        return False
    if torch.equal(a, b):
        return True
    if not a.is_floating_point():
        return False
    largest = tolerance * max(_size(a), scale)
    if float(torch.linalg.vector_norm(a - b, float("inf"))) <= largest:
        return True
    return torch.allclose(a.double(), b.double(), rtol=0.0, atol=largest, equal_nan=True)


def _size(tensor: torch.Tensor) -> float:
    if not tensor.numel():
        return 0.0
    largest = float(torch.linalg.vector_norm(tensor, float("inf")))
    if largest < float("inf"):
        return largest
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
