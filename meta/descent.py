"""The training of a student, and descent on a loss of your own, as processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from meta.gradient_process import Cotangent, GradientProcess
from meta.process import Process
from teachenv.batched import BatchedDynamics, apart
from teachenv.dynamics import Dynamics
from teachenv.optimizers import SGD, Optimizer, Rate, Tensors
from teachenv.state import Episode, Gradient, Outcome, Pullback, StudentState
from teachenv.students.kernels import opened
from teachenv.trees import leaves


class Training(GradientProcess):
    """The training of an environment's student, or of a batch of them, as a process over `StudentState`.

    Args:
        dynamics: of the environment.
        episode: which training.
    """

    def __init__(self, dynamics: Dynamics, episode: Episode) -> None:
        """Holds both."""
        self.dynamics, self.episode = dynamics, episode
        self.optimizer = dynamics.optimizer
        self.replays_exactly = dynamics.known_pure
        self.stops_gradients = dynamics.student.reads_stopped
        if left_out := dynamics.student.unfollowed:
            warnings.warn(
                f"the gradient leaves out a part: {', '.join(left_out[:3])} of the student {dynamics.student.name} "
                "depend(s) on its parameters in a way that has no derivative (.data, .item(), NumPy, in-place updates "
                "of what is detached), or has a gradient that is not the derivative "
                "(straight-through); compute it by differentiable operations, under torch.no_grad() if its own "
                "gradient shall not see it, and it is followed",
                stacklevel=2,
            )

    def rate(self, state: StudentState, t: int) -> Rate:
        """The environment's, at the student's own step."""
        return self.dynamics.rate(state.step)

    def moved(self, parameters: Tensors) -> list[str]:
        """The dynamics'."""
        return self.dynamics.moved(parameters)

    def singles(self, state: StudentState) -> list[tuple[Process, StudentState]]:
        """The trainings of students that are taken one after the other anyway."""
        if not isinstance(self.dynamics, BatchedDynamics) or self.dynamics.path == "vmap":
            return []
        return [(Training(self.dynamics.single, episode), own) for own, episode in apart(state, self.episode)]

    def updated(self, state: StudentState, gradient: Gradient, t: int, out: Tensors | None = None) -> StudentState:
        """The dynamics'."""
        return self.dynamics.updated(state, gradient, out)

    def gradient(
        self, state: StudentState, action: torch.Tensor, t: int, *, with_action: bool = False, of_all: bool = False
    ) -> Gradient:
        """The dynamics'."""
        return self.dynamics.gradient(state, self.episode, action, with_action=with_action, of_all=of_all)

    def gradient_and_adjoint(
        self, state: StudentState, action: torch.Tensor, t: int
    ) -> tuple[Gradient, Callable[[Tensors, Tensors], Pullback]]:
        """The dynamics'."""
        return self.dynamics.linearize(state, self.episode, action)

    def pull_gradient_back(
        self, state: StudentState, action: torch.Tensor, t: int, d_gradient: Tensors | None, d_statistics: Tensors
    ) -> Pullback:
        """The dynamics'."""
        return self.dynamics.pullback(state, self.episode, action, d_gradient, d_statistics)

    def gradient_with_graph(
        self, parameters: Tensors, buffers: Tensors, state: StudentState, action: torch.Tensor, t: int
    ) -> tuple[Tensors, Tensors]:
        """The dynamics'."""
        return self.dynamics.gradient_with_graph(parameters, buffers, state.step, self.episode, action)

    def value(self, state: StudentState) -> tuple[torch.Tensor, Cotangent]:
        """(J on dev, ∂J/∂x_T)."""
        statistics = {name: state.buffers[name] for name in self.dynamics.student.statistics}
        return _value(lambda s: self.dynamics.objective(s, self.episode), state, statistics)


