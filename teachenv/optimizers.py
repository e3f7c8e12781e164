"""Student optimisers as pure functions, each with its exact reverse rule.

An optimiser turns (parameters, gradient, slots) into (parameters', slots'). Its adjoint (reverse rule) is written by
hand: it costs a few element-wise operations where autograd would keep a graph.

**SGD** is `torch.optim.SGD`, in its notation with weight decay λ, momentum μ and learning rate η:

    g̃ = g + λω        v' = μv + g̃        ω' = ω − ηv'          (Nesterov: ω' = ω − η(g̃ + μv'))

and its reverse rule, for cotangents dω', dv' of the outputs:

    dv̄ = dv' − η dω'   (Nesterov: dv' − ημ dω')                 cotangent of v'
    dg = dv̄             (Nesterov: dv̄ − η dω')                   cotangent of g̃, hence of g
    dω = dω' + λ dg     dv = μ dv̄

The L2T-DLF paper states the recursion for plain SGD only (its eqs. 4-5) although its students use momentum; with μ = 0
the rule above is the paper's.

**Adam** is `torch.optim.Adam`, **AdamW** `torch.optim.AdamW`, at step t = 0, 1, … with α = η/(1 − β₁^{t+1}) and
c = √(1 − β₂^{t+1}):

    g̃ = g + λω (AdamW: g, and ω is multiplied by 1 − ηλ first)
    m' = β₁m + (1 − β₁)g̃      s' = β₂s + (1 − β₂)g̃²      D = √s'/c + ε      ω' = ω − αm'/D

    dm̄ = dm' − α dω'/D                       ds̄ = ds' + α dω' m' / (2 c D² √s')
    dg = (1 − β₁) dm̄ + 2(1 − β₂) g̃ ds̄        dm = β₁ dm̄        ds = β₂ ds̄
    dω = dω' + λ dg   (AdamW: (1 − ηλ) dω')

Where s' = 0, all gradients so far were zero, so is m', and the second term of ds̄ is taken as zero: a coordinate whose
gradient is exactly zero is a point where Adam has no derivative (the update jumps from 0 to ±η), and this is the value
that keeps it out of the sum. Unlike SGD's, the rule needs the gradient's value, not only the state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.autograd import forward_ad

from teachenv import checks

Tensors = dict[str, torch.Tensor]
"""Named tensors: a student's parameters, a gradient, or an optimiser's slot."""

Rate = float | torch.Tensor
"""A learning rate: a number, or one number per student, shape (B,), for B students that stand at different steps."""

Step = int | np.ndarray
"""How many steps were taken: a number, or one number per student, shape (B,)."""


def slots_of(slots: Tensors, names: Collection[str]) -> Tensors:
    """The slots of some of the parameters."""
    return {slot: tensor for slot, tensor in slots.items() if slot.rpartition(":")[2] in names}


def _scaled_sum(
    tensor: torch.Tensor, direction: torch.Tensor, factor: Rate, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum tensor + factor · direction, where a tensor of factors multiplies along the leading dimension."""
    if isinstance(factor, torch.Tensor):
        direction, factor = factor.view(-1, *[1] * (direction.dim() - 1)) * direction, 1.0
    return torch.add(tensor, direction, alpha=factor, out=out)


class Optimizer(Protocol):
    """A student's optimiser: pure functions over named tensors, of one student or, stacked, of several."""

    needs_gradient: ClassVar[bool]
    """Whether `reverse` reads the gradient; if not, None may be passed for it."""

    def init(self, parameters: Tensors) -> Tensors:
        """The slots before the first step."""
        ...

    def update(
        self,
        parameters: Tensors,
        gradient: Tensors,
        slots: Tensors,
        rate: Rate,
        step: Step = 0,
        out: Tensors | None = None,
    ) -> tuple[Tensors, Tensors]:
        """One step; returns the new parameters and slots and leaves the arguments as they are.

        Args:
            parameters: ω.
            gradient: g.
            slots: as `init` or the step before returned them.
            rate: η of this step.
            step: how many steps were taken before this one.
            out: where the new parameters are written; None: to new memory.
        """
        ...

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
        """The adjoint of `update`.

        Args:
            d_parameters: cotangent dω' of the new parameters.
            d_slots: cotangent of the new slots.
            rate: η of the step.
            step: how many steps were taken before it.
            parameters: ω before the step; with the next two, read only where `needs_gradient`.
            gradient: g of the step.
            slots: the slots before the step.

        Returns:
            The cotangents of the gradient, of the old parameters (the direct path only, not through the gradient) and
            of the old slots.
        """
        ...


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
        out: Tensors | None = None,
    ) -> tuple[Tensors, Tensors]:
        """See `Optimizer`."""
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
        places = out or dict.fromkeys(parameters)
        return {name: _scaled_sum(p, direction[name], -rate, places[name]) for name, p in parameters.items()}, slots

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
        """See `Optimizer`."""
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

    def scales(self, rate: float) -> bool:
        """Whether `reverse_scaled` can be used."""
        return not self.nesterov and rate != 0

    def reverse_scaled(
        self, d_parameters: Tensors, d_slots: Tensors, rate: float, factor: float
    ) -> tuple[Tensors, Tensors, float]:
        """`reverse` in one pass over the tensors, by leaving out a factor.

        With c = −η, dv' + c dω' = c u for u = dω' + (1/c) dv'.

        Args:
            d_parameters: dω'.
            d_slots: dv', but for the factor.
            rate: η ≠ 0 of the step.
            factor: of `d_slots`.

        Returns:
            u, the cotangent of the old parameters by the direct path, and c: the cotangent of the gradient is c u, that
            of the old slots, where there are any, μ c u.
        """
        scale = -rate
        direction = d_old = d_parameters
        if self.momentum:
            direction = {name: d.add(d_slots[name], alpha=factor / scale) for name, d in d_parameters.items()}
        if self.weight_decay:
            decay = self.weight_decay * scale
            d_old = {name: d.add(direction[name], alpha=decay) for name, d in d_parameters.items()}
        return direction, d_old, scale


