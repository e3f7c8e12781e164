"""One step of an optimiser along the gradient of a loss, as a value that is a function of (state, action).

A student's step is one `Update`, or several of them in order (`teachenv.joint`). Besides taking the step, an update
gives what differentiates it: `linearize` gives the gradient with its adjoint, `pullback` applies that adjoint at once,
and `gradient_with_graph` is the gradient as autograd's forward mode takes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from teachenv.optimizers import Optimizer, Rate, Tensors, slots_of
from teachenv.optimizers.base import Places, in_order
from teachenv.state import Gradient, Outcome, Pullback, StudentState

T = TypeVar("T")

Adjoint = Callable[[Tensors, Tensors], Pullback]
"""Takes cotangents of (the gradient, the new running statistics) to those of a step's inputs.

With a further leading dimension K, of all cotangents, they are K of them at once, and so is the result.
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Update(ABC):
    """A step of an optimiser along a gradient.

    Attributes:
        optimizer: the optimiser whose step is taken.
        ends_step: whether the student's step is complete with this update, so that the state's step counts up.
    """

    optimizer: Optimizer
    ends_step: bool = True

    @abstractmethod
    def rate(self, state: StudentState) -> Rate:
        """The learning rate η at the state's step."""

    @property
    def adjusts(self) -> bool:
        """Whether the action sets the optimiser too, and not the loss alone."""
        return False

    def optimizer_at(self, state: StudentState, action: torch.Tensor) -> tuple[Optimizer, Rate]:
        """The optimiser and the learning rate of a step; where the action sets them, differentiable in it.

        Args:
            state: the student, or a batch of them.
            action: the teacher's action, (n,) or (B, n); settings are tensors where it carries derivatives.
        """
        return self.optimizer, self.rate(state)

    def moved(self, parameters: Tensors) -> list[str]:
        """Names of the parameters that the update moves."""
        return list(parameters)

    def of_action(self, state: StudentState, action: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """The derivative with respect to an action, given that with respect to what the step reads of it.

        Args:
            state: the student before the step, or a batch of them.
            action: the teacher's action, (n,) or (B, n).
            part: such as `Pullback.action`.

        Returns:
            A tensor of the action's shape, with the leading dimension of many cotangents if `part` has it; a sparse one
            if a step reads a part only. By default a step reads all.
        """
        return part

    @abstractmethod
    def gradient(
        self, state: StudentState, action: torch.Tensor, *, with_action: bool = False, of_all: bool = False
    ) -> Gradient:
        """The gradient of the loss with respect to what the update moves, a value without a graph.

        Args:
            state: the student, or a batch of them.
            action: the teacher's action, (n,) or (B, n).
            with_action: also differentiate with respect to the action.
            of_all: differentiate with respect to all parameters, and to the running statistics if the loss reads them.
        """

    @abstractmethod
    def linearize(self, state: StudentState, action: torch.Tensor) -> tuple[Gradient, Adjoint]:
        """The gradient and its adjoint, which can be called once and keeps its graph until then."""

    @abstractmethod
    def pullback(
        self, state: StudentState, action: torch.Tensor, d_gradient: Tensors | None, d_statistics: Tensors
    ) -> Pullback:
        """The adjoint of the gradient, applied at once: a vector-Jacobian product.

        Args:
            state: the student, or a batch of them.
            action: the teacher's action, (n,) or (B, n).
            d_gradient: cotangent of the gradient; None: it has none, and one backward pass is enough.
            d_statistics: cotangent of the new running statistics; not empty without `d_gradient`.
        """

    @abstractmethod
    def gradient_with_graph(
        self, parameters: Tensors, buffers: Tensors, step: int | np.ndarray, action: torch.Tensor
    ) -> tuple[Tensors, Tensors]:
        """(gradient, new buffers), differentiable with respect to whatever the arguments were made from.

        Args:
            parameters: they must require gradients; they may be dual tensors of forward mode.
            buffers: likewise.
            step: whose minibatch is taken.
            action: the teacher's action, (n,) or (B, n).
        """

    def step(
        self, state: StudentState, action: torch.Tensor, out: Places | None = None
    ) -> tuple[StudentState, Outcome]:
        """Takes the step; the arguments stay as they are, but that the new state may be written to `out`."""
        gradient = self.gradient(state, action)
        return self.apply(state, action, gradient, out), gradient.outcome

    def apply(
        self, state: StudentState, action: torch.Tensor, gradient: Gradient, out: Places | None = None
    ) -> StudentState:
        """The state after the optimiser's step along a gradient.

        Args:
            state: the state before it.
            action: the teacher's action, (n,) or (B, n), which may set the optimiser.
            gradient: the gradient of all parameters; or of some, and the others stay where they are.
            out: where the new parameters are written, and where the new slots may be, if all parameters move; None: to
                new memory.
        """
        parameters, slots = state.parameters, state.slots
        some = len(gradient.parameters) < len(parameters)
        if some:
            parameters, out = {name: parameters[name] for name in gradient.parameters}, None
            slots = slots_of(slots, parameters)
        with torch.no_grad():
            optimizer, rate = self.optimizer_at(state, action.detach())
            new, new_slots = optimizer.update(parameters, gradient.parameters, slots, rate, state.step, out)
        parameters, slots = in_order(new, parameters), in_order(new_slots, slots)
        if some:
            parameters, slots = state.parameters | parameters, state.slots | slots
        step = state.step + 1 if self.ends_step else state.step
        return StudentState(parameters, slots, gradient.buffers, step)