class Descent(GradientProcess):
    """Gradient descent on a loss of your own, as a process over `StudentState`.

    Args:
        loss: (parameters, action, t) to a scalar; a function of its arguments alone, twice differentiable by autograd.
        objective: final parameters to J, a scalar.
        optimizer: as in `teachenv.optimizers`.
        learning_rate: η, or a function of t.
    """

    def __init__(
        self,
        loss: Callable[[Tensors, torch.Tensor, int], torch.Tensor],
        objective: Callable[[Tensors], torch.Tensor],
        optimizer: Optimizer | None = None,
        learning_rate: float | Callable[[int], float] = 0.1,
    ) -> None:
        """Holds them; plain SGD by default."""
        self._loss = loss
        self._of_parameters = objective
        self.optimizer = SGD() if optimizer is None else optimizer
        self._rate = learning_rate

    def begin(self, parameters: Tensors) -> StudentState:
        """The state before the first step."""
        detached = {name: p.detach() for name, p in parameters.items()}
        return StudentState(detached, self.optimizer.init(detached), {}, 0)

    def rate(self, state: StudentState, t: int) -> Rate:
        """η at step t."""
        return self._rate(t) if callable(self._rate) else self._rate

    def gradient(
        self, state: StudentState, action: torch.Tensor, t: int, *, with_action: bool = False, of_all: bool = False
    ) -> Gradient:
        """∇ of the loss."""
        parameters, leaf = leaves(state.parameters), action.detach().requires_grad_(with_action)
        with torch.enable_grad():
            loss = self._loss(parameters, leaf, t)
            wanted = [*parameters.values()] + ([leaf] if with_action else [])
            grads = torch.autograd.grad(loss, wanted, materialize_grads=True)
        outcome = Outcome(loss.detach(), torch.full_like(loss.detach(), math.nan))
        return Gradient(dict(zip(parameters, grads, strict=False)), grads[-1] if with_action else None, {}, outcome)

    def gradient_and_adjoint(
        self, state: StudentState, action: torch.Tensor, t: int
    ) -> tuple[Gradient, Callable[[Tensors, Tensors], Pullback]]:
        """∇ of the loss with its graph."""
        parameters, leaf = leaves(state.parameters), action.detach().requires_grad_()
        with self._normalizations():
            gradient, _ = self.gradient_with_graph(parameters, {}, state, leaf, t)

        def pull(d_gradient: Tensors, d_statistics: Tensors) -> Pullback:
            reached = [name for name, g in gradient.items() if g.requires_grad]
            *grads, of_action = torch.autograd.grad(
                [gradient[name] for name in reached],
                [*parameters.values(), leaf],
                [d_gradient[name] for name in reached],
                materialize_grads=True,
            )
            return Pullback(dict(zip(parameters, grads, strict=True)), {}, of_action)

        unknown = torch.tensor(math.nan)
        return Gradient({name: g.detach() for name, g in gradient.items()}, None, {}, Outcome(unknown, unknown)), pull

    def pull_gradient_back(
        self, state: StudentState, action: torch.Tensor, t: int, d_gradient: Tensors | None, d_statistics: Tensors
    ) -> Pullback:
        """By double backward."""
        assert d_gradient is not None
        return self.gradient_and_adjoint(state, action, t)[1](d_gradient, d_statistics)

    def value(self, state: StudentState) -> tuple[torch.Tensor, Cotangent]:
        """(J, ∂J/∂x_T)."""
        return _value(lambda s: self._of_parameters(s.parameters), state, {})

    def gradient_with_graph(
        self, parameters: Tensors, buffers: Tensors, state: StudentState, action: torch.Tensor, t: int
    ) -> tuple[Tensors, Tensors]:
        """∇ of the loss with its graph."""
        with torch.enable_grad():
            loss, wanted = self._loss(parameters, action, t), list(parameters.values())
            grads = torch.autograd.grad(loss, wanted, create_graph=True, materialize_grads=True)
        return dict(zip(parameters, grads, strict=True)), {}


def _value(
    objective: Callable[[StudentState], torch.Tensor], state: StudentState, statistics: Tensors
) -> tuple[torch.Tensor, Cotangent]:
    parameters, statistics = leaves(state.parameters), leaves(statistics)
    with torch.enable_grad():
        value = objective(replace(state, parameters=parameters, buffers=state.buffers | statistics))
        with opened():  # J depends on what a network's own gradients stop at, too
            grads = torch.autograd.grad(
                value.sum(), [*parameters.values(), *statistics.values()], materialize_grads=True
            )
    of_parameters = dict(zip(parameters, grads, strict=False))
    of_statistics = dict(zip(statistics, grads[len(parameters) :], strict=True))
    return value.detach(), Cotangent(
        of_parameters, {n: torch.zeros_like(s) for n, s in state.slots.items()}, of_statistics
    )
