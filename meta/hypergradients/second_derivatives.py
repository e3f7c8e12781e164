"""Second derivatives of a module's call, against central differences in float64.

With the call's inputs x, parameters p and cotangents w of its outputs y, what is differentiated is

    g(z) = ∇_{x,p} Σ w · y(x, p)        z = (x, p, w)

since a double backward through a network passes through all three. By double backward, ⟨(∂g/∂z)ᵀ d, e⟩ is compared with
⟨d, (g(z + εe) − g(z − εe)) / 2ε⟩ for random d and e; by forward mode, the tangent of g along e with the differences
themselves. Neither takes ∂g/∂z for symmetric, which it is not where a module detaches something.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from meta.hypergradients.calls import Repeated
from meta.hypergradients.forward_mode import dual, dual_level, in_forward_mode, tangent_of
from meta.hypergradients.process import double_backward_kernels
from teachenv.nodes import nodes_of
from teachenv.students.derivatives import random_direction
from teachenv.students.kernels import DifferentiableKernels
from teachenv.students.stopped_gradients import opened

Derivative = Literal["double backward", "forward over reverse"]
Finding = Literal["right", "wrong", "missing", "nondeterministic", "unchecked"]

_TOLERANCE = 1e-5
# Differences across a kink are wrong themselves: tried anew along other directions, with shorter steps, and from points
# nearby, since a call may stand on a kink, as a ReLU does after dropout.
_STEPS = (1e-5, 1e-6, 1e-7)
_NEARBY = (0.0, 0.0, 1e-2)
_DIRECTIONS = 3


class NoDerivative(Exception):
    """No output of a call depends on anything that derivatives flow through."""


@dataclass(frozen=True)
class Verdict:
    """What was measured of one way to a second derivative.

    Attributes:
        finding: `"right"`, `"wrong"` or `"missing"`.
        error: relative to central differences; None where it is missing.
        operation: what has no derivative.
    """

    finding: Finding
    error: float | None = None
    operation: str | None = None


@dataclass(frozen=True, eq=False)
class _Try:
    """A point z, a cotangent d of g, directions e, and central differences of g along each; none: not compared."""

    z: list[torch.Tensor]
    cotangent: list[torch.Tensor]
    along: list[list[torch.Tensor]]
    differences: list[list[torch.Tensor]]

    def error(self, computed: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
        """‖computed − expected‖ / ‖expected‖; 0 where nothing is expected."""
        if not expected:
            return 0.0
        distance = math.hypot(*(float((f - e).norm()) for f, e in zip(computed, expected, strict=True)))
        return distance / max(math.hypot(*(float(e.norm()) for e in expected)), 1e-12)


class SecondDerivatives:
    """The second derivatives of a call.

    Args:
        call: the call in float64.
        as_it_is: the call in the model's own type, in which PyTorch may choose other kernels; None: it is the same.

    Raises:
        NoDerivative: there are none.
    """

    def __init__(self, call: Repeated, as_it_is: Repeated | None) -> None:
        self._call, self._rng = call, torch.Generator().manual_seed(0)
        with torch.enable_grad():
            outputs = call.outputs(_leaves(call.point))
        if not any(output.requires_grad for output in outputs):
            raise NoDerivative
        self._nodes = [output.grad_fn for output in outputs]
        self._outputs = [output.detach() for output in outputs]
        self._z = [*call.point, *(self._drawn(output) for output in outputs)]
        self._gradient = self._gradient_at(self._z)
        self._narrow = None if as_it_is is None else SecondDerivatives(as_it_is, None)
        self._tries: list[_Try] = []

    def nondeterministic(self) -> str | None:
        """What differs between two calls; None: nothing."""
        outputs = [output.detach() for output in self._call.outputs(self._call.point)]
        if not _same(outputs, self._outputs):
            return "its outputs: it draws from a generator of its own, or keeps something between calls"
        return None if _same(self._gradient_at(self._z), self._gradient) else "a kernel of its backward pass"

    def verdict(self, derivative: Derivative, exchanged: bool) -> Verdict:
        """Compares a derivative, with PyTorch's own kernels or with those that teachenv puts into their place."""
        compute = SecondDerivatives._by_double_backward
        if derivative == "forward over reverse":
            compute = SecondDerivatives._by_forward_mode
        error = float("inf")
        try:
            if self._narrow is not None:
                compute(self._narrow, self._narrow._drawn_try([]), exchanged)
            for index in range(len(_STEPS)):
                tried_error = compute(self, self._tried(index), exchanged)
                if not math.isfinite(tried_error):
                    break  # of points nearby it may be finite, which does not help
                error = min(error, tried_error)
                if error <= _TOLERANCE:
                    return Verdict("right", error)
        except (RuntimeError, NotImplementedError) as raised:
            return Verdict("missing", None, self._operation(raised))
        return Verdict("wrong", error)

    def custom_functions(self) -> set[str]:
        """The names of the custom autograd functions in the graph."""
        custom = (n for n in nodes_of(self._nodes) if isinstance(n, torch.autograd.function.BackwardCFunction))
        return {type(node).__name__.removesuffix("Backward") for node in custom}

    def _drawn(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=self._rng, dtype=torch.float64).to(like)

    def _gradient_at(self, z: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        count = len(self._call.point)
        with torch.enable_grad():
            return self._call.gradient(_leaves(z[:count]), z[count:])

    def _drawn_try(self, along: list[list[torch.Tensor]]) -> _Try:
        return _Try(self._z, [self._drawn(g) for g in self._gradient], along or [self._directions()], [])

    def _directions(self) -> list[torch.Tensor]:
        return [random_direction(tensor, self._rng) for tensor in self._z]

    def _tried(self, index: int) -> _Try:
        """Central differences along a few directions, computed once."""
        while len(self._tries) <= index:
            step, away = _STEPS[len(self._tries)], _NEARBY[len(self._tries)]
            tried, differences = self._drawn_try([self._directions() for _ in range(_DIRECTIONS)]), []
            point = [z + away * e for z, e in zip(self._z, self._directions(), strict=True)] if away else self._z
            for along in tried.along:
                plus, minus = (
                    self._gradient_at([z + sign * step * e for z, e in zip(point, along, strict=True)])
                    for sign in (1, -1)
                )
                differences.append([(p - m) / (2 * step) for p, m in zip(plus, minus, strict=True)])
            self._tries.append(_Try(point, tried.cotangent, tried.along, differences))
        return self._tries[index]

    def _by_double_backward(self, tried: _Try, exchanged: bool) -> float:
        count, kernels = len(self._call.point), _kernels(exchanged, fused=True)
        with torch.enable_grad(), double_backward_kernels() if exchanged else nullcontext():
            z = _leaves(tried.z)
            gradient = self._call.gradient(z[:count], z[count:], kernels, create_graph=True)
            reached = [(g, d) for g, d in zip(gradient, tried.cotangent, strict=True) if g.requires_grad]
            gradients, cotangents = zip(*reached, strict=True)
            with opened() if exchanged else nullcontext():
                derivative = torch.autograd.grad(gradients, z, cotangents, materialize_grads=True)
        products = [_dot(derivative, along) for along in tried.along]
        return tried.error(products, [_dot(tried.cotangent, differences) for differences in tried.differences])

    def _by_forward_mode(self, tried: _Try, exchanged: bool) -> float:
        count, kernels = len(self._call.point), _kernels(exchanged, fused=False)

        def tangents(along: list[torch.Tensor]) -> list[torch.Tensor]:
            with torch.enable_grad():
                z = [dual(leaf, e) for leaf, e in zip(_leaves(tried.z), along, strict=True)]
                return [tangent_of(g) for g in self._call.gradient(z[:count], z[count:], kernels, create_graph=True)]

        def plainly(compute: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
            with dual_level():
                return compute()

        pushed = in_forward_mode if exchanged else plainly
        pushed_tangents = [tangent for along in tried.along for tangent in pushed(functools.partial(tangents, along))]
        return tried.error(pushed_tangents, [d for differences in tried.differences for d in differences])

    def _operation(self, error: Exception) -> str:
        """The operation that PyTorch's error names; else custom functions, one of which it may be; else the error."""
        named = re.search(r"derivative for '?(?:aten::)?(\w+)|forward AD with (\w+)", str(error))
        if named:
            return str(named[1] or named[2])
        if custom := self.custom_functions():
            return ", ".join(sorted(custom))
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"


def _kernels(exchanged: bool, fused: bool) -> Callable[[list[torch.Tensor]], Any] | None:
    return (lambda buffers: DifferentiableKernels(fused=fused, opens=True, buffers=buffers)) if exchanged else None


def _leaves(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def _dot(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()


def _same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True)
    )
