"""Graphs that hold what their backward passes read, and not the tensors that they begin and end with.

`torch.autograd.grad` takes derivatives with respect to tensors, which then live as long as the graph; or with respect
to places in the graph, which need no tensor. Of a step of the MNIST perceptron the graph itself reads neither the first
layer's weights nor their gradient: with them it holds three times as much (batches of 250) to twenty times (of 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from teachenv.optimizers import Tensors
from teachenv.state import Pullback
from teachenv.students.stopped_gradients import opened
from teachenv.update import Adjoint


class _Source(torch.autograd.Function):
    """A tensor as a place in a graph at which backward passes end."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return None, None


def sources(tensors: Tensors) -> Tensors:
    """The same tensors without their graphs, each asking for a gradient; unlike leaves, no graph keeps them."""
    with torch.enable_grad():
        anchor = torch.zeros((), requires_grad=True)  # for autograd to follow them
        return {name: _Source.apply(anchor, tensor.detach()) for name, tensor in tensors.items()}


class Products:
    """The vector-Jacobian products of outputs with respect to inputs.

    They can be taken once, and hold the graph until then. Unlike a network's own gradients they pass through what the
    network stops gradients at.

    Args:
        outputs: tensors, with a graph or without.
        inputs: what they were made from, by `sources`, or leaves.

    Attributes:
        ends: the places in the graph where it begins and ends.
    """

    def __init__(self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
        self._outputs = {i: get_gradient_edge(output) for i, output in enumerate(outputs) if output.requires_grad}
        self._dimensions = [output.dim() for output in outputs]
        self._inputs = [get_gradient_edge(tensor) for tensor in inputs]
        self._like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in inputs]
        self.ends = [*self._outputs.values(), *self._inputs]

    def __call__(self, cotangents: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        """The product for each input; zeros where no output depends on it.

        Args:
            cotangents: one for each output, in its shape, or None for an output that has none. With a further leading
                dimension K, of all cotangents, they are K of them, for which the graph is walked once, by vmap.
        """
        given = {i: c for i, c in enumerate(cotangents) if c is not None and i in self._outputs}
        outputs = [self._outputs[i] for i in given]

        def taken(cotangents: list[torch.Tensor]) -> list[torch.Tensor]:
            grads: Any = [None] * len(self._inputs)
            if outputs:
                grads = torch.autograd.grad(outputs, self._inputs, cotangents, allow_unused=True)
            return [
                torch.zeros(shape, dtype=dtype, device=device) if each is None else each
                for each, (shape, dtype, device) in zip(grads, self._like, strict=True)
            ]

        many = any(cotangent.dim() > self._dimensions[i] for i, cotangent in given.items())
        with opened():
            chosen = list(given.values())
            return torch.func.vmap(taken)(chosen) if many else taken(chosen)


def adjoint_of(
    gradient: Tensors, new_buffers: Tensors, parameters: Tensors, statistics: Tensors, action: torch.Tensor
) -> Adjoint:
    """The adjoint of a gradient, which holds its graph and no tensor beside that.

    Args:
        gradient: of what moves, by name, with its graph.
        new_buffers: buffers after the step, by name; those of the statistics with their graph.
        parameters: what the graph was made from, by `sources` or leaves.
        statistics: the running statistics before the step, likewise.
        action: likewise.
    """
    moved, names, of_statistics = list(gradient), list(parameters), list(statistics)
    products = Products(
        [*gradient.values(), *(new_buffers[name] for name in statistics)],
        [*parameters.values(), *statistics.values(), action],
    )

    def adjoint(d_gradient: Tensors, d_statistics: Tensors) -> Pullback:
        *grads, of_action = products([*(d_gradient[name] for name in moved), *map(d_statistics.get, of_statistics)])
        back = dict(zip(of_statistics, grads[len(names) :], strict=True))
        return Pullback(dict(zip(names, grads, strict=False)), back, of_action)

    return adjoint
