"""Hypergradients: the derivative of a student's final dev objective with respect to every action of its teacher.

With state x_t = (ω_t, v_t, b_t) (parameters, optimiser slots, running statistics) and x_{t+1} = step(x_t, a_t),
reverse-mode differentiation carries the cotangent dx_t = dJ/dx_t backwards from dx_T = ∂J/∂x_T. One step back, in our
notation (`teachenv.optimizers` derives the optimiser's part):

    dg, dω, dv = optimiser's reverse rule of (dω', dv')
    dω += (∂g/∂ω)ᵀ dg + (∂b'/∂ω)ᵀ db'        da_t = (∂g/∂a)ᵀ dg        db = (∂b'/∂b)ᵀ db'

where g = ∇_ω L(ω_t, a_t) on the minibatch of step t. For plain SGD without running statistics these are L2T-DLF's
eqs. 4-5 (its dω there is the same for both lines: the cotangent before the step is undone); with momentum the paper's
form is wrong.

Methods:
    `"rmd"`: exact. One double backward a step; the network must be twice differentiable by autograd.
    `"finite-difference"`: the two products with dg by central differences of the gradient along dg, at ω ± ε·dg with
        ε = r/‖dg‖. In float32 r = 0.01, which balances rounding and truncation; in float64, where rounding leaves room,
        r = 3e-8, too short to reach a kink of ReLU or max-pooling. Two gradients a step; no double backward. Running
        statistics are still followed exactly, by one ordinary backward pass. Known gap: in float32 a network of many
        ReLUs has kinks within r, whose jumps count as curvature (relative errors measured over four steps: tanh
        perceptron 2e-5, LeNet 7e-4, ResNet-8 0.05 under a bilinear loss and 0.3 under a mixture).

Memory: the parameters of each recorded state, no graphs. Between recorded states (several student steps under one
action) the steps are replayed, bitwise, from the earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from teachenv.dynamics import Dynamics, Episode, StudentState
from teachenv.errors import unknown_name
from teachenv.optimizers import Tensors

_RADIUS = {torch.float32: 1e-2, torch.float64: 3e-8}
"""How far `"finite-difference"` moves the parameters; see above."""

Method = Literal["rmd", "finite-difference"]
METHODS: tuple[Method, ...] = ("rmd", "finite-difference")


@dataclass(frozen=True)
class Cotangent:
    """dJ/dx of a state x: one tensor for each of its tensors that J can depend on."""

    parameters: Tensors
    slots: Tensors
    buffers: Tensors


@dataclass(frozen=True)
class Hypergradient:
    """A hypergradient and what it cost.

    Attributes:
        actions: dJ/da_t of each action, (actions, n), or (B, actions, n) for a batch.
        initial: dJ/dx_0.
        gradient_evaluations: gradients of minibatch losses that were computed, a student.
        hessian_vector_products: double backward passes, a student.
    """

    actions: torch.Tensor
    initial: Cotangent
    gradient_evaluations: int
    hessian_vector_products: int


def check_method(method: str) -> Method:
    """Returns the method.

    Raises:
        ValueError: it is none of `METHODS`.
    """
    for known in METHODS:
        if method == known:
            return known
    raise unknown_name("method", method, METHODS)


def hypergradient(
    dynamics: Dynamics,
    episode: Episode,
    states: Sequence[StudentState],
    actions: Sequence[torch.Tensor],
    final: StudentState,
    *,
    steps_per_action: int = 1,
    method: Method = "rmd",
) -> Hypergradient:
    """Differentiates J(final) with respect to the actions, each with the others held.

    Args:
        dynamics: the training of one student, or of a batch.
        episode: what the training drew on.
        states: the state before each action.
        actions: the actions, (n,) or (B, n) each.
        final: the state after the last action.
        steps_per_action: student steps under each action.
        method: see the module.

    Raises:
        ValueError: an unknown method.
    """
    check_method(method)
    back = _exact_step_back if method == "rmd" else _finite_difference_step_back
    cotangent = _objective_gradient(dynamics, episode, final)
    d_actions: list[torch.Tensor] = []
    for state, action in zip(reversed(states), reversed(actions), strict=True):
        segment = [state]
        for _ in range(steps_per_action - 1):
            segment.append(dynamics.step(segment[-1], episode, action)[0])
        d_action = torch.zeros_like(action)
        for inner in reversed(segment):
            cotangent, d_inner = back(dynamics, inner, episode, action, cotangent)
            d_action = d_action + d_inner
        d_actions.append(d_action)
    steps = len(states) * steps_per_action
    replayed = len(states) * (steps_per_action - 1)
    if not d_actions:
        batch = final.step.shape if not isinstance(final.step, int) else ()
        stacked = next(iter(final.parameters.values())).new_zeros((*batch, 0, 0))
    else:
        stacked = torch.stack(d_actions[::-1], dim=-2)
    exact = method == "rmd"
    return Hypergradient(stacked, cotangent, replayed + (steps if exact else 2 * steps), steps if exact else 0)


def _objective_gradient(dynamics: Dynamics, episode: Episode, state: StudentState) -> Cotangent:
    """∂J/∂x_T."""
    parameters, buffers = _leaves(state.parameters), _leaves(_statistics(dynamics, state))
    with torch.enable_grad():
        objective = dynamics.objective(replace(state, parameters=parameters, buffers=state.buffers | buffers), episode)
        grads = torch.autograd.grad(objective.sum(), [*parameters.values(), *buffers.values()], materialize_grads=True)
    slots = {name: torch.zeros_like(slot) for name, slot in state.slots.items()}
    return Cotangent(
        dict(zip(parameters, grads, strict=False)), slots, dict(zip(buffers, grads[len(parameters) :], strict=True))
    )


def _exact_step_back(
    dynamics: Dynamics, state: StudentState, episode: Episode, action: torch.Tensor, cotangent: Cotangent
) -> tuple[Cotangent, torch.Tensor]:
    """The cotangent before the step, and dJ/da of the step's action, by double backward."""
    d_gradient, d_parameters, d_slots = dynamics.optimizer.reverse(
        cotangent.parameters, cotangent.slots, dynamics.rate(state.step)
    )
    through = dynamics.pullback(state, episode, action, d_gradient, cotangent.buffers)
    d_parameters = {name: d + through.parameters[name] for name, d in d_parameters.items()}
    return Cotangent(d_parameters, d_slots, through.statistics), through.action


