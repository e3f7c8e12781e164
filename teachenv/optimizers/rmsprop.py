"""RMSprop (Tieleman & Hinton 2012).

`torch.optim.RMSprop` without its centred form, with weight decay λ, smoothing α, momentum μ and learning rate η:

    g̃ = g + λω      s' = αs + (1 − α)g̃²      D = √s' + ε      u = g̃/D      v' = μv + u      ω' = ω − ηv'

and its reverse rule, for cotangents dω', ds', dv' of the outputs:

    dv̄ = dv' − η dω'                         cotangent of v', and of u
    ds̄ = ds' − dv̄ g̃ / (2 D² √s')             cotangent of s'
    dg = dv̄/D + 2(1 − α) g̃ ds̄                cotangent of g̃, hence of g
    dω = dω' + λ dg      ds = α ds̄      dv = μ dv̄

Where s' = 0, all gradients so far were zero, and the second term of ds̄ is taken as zero, as in Adam's rule. With μ = 0
there is no v: v' is u. The rule needs the gradient's value, not only the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from teachenv import checks
from teachenv.optimizers.base import Optimizer, Places, Rate, Step, Tensors, acts, along, root_of, scaled_sum


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop, equal to `torch.optim.RMSprop` step for step (bitwise on the CPU).

    The slots are `"square:<name>"` (s) and, with momentum, `"velocity:<name>"` (v) of each parameter.

    Attributes:
        alpha: α in [0, 1), how much of the mean of squares is kept at each step.
        epsilon: what is added to the denominator, ε > 0.
        weight_decay: λ ≥ 0, added to the gradient as λω.
        momentum: μ ≥ 0. PyTorch's default is 0, unlike that of this library's SGD students.
    """

    alpha: float = 0.99
    epsilon: float = 1e-8
    weight_decay: Rate = 0.0
    momentum: Rate = 0.0
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", checks.number("alpha", self.alpha, least=0, below=1, dtype=None))
        object.__setattr__(self, "epsilon", checks.number("epsilon", self.epsilon, above=0, dtype=None))
        for name in ("weight_decay", "momentum"):
            object.__setattr__(self, name, checks.number(name, getattr(self, name), least=0, dtype=None))

    def init(self, parameters: Tensors) -> Tensors:
        """The slots before the first step: mean squares and velocities are zero."""
        kinds = ("square", "velocity") if self.momentum else ("square",)
        return {f"{kind}:{name}": torch.zeros_like(p) for kind in kinds for name, p in parameters.items()}

    def update(
        self,
        parameters: Tensors,
        gradient: Tensors,
        slots: Tensors,
        rate: Rate,
        step: Step = 0,
        out: Places | None = None,
    ) -> tuple[Tensors, Tensors]:
        """Takes one step; `Optimizer.update` says more."""
        new: Tensors = {}
        new_slots: Tensors = {}
        for name, p in parameters.items():
            decayed, square = self._moments(name, p, gradient[name], slots)
            denominator = root_of(square) + self.epsilon
            new_slots[f"square:{name}"] = square
            if f"velocity:{name}" in slots:
                velocity = slots[f"velocity:{name}"].mul(along(self.momentum, p)).addcdiv(decayed, denominator)
                new_slots[f"velocity:{name}"] = velocity
                new[name] = scaled_sum(p, velocity, -rate)
            elif isinstance(rate, torch.Tensor):
                new[name] = p - along(rate, p) * (decayed / denominator)
            else:
                new[name] = p.addcdiv(decayed, denominator, value=-rate)
            if out is not None:
                new[name] = out.parameters[name].copy_(new[name])
        return new, {name: new_slots[name] for name in slots}

    def reverse(
        self,
        d_parameters: Tensors,
        d_slots: Tensors,
        rate: Rate,
        step: Step = 0,
        parameters: Tensors | None = None,
        gradient: Tensors | None = None,
        slots: Tensors | None = None,
    ) -> tuple[Tensors, Tensors, Tensors]:
        """The adjoint of `update`; the module has the formulas."""
        assert parameters is not None
        assert gradient is not None
        assert slots is not None
        d_gradient: Tensors = {}
        d_old: Tensors = {}
        d_old_slots: Tensors = {}
        for name, d in d_parameters.items():
            decayed, square = self._moments(name, parameters[name], gradient[name], slots)
            root = square.sqrt()
            denominator = root + self.epsilon
            d_velocity = d_slots.get(f"velocity:{name}", torch.zeros_like(d)) - along(rate, d) * d
            d_quotient = d_velocity / denominator
            bend = d_quotient * decayed / (2.0 * denominator * root)
            d_square = d_slots[f"square:{name}"] - torch.where(root > 0, bend, torch.zeros_like(bend))
            d_gradient[name] = d_quotient + 2 * (1 - self.alpha) * decayed * d_square
            d_old[name] = scaled_sum(d, d_gradient[name], self.weight_decay) if acts(self.weight_decay) else d
            d_old_slots[f"square:{name}"] = self.alpha * d_square
            if f"velocity:{name}" in d_slots:
                d_old_slots[f"velocity:{name}"] = along(self.momentum, d) * d_velocity
        return d_gradient, d_old, {name: d_old_slots[name] for name in slots}

    def _moments(
        self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, slots: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient with weight decay and the new mean square, (g̃, s')."""
        if acts(self.weight_decay):
            gradient = scaled_sum(gradient, parameter, self.weight_decay)
        return gradient, slots[f"square:{name}"].mul(self.alpha).addcmul(gradient, gradient, value=1 - self.alpha)
