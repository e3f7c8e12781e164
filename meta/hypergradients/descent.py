"""Gradient descent on a loss of your own, as a process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from meta.hypergradients.gradient_process import GradientProcess
from meta.hypergradients.loss_update import Derivatives, LossUpdate
from meta.hypergradients.process import Normalizations
from teachenv.optimizers import SGD, Optimizer, Rate, Tensors
from teachenv.state import StudentState

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
class _Update(LossUpdate):
    """A step along the gradient of a loss of the parameters alone."""

    loss: Loss
    learning_rate: float | Callable[[int], float]
    normalizations: Normalizations = field(default_factory=Normalizations)

    def rate(self, state: StudentState) -> Rate:
        return self.learning_rate(int(state.step)) if callable(self.learning_rate) else self.learning_rate

    def loss_at(
        self, parameters: Tensors, buffers: Tensors, step: int, action: torch.Tensor, derivatives: Derivatives
    ) -> tuple[torch.Tensor, Tensors]:
        with self.normalizations.exchanged() if derivatives == "reverse" else nullcontext():
            return self.loss(parameters, action, step), {}