@dataclass(frozen=True)
class Adam:
    """Adam or AdamW, equal to `torch.optim.Adam` and `torch.optim.AdamW` step for step (bitwise on the CPU).

    The slots are `"mean:<name>"` (m) and `"square:<name>"` (s) of each parameter.

    Attributes:
        betas: (β₁, β₂), each in [0, 1).
        epsilon: ε > 0.
        weight_decay: λ ≥ 0.
        decoupled: AdamW: λ shrinks the parameters directly; else λω is added to the gradient.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
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
        """M = s = 0."""
        return {f"{slot}:{name}": torch.zeros_like(p) for slot in ("mean", "square") for name, p in parameters.items()}

    def update(
        self,
        parameters: Tensors,
        gradient: Tensors,
        slots: Tensors,
        rate: Rate,
        step: Step = 0,
        out: Tensors | None = None,
    ) -> tuple[Tensors, Tensors]:
        """See `Optimizer`."""
        new: Tensors = {}
        moments: Tensors = {}
        for name, p in parameters.items():
            mean, square = self._moments(name, p, gradient[name], slots)
            size, correction = self._corrections(p, rate, step)
            denominator = _root(square) / correction + self.epsilon
            kept = p.mul(_along(1 - rate * self.weight_decay, p)) if self.decoupled and self.weight_decay else p
            if isinstance(size, torch.Tensor):
                new[name] = kept - size * (mean / denominator)
            else:
                new[name] = kept.addcdiv(mean, denominator, value=-size)
            if out is not None:
                new[name] = out[name].copy_(new[name])
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
        """See `Optimizer`."""
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
            shrunk = self.weight_decay if not self.decoupled else 0.0
            decayed = g.add(p, alpha=shrunk) if shrunk else g
            d_gradient[name] = (1 - self.betas[0]) * d_mean + 2 * (1 - self.betas[1]) * decayed * d_square
            d_old[name] = d
            if shrunk:
                d_old[name] = d.add(d_gradient[name], alpha=shrunk)
            elif self.weight_decay:
                d_old[name] = d * _along(1 - rate * self.weight_decay, d)
            d_moments |= {f"mean:{name}": self.betas[0] * d_mean, f"square:{name}": self.betas[1] * d_square}
        return d_gradient, d_old, {name: d_moments[name] for name in slots}

    def _moments(
        self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, slots: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(m', s')."""
        if self.weight_decay and not self.decoupled:
            gradient = gradient.add(parameter, alpha=self.weight_decay)
        mean = slots[f"mean:{name}"].lerp(gradient, 1 - self.betas[0])
        return mean, slots[f"square:{name}"].mul(self.betas[1]).addcmul(gradient, gradient, value=1 - self.betas[1])

    def _corrections(self, like: torch.Tensor, rate: Rate, step: Step) -> tuple[Rate, Rate]:
        """(α, c): numbers, or tensors that multiply along the leading dimension of `like`."""
        first, second = (1 - beta ** (np.asarray(step, dtype=float) + 1) for beta in self.betas)
        if not isinstance(rate, torch.Tensor) and first.ndim == 0:
            return rate / float(first), float(second) ** 0.5
        divisor, root = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (first, second**0.5))
        return _along(rate / divisor, like), _along(root, like)


def _root(square: torch.Tensor) -> torch.Tensor:
    """√s, whose derivative, where one is asked for, is zero at s = 0; see the module."""
    tangent = forward_ad.unpack_dual(square).tangent  # type: ignore[no-untyped-call]
    if tangent is None and not square.requires_grad:
        return square.sqrt()
    positive = square > 0
    return torch.where(positive, square, 1.0).sqrt() * positive


def _along(factor: Rate, like: torch.Tensor) -> Rate:
    """A factor of each student, shaped to multiply along the leading dimension of `like`; a number as it is."""
    if isinstance(factor, torch.Tensor) and factor.dim():
        return factor.view(-1, *[1] * (like.dim() - 1))
    return factor


OPTIMIZERS = ("sgd", "adam", "adamw")


def make_optimizer(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """The named optimiser.

    Args:
        name: `"sgd"`, `"adam"` or `"adamw"`.
        options: Adam's `betas` and `epsilon`.
        momentum: SGD's μ, of no meaning to the others; β₁ is an option of Adam's own.
        weight_decay: λ.
        nesterov: SGD's.

    Raises:
        ValueError: an unknown name, or a value out of its range.
        TypeError: an option that the optimiser does not have.
    """
    checks.choice("optimizer", name, OPTIMIZERS)
    options = dict(options or {})
    checks.known_options(f"optimizer {name!r}", options, () if name == "sgd" else ("betas", "epsilon"))
    if name == "sgd":
        return SGD(momentum, weight_decay, nesterov)
    if nesterov:
        raise ValueError(f"nesterov=True is of optimizer 'sgd', found optimizer {name!r}")
    return Adam(weight_decay=weight_decay, decoupled=name == "adamw", **options)
