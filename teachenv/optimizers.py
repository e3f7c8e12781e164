"""Student optimisers as pure functions, each with its exact reverse rule.

An optimiser turns (parameters, gradient, slots) into (parameters', slots'). Because the update is linear in the
gradient, its adjoint (reverse rule) is written by hand: it costs a few element-wise operations where autograd would
keep a graph.

SGD is `torch.optim.SGD`, in its notation with weight decay λ, momentum μ and learning rate η:

    g̃ = g + λω        v' = μv + g̃        ω' = ω − ηv'          (Nesterov: ω' = ω − η(g̃ + μv'))

and its reverse rule, for cotangents dω', dv' of the outputs:

    dv̄ = dv' − η dω'   (Nesterov: dv' − ημ dω')                 cotangent of v'
    dg = dv̄             (Nesterov: dv̄ − η dω')                   cotangent of g̃, hence of g
    dω = dω' + λ dg     dv = μ dv̄

The L2T-DLF paper states the recursion for plain SGD only (its eqs. 4-5) although its students use momentum; with μ = 0
the rule above is the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensors = dict[str, torch.Tensor]
"""Named tensors: a student's parameters, a gradient, or an optimiser's slot."""

Rate = float | torch.Tensor
"""A learning rate: a number, or one number per student, shape (B,), for B students that stand at different steps."""


def _scaled_sum(tensor: torch.Tensor, direction: torch.Tensor, factor: Rate) -> torch.Tensor:
    """The sum tensor + factor · direction, where a tensor of factors multiplies along the leading dimension."""
    if isinstance(factor, torch.Tensor):
        return tensor + factor.view(-1, *[1] * (direction.dim() - 1)) * direction
    return tensor.add(direction, alpha=factor)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, equal to `torch.optim.SGD` step for step (bitwise on the CPU).

    Attributes:
        momentum: μ ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient as λω.
        nesterov: Nesterov's momentum; needs momentum > 0.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True with momentum=0: Nesterov's momentum needs momentum > 0")

    def init(self, parameters: Tensors) -> Tensors:
        """The slots before the first step: the momentum buffer v = 0, or nothing without momentum."""
        return {name: torch.zeros_like(p) for name, p in parameters.items()} if self.momentum else {}

    def update(self, parameters: Tensors, gradient: Tensors, slots: Tensors, rate: Rate) -> tuple[Tensors, Tensors]:
        """One step; returns the new parameters and slots and leaves the arguments as they are."""
        if self.weight_decay:
            gradient = {name: g.add(parameters[name], alpha=self.weight_decay) for name, g in gradient.items()}
        if self.momentum:
            # In place on the product, which nobody else holds: a large student is bound by memory traffic.
            slots = {name: slots[name].mul(self.momentum).add_(g) for name, g in gradient.items()}
            direction = slots
            if self.nesterov:
                direction = {name: g.add(slots[name], alpha=self.momentum) for name, g in gradient.items()}
        else:
            direction = gradient
        return {name: _scaled_sum(p, direction[name], -rate) for name, p in parameters.items()}, slots

    def reverse(self, d_parameters: Tensors, d_slots: Tensors, rate: Rate) -> tuple[Tensors, Tensors, Tensors]:
        """The adjoint of `update`.

        Args:
            d_parameters: cotangent dω' of the new parameters.
            d_slots: cotangent dv' of the new slots.
            rate: the learning rate of the step.

        Returns:
            The cotangents of the gradient, of the old parameters (the direct path only, not through the gradient) and
            of the old slots.
        """
        if not self.momentum:
            d_gradient = {name: _scaled_sum(torch.zeros_like(d), d, -rate) for name, d in d_parameters.items()}
            d_old_slots: Tensors = {}
        else:
            through = self.momentum if self.nesterov else 1.0
            d_velocity = {name: _scaled_sum(d_slots[name], d, -rate * through) for name, d in d_parameters.items()}
            d_gradient = d_velocity
            if self.nesterov:
                d_gradient = {name: _scaled_sum(d, d_parameters[name], -rate) for name, d in d_velocity.items()}
            d_old_slots = {name: self.momentum * d for name, d in d_velocity.items()}
        d_old = d_parameters
        if self.weight_decay:
            d_old = {name: d.add(d_gradient[name], alpha=self.weight_decay) for name, d in d_parameters.items()}
        return d_gradient, d_old, d_old_slots
