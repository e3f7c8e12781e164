"""The update of a loss that is any function of the parameters: autograd gives its gradient and the adjoint of that.

`meta.Descent` has such a loss, and so has a training loop of one's own (`meta.Training.of`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from meta.hypergradients.forward_mode import dual, in_forward_mode, tangent_of, value_of
from teachenv.graphs import adjoint_of, sources
from teachenv.optimizers import Tensors
from teachenv.state import Gradient, Outcome, Pullback, StudentState
from teachenv.students.stopped_gradients import opened, transposed
from teachenv.trees import leaves
from teachenv.update import Adjoint, Update

Derivatives = Literal["none", "reverse", "forward", "blockwise"]
"""How often, and how, a pass of the loss is differentiated: once; twice; in forward mode over reverse mode; in the same
way, its blocks one after the other."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LossUpdate(Update):
    """A step along the gradient of a loss of the parameters.

    Attributes:
        statistics: names of the buffers that the loss may change, and that a later step or J may depend on.
        idle: tensors that do not move, by name, on which no step's loss should depend.
    """

    statistics: Sequence[str] = ()
    idle: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def blockwise(self) -> bool:
        """Whether the adjoint is taken block by block, by forward mode over reverse mode."""
        return False

    @abstractmethod
    def loss_at(
        self, parameters: Tensors, buffers: Tensors, step: int, action: torch.Tensor, derivatives: Derivatives
    ) -> tuple[torch.Tensor, Tensors]:
        """Returns (loss, a scalar; new buffers).

        Args:
            parameters: what moves, by name.
            buffers: running statistics and other buffers, by name; they stay as they are.
            step: the number of the step.
            action: the action, (n,).
            derivatives: what is taken of the loss beyond its gradient.
        """

    def beginning(self, tensors: Tensors) -> Tensors:
        """Returns tensors for a graph to begin with, which need not be leaves."""
        return sources(tensors)

    def reached(self, step: int, without: list[str], beside: list[str]) -> None:
        """Called with what a step's gradient says of the loss.

        Args:
            step: the number of the step.
            without: names of parameters that it does not depend on; their gradient is taken as zero.
            beside: names of tensors in `idle` that it does depend on.
        """

    def gradient(
        self, state: StudentState, action: torch.Tensor, *, with_action: bool = False, of_all: bool = False
    ) -> Gradient:
        """The gradient of the loss, see `Update.gradient`."""
        parameters, leaf = leaves(state.parameters), action.detach().requires_grad_(with_action)
        statistics = leaves({name: state.buffers[name] for name in self.statistics}) if of_all else {}
        with torch.enable_grad():
            # Statistics that are leaves cannot be updated in place, unless by operations that are differentiable.
            derivatives: Derivatives = "reverse" if statistics else "none"
            buffers = state.buffers | statistics
            loss, new_buffers = self.loss_at(parameters, buffers, int(state.step), leaf, derivatives)
            inputs = [*parameters.values(), *statistics.values(), *([leaf] if with_action else [])]
            grads = self._derivatives(loss, list(parameters), inputs, int(state.step))
        of_statistics = dict(zip(statistics, grads[len(parameters) :], strict=False))
        return Gradient(
            dict(zip(parameters, grads, strict=False)),
            grads[-1] if with_action else None,
            _detached(new_buffers),
            Outcome(loss.detach(), torch.full_like(loss.detach(), math.nan)),
            of_statistics,
        )

    def linearize(self, state: StudentState, action: torch.Tensor) -> tuple[Gradient, Adjoint]:
        """The gradient and its adjoint, see `Update.linearize`."""
        if self.blockwise:
            return self.gradient(state, action), lambda *cotangents: self._by_blocks(state, action, *cotangents)
        parameters, leaf = self.beginning(state.parameters), action.detach().requires_grad_()
        statistics = self.beginning({name: state.buffers[name] for name in self.statistics})
        gradient, new_buffers = self._with_graph(
            parameters, state.buffers | statistics, int(state.step), leaf, "reverse"
        )
        adjoint, unknown = adjoint_of(gradient, new_buffers, parameters, statistics, leaf), torch.tensor(math.nan)
        return Gradient(_detached(gradient), None, _detached(new_buffers), Outcome(unknown, unknown)), adjoint

    def pullback(
        self, state: StudentState, action: torch.Tensor, d_gradient: Tensors | None, d_statistics: Tensors
    ) -> Pullback:
        """The adjoint, applied at once, see `Update.pullback`."""
        if d_gradient is None:
            d_gradient = {n: torch.zeros_like(p) for n, p in state.parameters.items()}
        if self.blockwise:
            return self._by_blocks(state, action, d_gradient, d_statistics)
        return self.linearize(state, action)[1](d_gradient, d_statistics)

    def _by_blocks(
        self, state: StudentState, action: torch.Tensor, d_gradient: Tensors, d_statistics: Tensors
    ) -> Pullback:
        """The adjoint by forward mode over reverse mode, see `meta.hypergradients.blocks`."""

        def pushed() -> list[torch.Tensor]:
            parameters = {n: dual(p, d_gradient[n]) for n, p in leaves(state.parameters).items()}
            statistics, leaf = leaves({n: state.buffers[n] for n in self.statistics}), action.detach().requires_grad_()
            inputs = [*parameters.values(), *statistics.values(), leaf]
            with torch.enable_grad(), transposed():
                loss, new = self.loss_at(parameters, state.buffers | statistics, int(state.step), leaf, "blockwise")
                grads = self._derivatives(loss, list(parameters), inputs, int(state.step), create_graph=True)
                outputs = [(new[n], d) for n, d in d_statistics.items() if new[n].requires_grad]
                if not outputs:
                    return [tangent_of(grad) for grad in grads]
            with opened():
                values, cotangents = zip(*outputs, strict=True)
                through = torch.autograd.grad(values, inputs, cotangents, materialize_grads=True)
            return [tangent_of(grad) + value_of(part) for grad, part in zip(grads, through, strict=True)]

        derivatives = in_forward_mode(pushed)
        count = len(state.parameters)
        of_parameters = dict(zip(state.parameters, derivatives, strict=False))
        return Pullback(of_parameters, dict(zip(self.statistics, derivatives[count:-1], strict=True)), derivatives[-1])

    def gradient_with_graph(
        self, parameters: Tensors, buffers: Tensors, step: int | np.ndarray, action: torch.Tensor
    ) -> tuple[Tensors, Tensors]:
        """The gradient with its graph, in forward mode, see `Update.gradient_with_graph`."""
        return self._with_graph(parameters, buffers, int(step), action, "forward")

    def _with_graph(
        self, parameters: Tensors, buffers: Tensors, step: int, action: torch.Tensor, derivatives: Derivatives
    ) -> tuple[Tensors, Tensors]:
        with torch.enable_grad():
            loss, new_buffers = self.loss_at(parameters, buffers, step, action, derivatives)
            inputs = list(parameters.values())
            grads = self._derivatives(loss, list(parameters), inputs, step, create_graph=True)
        return dict(zip(parameters, grads, strict=True)), new_buffers

    def _derivatives(
        self, loss: torch.Tensor, names: list[str], inputs: list[torch.Tensor], step: int, create_graph: bool = False
    ) -> list[torch.Tensor]:
        """The derivatives with respect to the inputs, the first of which are the parameters of these names."""
        grads: Any = torch.autograd.grad(
            loss, [*inputs, *self.idle.values()], create_graph=create_graph, allow_unused=True
        )
        for name, grad in zip(names, grads, strict=False):
            if grad is not None and grad.layout != torch.strided:
                raise ValueError(
                    f"the loss has a sparse gradient of {name!r}, which no optimizer here takes; build it with "
                    "sparse=False"
                )
        self.reached(
            step,
            [name for name, grad in zip(names, grads, strict=False) if grad is None],
            [name for name, grad in zip(self.idle, grads[len(inputs) :], strict=True) if grad is not None],
        )
        return [torch.zeros_like(s) if g is None else g for s, g in zip(inputs, grads, strict=False)]


def _detached(tensors: Tensors) -> Tensors:
    return {name: t.detach() for name, t in tensors.items()}
