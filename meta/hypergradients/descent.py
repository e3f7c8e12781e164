"""Gradient descent on a loss of your own, as a process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from meta.hypergradients.gradient_process import GradientProcess
from meta.hypergradients.process import Normalizations
from teachenv.optimizers import SGD, Optimizer, Rate, Tensors
from teachenv.state import Gradient, Outcome, Pullback, StudentState
from teachenv.trees import leaves
from teachenv.update import Adjoint, Update

Loss = Callable[[Tensors, torch.Tensor, int], torch.Tensor]
"""(parameters, action, t) to the loss, a scalar."""


class Descent(GradientProcess):
    """Gradient descent on a loss of your own, as a process over `StudentState`.

    Args:
        loss: (parameters, action, t) to a scalar, t the state's step; a function of its arguments alone, twice
            differentiable by autograd.
        objective: the final parameters to J, a scalar.
        optimizer: an optimiser of `teachenv.optimizers`; None: plain SGD.
        learning_rate: η, or a function of t.
    """

    def __init__(
        self,
        loss: Loss,
        objective: Callable[[Tensors], torch.Tensor],
        optimizer: Optimizer | None = None,
        learning_rate: float | Callable[[int], float] = 0.1,
    ) -> None:
        """Makes the update: the loss, its optimiser and its learning rate."""
        update = _Update(optimizer=SGD() if optimizer is None else optimizer, loss=loss, learning_rate=learning_rate)
        super().__init__(update, lambda state: objective(state.parameters))

    def begin(self, parameters: Tensors) -> StudentState:
        """Returns the state before the first step: these parameters, and the optimiser's empty slots."""
        detached = {name: p.detach() for name, p in parameters.items()}
        return StudentState(detached, self.optimizer.init(detached), {}, 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Update(Update):
    """A step along the gradient of a loss of the parameters."""

    loss: Loss
    learning_rate: float | Callable[[int], float]
    normalizations: Normalizations = field(default_factory=Normalizations)

    def rate(self, state: StudentState) -> Rate:
        return self.learning_rate(int(state.step)) if callable(self.learning_rate) else self.learning_rate

    def gradient(
        self, state: StudentState, action: torch.Tensor, *, with_action: bool = False, of_all: bool = False
    ) -> Gradient:
        parameters, leaf = leaves(state.parameters), action.detach().requires_grad_(with_action)
        with torch.enable_grad():
            loss = self.loss(parameters, leaf, int(state.step))
            sources = [*parameters.values()] + ([leaf] if with_action else [])
            grads = torch.autograd.grad(loss, sources, materialize_grads=True)
        outcome = Outcome(loss.detach(), torch.full_like(loss.detach(), math.nan))
        return Gradient(dict(zip(parameters, grads, strict=False)), grads[-1] if with_action else None, {}, outcome)

    def linearize(self, state: StudentState, action: torch.Tensor) -> tuple[Gradient, Adjoint]:
        parameters, leaf = leaves(state.parameters), action.detach().requires_grad_()
        with self.normalizations.exchanged():
            gradient, _ = self.gradient_with_graph(parameters, {}, state.step, leaf)

        def adjoint(d_gradient: Tensors, d_statistics: Tensors) -> Pullback:
            names = [name for name, g in gradient.items() if g.requires_grad]
            *grads, of_action = torch.autograd.grad(
                [gradient[name] for name in names],
                [*parameters.values(), leaf],
                [d_gradient[name] for name in names],
                materialize_grads=True,
            )
            return Pullback(dict(zip(parameters, grads, strict=True)), {}, of_action)

        unknown = torch.tensor(math.nan)
        values = {name: g.detach() for name, g in gradient.items()}
        return Gradient(values, None, {}, Outcome(unknown, unknown)), adjoint

    def pullback(
        self, state: StudentState, action: torch.Tensor, d_gradient: Tensors | None, d_statistics: Tensors
    ) -> Pullback:
        assert d_gradient is not None  # only running statistics have none, and there are none here
        return self.linearize(state, action)[1](d_gradient, d_statistics)

    def gradient_with_graph(
        self, parameters: Tensors, buffers: Tensors, step: int | np.ndarray, action: torch.Tensor
    ) -> tuple[Tensors, Tensors]:
        with torch.enable_grad():
            loss, sources = self.loss(parameters, action, int(step)), list(parameters.values())
            grads = torch.autograd.grad(loss, sources, create_graph=True, materialize_grads=True)
        return dict(zip(parameters, grads, strict=True)), {}
