"""One step ahead: how the dev loss after a plain step depends on the action that the step is taken under.

From a student ω, under an action a with the taught loss ℓ_a on the next minibatch:

    ω̂(a) = ω − η ∇ℓ_a(ω)          and          d L_dev(ω̂(a)) / da = −η ∂/∂a ⟨∇ℓ_a(ω), ∇L_dev(ω̂(a))⟩

It is what L2RW (Ren et al. 2018, eqs. 4-7, at weights zero) and Meta-Weight-Net (Shu et al. 2019, eqs. 3-4) learn from.
As in both papers' code the step ω̂ is plain gradient descent at the student's present rate, whatever optimiser the
student has: no momentum, no weight decay. L_dev is the cross-entropy on all dev samples that the environment measures,
in evaluation mode (the released codes take a minibatch of dev, in training mode); running statistics are those after
the step. The derivative is exact: two gradients and one double backward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from meta.hypergradients.process import double_backward_kernels
from teachenv.dynamics import Dynamics
from teachenv.optimizers import Tensors
from teachenv.optimizers.base import scaled_sum
from teachenv.problem import Problem
from teachenv.state import Episode, StudentState
from teachenv.tasks.measures import Measure
from teachenv.trees import leaves


@dataclass(frozen=True)
class LookAhead:
    """The dev loss after a step, and its derivative.

    Attributes:
        error: L_dev(ω̂), () or (B,) for B students.
        action: dL_dev(ω̂)/da, (n,) or (B, n).
    """

    error: torch.Tensor
    action: torch.Tensor


def likelihood(problem: Problem) -> Measure:
    """Returns what judges a classifier by minus the cross-entropy, whatever J the environment has."""
    temperature = problem.settings.objective_temperature
    return problem.decisions.judged_by(problem.task.num_outputs, temperature, "likelihood")


def dev_gradient(
    dynamics: Dynamics, state: StudentState, episode: Episode, names: list[str]
) -> tuple[torch.Tensor, Tensors]:
    """Returns (−J at a student, or at each of a batch; its gradient with respect to the parameters of these names)."""
    parameters = leaves({name: state.parameters[name] for name in names})
    with torch.enable_grad():
        error = -dynamics.objective(replace(state, parameters=state.parameters | parameters), episode)
        gradient = torch.autograd.grad(error.sum(), list(parameters.values()), materialize_grads=True)
    return error.detach(), dict(zip(names, gradient, strict=True))


def look_ahead(
    dynamics: Dynamics, measure: Measure, state: StudentState, episode: Episode, action: torch.Tensor
) -> LookAhead:
    """Takes one plain step on the next minibatch, and differentiates what it comes to on dev.

    Args:
        dynamics: the training.
        measure: whose objective is −L_dev, such as `likelihood(problem)`.
        state: the student, or a batch of B, before the end of its training; it stays as it is.
        episode: its episode.
        action: the action, (n,) or (B, n).
    """
    update = dynamics.updates(episode)[-1]
    with double_backward_kernels():
        rate, step = update.rate(state), update.gradient(state, action)
        moved = {name: scaled_sum(state.parameters[name], g, -rate) for name, g in step.parameters.items()}
        ahead = replace(state, parameters=state.parameters | moved, buffers=step.buffers)
        error, direction = dev_gradient(replace(dynamics, measure=measure), ahead, episode, list(moved))
        of_step = update.pullback(state, action, direction, {})
        derivative = update.of_action(state, action, of_step.action).to_dense()
    return LookAhead(error, scaled_sum(torch.zeros_like(derivative), derivative, -rate))