def _finite_difference_step_back(
    dynamics: Dynamics, state: StudentState, episode: Episode, action: torch.Tensor, cotangent: Cotangent
) -> tuple[Cotangent, torch.Tensor]:
    """The cotangent before the step, and dJ/da of the step's action, by central differences along dg."""
    d_gradient, d_parameters, d_slots = dynamics.optimizer.reverse(
        cotangent.parameters, cotangent.slots, dynamics.rate(state.step)
    )
    size = action.shape[:-1]
    norm = torch.stack([d.reshape(*size, -1).square().sum(-1) for d in d_gradient.values()]).sum(0).sqrt()
    epsilon = _RADIUS[norm.dtype] / norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5)

    def along(sign: float) -> tuple[Tensors, torch.Tensor]:
        moved = {
            name: p + sign * epsilon.view(*size, *[1] * (p.dim() - len(size))) * d_gradient[name]
            for name, p in state.parameters.items()
        }
        gradient = dynamics.gradient(replace(state, parameters=moved), episode, action, with_action=True)
        assert gradient.action is not None
        return gradient.parameters, gradient.action

    (plus, plus_action), (minus, minus_action) = along(1.0), along(-1.0)

    def difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).div(2.0 * epsilon.view(*size, *[1] * (a.dim() - len(size))))

    d_parameters = {name: d + difference(plus[name], minus[name]) for name, d in d_parameters.items()}
    d_buffers = cotangent.buffers
    if d_buffers:
        through = dynamics.pullback(state, episode, action, None, cotangent.buffers)
        d_parameters = {name: d + through.parameters[name] for name, d in d_parameters.items()}
        d_buffers = through.statistics
    return Cotangent(d_parameters, d_slots, d_buffers), difference(plus_action, minus_action)


def _statistics(dynamics: Dynamics, state: StudentState) -> Tensors:
    """The buffers that a training step changes and J can depend on."""
    return {name: state.buffers[name] for name in dynamics.student.statistics}


def _leaves(tensors: Tensors) -> Tensors:
    return {name: t.detach().requires_grad_() for name, t in tensors.items()}
