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
    unfollowed = []
    for name, value in here.items():
        weights = torch.randn(value.shape, generator=rng, dtype=torch.float64).to(value.device)
        differences = weights * (plus[name] - minus[name]) / (2 * _EPSILON)
        expected, size = float(differences.sum()), float(differences.abs().sum())
        with opened():
            followed = _along(value, weights, leaves, along)
        if abs(followed - expected) > 1e-3 * max(size, abs(followed)) + 1e-9:
            unfollowed.append(name)
        if name == _IN_TRAINING:
            closed = _along(value, weights, leaves, along)
            student.reads_stopped = abs(closed - followed) > 1e-9 * max(abs(followed), size)
            of_statistics = {n: leaves[n] for n in statistics}
            student.reads_statistics = _along(value, weights, of_statistics, along) != 0.0
    buffers_alone = [name for name in unfollowed if name.startswith("its buffer")]
    student.unfollowed = tuple(buffers_alone or unfollowed)


def random_direction(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A random direction of the tensor's shape, a tenth as long as it."""
    size = float(tensor.detach().double().square().mean().sqrt()) if tensor.numel() else 0.0
    drawn = torch.randn(tensor.shape, generator=rng, dtype=torch.float64) * 0.1 * (size or 0.1)
    return drawn.to(tensor)


def _along(value: torch.Tensor, weights: torch.Tensor, leaves: Tensors, along: Tensors) -> float:
    """The derivative of Σ weights · value with respect to the leaves along a direction."""
    if not value.requires_grad or not leaves:
        return 0.0
    grads = torch.autograd.grad(
        value, list(leaves.values()), weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return float(sum((g * along[n]).sum() for n, g in zip(leaves, grads, strict=True)))
