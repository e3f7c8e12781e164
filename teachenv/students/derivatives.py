"""What the derivative of a student's training pass follows, and what it leaves out.

Where watching the passes (`teachenv.students.watch`) does not show it, derivatives are compared with central
differences, once, which costs some thirty forward passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from teachenv.optimizers import Tensors
from teachenv.students.functional import FunctionalStudent
from teachenv.students.numbers_read import any_was_read, depending_on_numbers
from teachenv.students.stopped_gradients import opened

_EPSILON = 1e-6
_IN_TRAINING, _BUFFER = "its outputs in training", "its buffer"
_DRAWN = 4_093
"""Numbers drawn for a random direction, at most; a prime, so that rows of a weight are not alike."""


def compare_derivatives(
    student: FunctionalStudent, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor
) -> None:
    """Sets what a student knows of its derivatives: `unfollowed`, `reads_stopped` and `reads_statistics`.

    A training pass and an evaluation after it are differentiated, in float64, with respect to parameters and
    floating-point buffers along a random direction.

    Args:
        student: a student that was just made.
        parameters: where the derivatives are taken.
        buffers: likewise.
        inputs: a minibatch of inputs, (batch, ...).

    Raises:
        Exception: the network cannot be differentiated, or not in float64.
    """
    rng, statistics = torch.Generator().manual_seed(1), student.statistics
    point = {n: t.double() if t.is_floating_point() else t for n, t in (parameters | buffers).items()}
    along = {n: random_direction(point[n], rng) for n in [*parameters, *statistics]}
    inputs = inputs.double() if inputs.is_floating_point() else inputs

    def values(tensors: Tensors, form: Any) -> Tensors:
        arguments = {n: tensors[n] for n in parameters}, {n: tensors[n] for n in buffers}
        return _results(student, *arguments, inputs, form)

    with torch.no_grad():
        plus, minus = (
            values(point | {n: point[n] + sign * _EPSILON * d for n, d in along.items()}, False) for sign in (1, -1)
        )
    leaves = {n: point[n].clone().requires_grad_() for n in along}
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
            value = sum(scales[n] * (weights[n] * here[n]).sum() for n in names)
            followed = sum(_along(value, leaves, along).values())
        size = sum(scales[n] * sizes[n] for n in names)
        return abs(followed - expected) <= tolerance * max(size, abs(followed)) + 1e-9

    def results() -> Tensors:
        with torch.enable_grad():
            computed = values(point | leaves, True)
        if not any_was_read():
            return computed

        def with_slopes(name: str, value: torch.Tensor) -> torch.Tensor:
            slopes = [*_along((weights[name] * value).sum(), leaves, along).values()]
            return torch.cat([value.detach().flatten(), torch.tensor(slopes, dtype=torch.float64, device=value.device)])

        return {name: with_slopes(name, value) for name, value in computed.items()}

    student.unfollowed = tuple(depending_on_numbers(results)) or _unfollowed(list(here), is_followed)
    in_training = (weights[_IN_TRAINING] * here[_IN_TRAINING]).sum()
    closed = _along(in_training, leaves, along)
    with opened():
        followed = sum(_along(in_training, leaves, along).values())
    size = max(abs(followed), sizes[_IN_TRAINING])
    student.reads_stopped = abs(sum(closed.values()) - followed) > 1e-9 * size
    student.reads_statistics = any(closed[n] != 0.0 for n in statistics)


def _results(
    student: FunctionalStudent, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, form: Any
) -> Tensors:
    """What comes out of a training pass and an evaluation after it, by name."""
    with student.random_state(0, 0):
        outputs, new = student.raw(parameters, buffers, inputs, training=True, differentiable=form)
    with torch.set_grad_enabled(form is not False):
        buffers = buffers | new
    evaluated, _ = student.raw(parameters, buffers, inputs, training=False, differentiable=form)
    results = {_IN_TRAINING: outputs, "its outputs in evaluation": evaluated}
    return results | {f"{_BUFFER} {n!r}": new[n] for n in student.statistics}


def _unfollowed(results: list[str], is_followed: Callable[[list[str], float], bool]) -> tuple[str, ...]:
    """Names of the results whose derivative leaves out a part."""
    # Outputs are compared each by itself: what two of them leave out may cancel.
    outputs = [n for n in results if not n.startswith(_BUFFER)]
    buffers = [n for n in results if n not in outputs]
    if buffers and not is_followed(buffers, 1e-3 / len(buffers)):
        unfollowed = [n for n in buffers if not is_followed([n], 1e-3)]
        if unfollowed:
            return tuple(unfollowed)
    return tuple(n for n in outputs if not is_followed([n], 1e-3))


def random_direction(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A random direction of the tensor's shape, a tenth as long as it; of a large one it repeats."""
    size = float(torch.linalg.vector_norm(tensor.detach().float())) / max(tensor.numel(), 1) ** 0.5
    count = tensor.numel()
    drawn = torch.randn(min(count, _DRAWN), generator=rng).mul_(0.1 * (size or 0.1)).to(tensor)
    return drawn.repeat(count // _DRAWN + 1)[:count].view(tensor.shape)


def _along(value: Any, leaves: Tensors, along: Tensors) -> dict[str, float]:
    """The derivative of a scalar along a direction, by the leaf that it comes from."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad or not leaves:
        return dict.fromkeys(leaves, 0.0)
    grads = torch.autograd.grad(
        value, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {n: float((g * along[n]).sum()) for n, g in zip(leaves, grads, strict=True)}
