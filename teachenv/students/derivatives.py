"""What the derivative of a student's training pass follows, and what it leaves out: by central differences, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from teachenv.optimizers import Tensors
from teachenv.students.kernels import opened

if TYPE_CHECKING:
    from teachenv.students.functional import FunctionalStudent

_EPSILON = 1e-6
_IN_TRAINING = "its outputs in training"


def compare_derivatives(
    student: FunctionalStudent, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor
) -> None:
    """Sets what a student knows of its derivatives: `unfollowed`, `reads_stopped` and `reads_statistics`.

    A training pass and an evaluation after it are differentiated, in float64, with respect to parameters and
    floating-point buffers along a random direction.

    Args:
        student: just made.
        parameters: where the derivatives are taken.
        buffers: likewise.
        inputs: (batch, ...).

    Raises:
        Exception: the network cannot be differentiated, or not in float64.
    """
    rng, statistics = torch.Generator().manual_seed(1), student.statistics
    point = {n: t.double() if t.is_floating_point() else t for n, t in (parameters | buffers).items()}
    wanted = [*parameters, *statistics]
    along = {n: random_direction(point[n], rng) for n in wanted}
    inputs = inputs.double() if inputs.is_floating_point() else inputs

    def values(tensors: Tensors, form: Any) -> Tensors:
        arguments = {n: tensors[n] for n in parameters}, {n: tensors[n] for n in buffers}
        with student.random_state(0, 0):
            outputs, new = student.raw(*arguments, inputs, training=True, differentiable=form)
        with torch.set_grad_enabled(form is not False):
            arguments = arguments[0], arguments[1] | new
        evaluated, _ = student.raw(*arguments, inputs, training=False, differentiable=form)
        results = {_IN_TRAINING: outputs, "its outputs in evaluation": evaluated}
        return results | {f"its buffer {n!r}": new[n] for n in statistics}

    with torch.no_grad():
        plus, minus = (
            values(point | {n: point[n] + sign * _EPSILON * along[n] for n in wanted}, False) for sign in (1, -1)
        )
    leaves = {n: point[n].clone().requires_grad_() for n in wanted}
    with torch.enable_grad():
        here = values(point | leaves, True)
    weights = {n: torch.randn(v.shape, generator=rng, dtype=torch.float64).to(v.device) for n, v in here.items()}
    products = {n: weights[n] * (plus[n] - minus[n]) / (2 * _EPSILON) for n in here}
    sizes = {n: float(product.abs().sum()) for n, product in products.items()}

    def is_followed(names: list[str], tolerance: float) -> bool:
        # Of several each counts as much, whatever its size, and one backward pass serves them all.
        scales = {n: 1.0 if len(names) == 1 or sizes[n] < 1e-9 else 1 / sizes[n] for n in names}
        expected = sum(scales[n] * float(products[n].sum()) for n in names)
        with opened():
            followed = _along(sum(scales[n] * (weights[n] * here[n]).sum() for n in names), leaves, along)
        size = sum(scales[n] * sizes[n] for n in names)
        return abs(followed - expected) <= tolerance * max(size, abs(followed)) + 1e-9

    buffers_alone = [n for n in here if n.startswith("its buffer")]
    unfollowed = []
    if buffers_alone and not is_followed(buffers_alone, 1e-3 / len(buffers_alone)):
        unfollowed = [n for n in buffers_alone if not is_followed([n], 1e-3)]
    outputs = [n for n in here if n not in buffers_alone]
    student.unfollowed = tuple(unfollowed or [n for n in outputs if not is_followed([n], 1e-3)])

    in_training = (weights[_IN_TRAINING] * here[_IN_TRAINING]).sum()
    closed = _along(in_training, leaves, along)
    with opened():
        followed = _along(in_training, leaves, along)
    student.reads_stopped = abs(closed - followed) > 1e-9 * max(abs(followed), sizes[_IN_TRAINING])
    student.reads_statistics = _along(in_training, {n: leaves[n] for n in statistics}, along) != 0.0


def random_direction(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A random direction of the tensor's shape, a tenth as long as it."""
    size = float(torch.linalg.vector_norm(tensor.detach().float())) / max(tensor.numel(), 1) ** 0.5
    return torch.randn(tensor.shape, generator=rng).to(tensor).mul_(0.1 * (size or 0.1))


def _along(value: Any, leaves: Tensors, along: Tensors) -> float:
    """The derivative of a scalar with respect to the leaves along a direction."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad or not leaves:
        return 0.0
    grads = torch.autograd.grad(
        value, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return float(sum((g * along[n]).sum() for n, g in zip(leaves, grads, strict=True)))
