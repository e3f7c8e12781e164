"""Stochastic gradient descent with momentum, weight decay and Nesterov's form.

`torch.optim.SGD`, in its notation with weight decay λ, momentum μ and learning rate η:

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
from typing import ClassVar

import torch

from teachenv import checks
from teachenv.optimizers.base import Optimizer, Places, Rate, Step, Tensors, acts, along, scaled_sum


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, equal to `torch.optim.SGD` step for step (bitwise on the CPU).

    Attributes:
        momentum: μ ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient as λω.
        nesterov: Nesterov's momentum; needs momentum > 0.
    """

    momentum: Rate = 0.0
    weight_decay: Rate = 0.0
    nesterov: bool = False
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("momentum", "weight_decay"):
            object.__setattr__(self, name, checks.number(name, getattr(self, name), least=0, dtype=None))
        object.__setattr__(self, "nesterov", checks.flag("nesterov", self.nesterov))
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True with momentum=0: Nesterov's momentum needs momentum > 0")

    def init(self, parameters: Tensors) -> Tensors:
        """The slots before the first step: the momentum buffer v = 0, or nothing without momentum."""
        return {name: torch.zeros_like(p) for name, p in parameters.items()} if self.momentum else {}

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
        decay, momentum = self.weight_decay, self.momentum
        if acts(decay):
            gradient = {name: scaled_sum(g, parameters[name], decay) for name, g in gradient.items()}
        if slots:
            # In place on the product, which nobody else holds: a large student is bound by memory traffic.
            slots = {
                name: torch.mul(slots[name], along(momentum, g), out=out.slots.get(name) if out else None).add_(g)
                for name, g in gradient.items()
            }
            direction = slots
            if self.nesterov:
                direction = {name: scaled_sum(g, slots[name], momentum) for name, g in gradient.items()}
        else:
            direction = gradient
        places = out.parameters if out else dict.fromkeys(parameters)
        return {name: scaled_sum(p, direction[name], -rate, places[name]) for name, p in parameters.items()}, slots

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
        if not d_slots:
            d_gradient = {name: scaled_sum(torch.zeros_like(d), d, -rate) for name, d in d_parameters.items()}
            d_old_slots: Tensors = {}
        else:
            through = self.momentum if self.nesterov else 1.0
            d_velocity = {name: scaled_sum(d_slots[name], d, -rate * through) for name, d in d_parameters.items()}
            d_gradient = d_velocity
            if self.nesterov:
                d_gradient = {name: scaled_sum(d, d_parameters[name], -rate) for name, d in d_velocity.items()}
            d_old_slots = {name: along(self.momentum, d) * d for name, d in d_velocity.items()}
        d_old = d_parameters
        if acts(self.weight_decay):
            d_old = {name: scaled_sum(d, d_gradient[name], self.weight_decay) for name, d in d_parameters.items()}
        return d_gradient, d_old, d_old_slots

    def scales(self, rate: Rate) -> bool:
        """True of one number η ≠ 0, without Nesterov's form, if the other settings are numbers too."""
        if isinstance(rate, torch.Tensor) or self.nesterov:
            return False
        return rate != 0 and not any(isinstance(each, torch.Tensor) for each in (self.momentum, self.weight_decay))

    def reverse_scaled(
        self, d_parameters: Tensors, d_slots: Tensors, rate: Rate, factor: float
    ) -> tuple[Tensors, float, Tensors, Tensors, float]:
        """The adjoint of `update` in one pass over the tensors, by leaving out a factor.

        With c = −η, dv' + c dω' = c u for u = dω' + (1/c) dv': the cotangent of the gradient is c u, and that of the
        old slots, where there are any, μ c u.
        """
        scale = -float(rate)
        direction = d_old = d_parameters
        if d_slots:
            direction = {name: d.add(d_slots[name], alpha=factor / scale) for name, d in d_parameters.items()}
        if self.weight_decay:
            decay = float(self.weight_decay) * scale
            d_old = {name: d.add(direction[name], alpha=decay) for name, d in d_parameters.items()}
        return direction, scale, d_old, direction if d_slots else {}, scale * float(self.momentum)

    def irreversible(self) -> str | None:
        """Of SGD with momentum None; without it, and in Nesterov's form, the last gradient is not in the state."""
        if self.nesterov:
            return (
                "in Nesterov's form ω = ω' + η(g̃ + μv') needs the gradient at the parameters that are to be found; "
                "nesterov=False is reversible"
            )
        if not acts(self.momentum):
            return "without momentum ω = ω' + ηg needs the gradient at the parameters that are to be found"
        return None

    def correction_bits(self, with_slots: bool) -> float:
        """Parameters alone: 2.0 to 2.1 were measured; the momentum near 0 is hard to predict to the bit."""
        return 4.5 if with_slots else 2.0

    def parameters_before(self, parameters: Tensors, slots: Tensors, rate: Rate, step: Step = 0) -> Tensors:
        """Predicts ω = ω' + ηv'."""
        return {name: scaled_sum(p, slots[name], rate) for name, p in parameters.items()}

    def slots_before(
        self,
        parameters: Tensors,
        parameters_after: Tensors,
        gradient: Tensors,
        slots: Tensors,
        rate: Rate,
        step: Step = 0,
    ) -> Tensors:
        """Predicts v = (v' − g̃)/μ; without v' by (ω − ω')/η in its place, so that parameters need one correction."""
        if not acts(self.momentum) or not (slots or acts(rate)):  # nothing of v is left
            return {name: torch.zeros_like(p) for name, p in parameters.items()}
        before: Tensors = {}
        for name, p in parameters.items():
            g = scaled_sum(gradient[name], p, self.weight_decay) if acts(self.weight_decay) else gradient[name]
            if slots:
                before[name] = torch.sub(slots[name], g).div_(along(self.momentum, p))
                continue
            velocity = torch.sub(p, parameters_after[name]).div_(along(rate * self.momentum, p))
            before[name] = scaled_sum(velocity, g, -1 / self.momentum, out=velocity)
        return before
