"""Adam and AdamW.

`torch.optim.Adam` and `torch.optim.AdamW`, at step t = 0, 1, … with α = η/(1 − β₁^{t+1}) and c = √(1 − β₂^{t+1}):

    g̃ = g + λω (AdamW: g, and ω is multiplied by 1 − ηλ first)
    m' = β₁m + (1 − β₁)g̃      s' = β₂s + (1 − β₂)g̃²      D = √s'/c + ε      ω' = ω − αm'/D

and the reverse rule:

    dm̄ = dm' − α dω'/D                       ds̄ = ds' + α dω' m' / (2 c D² √s')
    dg = (1 − β₁) dm̄ + 2(1 − β₂) g̃ ds̄        dm = β₁ dm̄        ds = β₂ ds̄
    dω = dω' + λ dg   (AdamW: (1 − ηλ) dω')

Where s' = 0, all gradients so far were zero, so is m', and the second term of ds̄ is taken as zero: a coordinate whose
gradient is exactly zero is a point where Adam has no derivative (the update jumps from 0 to ±η), and this is the value
that keeps it out of the sum. Unlike SGD's, the rule needs the gradient's value, not only the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from teachenv import checks
from teachenv.optimizers.base import Optimizer, Places, Rate, Step, Tensors, acts, along, root_of, scaled_sum


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam or AdamW, equal to `torch.optim.Adam` and `torch.optim.AdamW` step for step (bitwise on the CPU).

    The slots are `"mean:<name>"` (m) and `"square:<name>"` (s) of each parameter.

    Attributes:
        betas: decay rates (β₁, β₂) of the moments, each in [0, 1).
        epsilon: what is added to the denominator, ε > 0.
        weight_decay: weight decay λ ≥ 0.
        decoupled: AdamW's form: λ shrinks the parameters directly; else λω is added to the gradient.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: Rate = 0.0
    decoupled: bool = False
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        pair = checks.listed("betas", self.betas, "numbers in [0, 1)", count=2)
        betas = tuple(checks.number(f"betas[{i}]", beta, least=0, below=1, dtype=None) for i, beta in enumerate(pair))
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "epsilon", checks.number("epsilon", self.epsilon, above=0, dtype=None))
        object.__setattr__(self, "weight_decay", checks.number("weight_decay", self.weight_decay, least=0, dtype=None))
        object.__setattr__(self, "decoupled", checks.flag("decoupled", self.decoupled))

    def init(self, parameters: Tensors) -> Tensors:
        """The slots before the first step: all moments are zero."""
        return {f"{slot}:{name}": torch.zeros_like(p) for slot in ("mean", "square") for name, p in parameters.items()}

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
        moments: Tensors = {}
        for name, p in parameters.items():
            mean, square = self._moments(name, p, gradient[name], slots)
            size, correction = self._corrections(p, rate, step)
            denominator = root_of(square) / correction + self.epsilon
            decays = self.decoupled and acts(self.weight_decay)
            decayed = p.mul(along(1 - rate * self.weight_decay, p)) if decays else p
            if isinstance(size, torch.Tensor):
                new[name] = decayed - size * (mean / denominator)
            else:
                new[name] = decayed.addcdiv(mean, denominator, value=-size)
            if out is not None:
                new[name] = out.parameters[name].copy_(new[name])
            moments |= {f"mean:{name}": mean, f"square:{name}": square}
        return new, {name: moments[name] for name in slots}

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
        d_moments: Tensors = {}
        for name, d in d_parameters.items():
            p, g = parameters[name], gradient[name]
            mean, square = self._moments(name, p, g, slots)
            size, correction = self._corrections(p, rate, step)
            root = square.sqrt()
            denominator = root / correction + self.epsilon
            through = size * d / denominator
            d_mean = d_slots[f"mean:{name}"] - through
            bend = through * mean / (2.0 * correction * denominator * root)
            d_square = d_slots[f"square:{name}"] + torch.where(root > 0, bend, torch.zeros_like(bend))
            decay = self.weight_decay
            coupled = acts(decay) and not self.decoupled
            decayed = scaled_sum(g, p, decay) if coupled else g
            d_gradient[name] = (1 - self.betas[0]) * d_mean + 2 * (1 - self.betas[1]) * decayed * d_square
            d_old[name] = d
            if coupled:
                d_old[name] = scaled_sum(d, d_gradient[name], decay)
            elif acts(decay):
                d_old[name] = d * along(1 - rate * decay, d)
            d_moments |= {f"mean:{name}": self.betas[0] * d_mean, f"square:{name}": self.betas[1] * d_square}
        return d_gradient, d_old, {name: d_moments[name] for name in slots}

    def irreversible(self) -> str | None:
        """None, but where a moment has no memory."""
        return None if all(self.betas) else f"betas={list(self.betas)} has a 0: that moment does not remember anything"

    def correction_bits(self, with_slots: bool) -> float:
        """3.5 to 4.5 were measured, the more in the first steps; the slots are always read."""
        return 4.0

    def parameters_before(self, parameters: Tensors, slots: Tensors, rate: Rate, step: Step = 0) -> Tensors:
        """Predicts ω = ω' + αm'/D; of AdamW that divided by 1 − ηλ."""
        before: Tensors = {}
        for name, p in parameters.items():
            size, correction = self._corrections(p, rate, step)
            denominator = slots[f"square:{name}"].sqrt().div_(correction).add_(self.epsilon)
            before[name] = torch.div(slots[f"mean:{name}"], denominator, out=denominator).mul_(size).add_(p)
            if self.decoupled and acts(self.weight_decay):
                before[name].div_(along(1 - rate * self.weight_decay, p))
        return before

    def slots_before(
        self,
        parameters: Tensors,
        parameters_after: Tensors,
        gradient: Tensors,
        slots: Tensors,
        rate: Rate,
        step: Step = 0,
    ) -> Tensors:
        """Predicts m = (m' − (1 − β₁)g̃)/β₁ and s = (s' − (1 − β₂)g̃²)/β₂."""
        before: Tensors = {}
        for name, p in parameters.items():
            g = gradient[name]
            if acts(self.weight_decay) and not self.decoupled:
                g = scaled_sum(g, p, self.weight_decay)
            (first, second), mean, square = self.betas, f"mean:{name}", f"square:{name}"
            before[mean] = slots[mean].sub(g, alpha=1 - first).div_(first)
            before[square] = slots[square].addcmul(g, g, value=second - 1).div_(second)
        return {name: before[name] for name in slots}

    def _moments(
        self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, slots: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new moments (m', s')."""
        if acts(self.weight_decay) and not self.decoupled:
            gradient = scaled_sum(gradient, parameter, self.weight_decay)
        mean = slots[f"mean:{name}"].lerp(gradient, 1 - self.betas[0])
        return mean, slots[f"square:{name}"].mul(self.betas[1]).addcmul(gradient, gradient, value=1 - self.betas[1])

    def _corrections(self, like: torch.Tensor, rate: Rate, step: Step) -> tuple[Rate, Rate]:
        """The bias corrections (α, c): numbers, or tensors that multiply along the leading dimension of `like`."""
        first, second = (1 - beta ** (np.asarray(step, dtype=float) + 1) for beta in self.betas)
        if not isinstance(rate, torch.Tensor) and first.ndim == 0:
            return rate / float(first), float(second) ** 0.5
        divisor, root = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (first, second**0.5))
        return along(rate / divisor, like), along(root, like)
