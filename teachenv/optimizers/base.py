"""What a student's optimiser is: a pure function and its exact reverse rule.

An optimiser turns (parameters, gradient, slots) into (parameters', slots'). Its adjoint (reverse rule) is written by
hand: it costs a few element-wise operations where autograd would keep a graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch.autograd import forward_ad

from teachenv.frozen import with_values

Self = TypeVar("Self", bound="Optimizer")

Tensors = dict[str, torch.Tensor]
"""Named tensors: a student's parameters, a gradient, or an optimiser's slot."""

Rate = float | torch.Tensor
"""A learning rate, or another setting of an optimiser: a number, or one for each of B students, shape (B,)."""


class Places(NamedTuple):
    """Memory for what a step gives.

    Attributes:
        parameters: where the new parameters are written, all of them.
        slots: where new slots may be written; of some of them, or of none.
    """

    parameters: Tensors
    slots: Tensors


SETTINGS = ("learning_rate", "momentum", "weight_decay")
"""What of an optimiser an action can set; momentum where the optimiser has a slot for it."""

Step = int | np.ndarray
"""How many steps were taken: a number, or one number per student, shape (B,)."""


def slots_of(slots: Tensors, names: Collection[str]) -> Tensors:
    """The slots of some of the parameters."""
    return {slot: tensor for slot, tensor in slots.items() if slot.rpartition(":")[2] in names}


def in_order(tensors: Tensors, like: Iterable[str]) -> Tensors:
    """The tensors in the order of other names; an optimiser may return its own in any."""
    return {name: tensors[name] for name in like}


def scaled_sum(
    tensor: torch.Tensor, direction: torch.Tensor, factor: Rate, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum tensor + factor · direction, where a tensor of factors multiplies along the leading dimension."""
    if isinstance(factor, torch.Tensor):
        direction, factor = along(factor, direction) * direction, 1.0
    return torch.add(tensor, direction, alpha=factor, out=out)


def root_of(square: torch.Tensor) -> torch.Tensor:
    """√s, whose derivative, where one is asked for, is zero at s = 0.

    A coordinate whose gradient was always exactly zero is a point where the optimisers that divide by √s have no
    derivative (the update jumps from 0 to ±η), and zero is the value that keeps it out of the sum.
    """
    tangent = forward_ad.unpack_dual(square).tangent  # type: ignore[no-untyped-call]
    if tangent is None and not square.requires_grad:
        return square.sqrt()
    positive = square > 0
    return torch.where(positive, square, 1.0).sqrt() * positive


def acts(setting: Rate) -> bool:
    """Whether a momentum or a weight decay does anything: it is not 0, or is a tensor."""
    return isinstance(setting, torch.Tensor) or setting != 0


def along(factor: Rate, like: torch.Tensor) -> Rate:
    """The factors of students, shaped to multiply along the leading dimension of `like`; a number stays as it is."""
    if not isinstance(factor, torch.Tensor):
        return factor
    if factor.dim():
        return factor.view(-1, *[1] * (like.dim() - 1))
    return factor if like.dim() else factor.to(like.dtype)  # between two scalars the wider type would win


class Optimizer(Protocol):
    """A student's optimiser: pure functions over named tensors, of one student or, stacked, of several.

    It inherits this class and writes `init`, `update` and `reverse`; one for which no gradient of the return is wanted
    raises NotImplementedError in `reverse`. One of a user's own is tried on small parameters when an environment is
    made (`teachenv.trial`).
    """

    needs_gradient: ClassVar[bool]
    """Whether `reverse` reads parameters, gradient or slots; if not, None may be passed for them."""

    def init(self, parameters: Tensors) -> Tensors:
        """The slots before the first step.

        A slot is named after its parameter, `"<parameter>"` or `"<kind>:<parameter>"`, and made like it, so that those
        of many students are stacked as their parameters are, and those of two networks in joint training are told
        apart. A slot of another name works in the training of one student by one loss alone; for the number of steps
        there is `step`.
        """
        ...

    def update(
        self,
        parameters: Tensors,
        gradient: Tensors,
        slots: Tensors,
        rate: Rate,
        step: Step = 0,
        out: Places | None = None,
    ) -> tuple[Tensors, Tensors]:
        """One step; returns the new parameters and slots and leaves the arguments as they are.

        Args:
            parameters: parameters ω before the step.
            gradient: gradient g of the loss.
            slots: the slots that `init` or the step before returned.
            rate: learning rate η of this step.
            step: how many steps were taken before this one.
            out: where the new parameters are written, and where the new slots may be; None: to new memory.
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
            rate: learning rate η of the step.
            step: how many steps were taken before it.
            parameters: ω before the step; with the next two, read only where `needs_gradient`.
            gradient: gradient g of the step.
            slots: the slots before the step.

        Returns:
            The cotangents of the gradient, of the old parameters (the direct path only, not through the gradient) and
            of the old slots.
        """
        ...

    def under(self: Self, **settings: Rate) -> Self:
        """This optimiser with other settings, names in `SETTINGS` but the learning rate; they are not checked.

        Each is a number, one for each of B students, (B,), or a scalar tensor, in which `update` is differentiable.
        """
        return with_values(self, **settings)

    def scales(self, rate: Rate) -> bool:
        """Whether there is `reverse_scaled` for this η; an optimiser has none unless it says so."""
        return False

    def reverse_scaled(
        self, d_parameters: Tensors, d_slots: Tensors, rate: Rate, factor: float
    ) -> tuple[Tensors, float, Tensors, Tensors, float]:
        """The adjoint of `update` in fewer passes over the tensors, by leaving out factors; where `scales(rate)`.

        Args:
            d_parameters: cotangent dω' of the new parameters.
            d_slots: cotangent of the new slots, but for the factor.
            rate: learning rate η of the step.
            factor: the factor that `d_slots` lacks.

        Returns:
            The cotangent of the gradient but for a factor, and that factor; the cotangent of the old parameters (the
            direct path only); the cotangent of the old slots but for a factor, and that factor.
        """
        raise TypeError(f"{type(self).__name__} has no scaled reverse rule: ask scales(rate) first, and take reverse")

    def groups_of(self, names: Collection[str]) -> list[Collection[str]]:
        """Returns the parameters of each group that moves alike: all together, unless an optimiser has groups.

        Of such a group the predictions below get one flat tensor, under the name of its first parameter.
        """
        return [names]

    def irreversible(self) -> str | None:
        """Returns why the state before a step cannot be predicted from the one after it; None if it can.

        Steps are reversed by two predictions, each corrected by what was written down on the way forwards: of the
        parameters from the state after the step, then, with the gradient there, of the slots. An optimiser has none
        unless it says so.
        """
        return f"{type(self).__name__} has no rule that predicts the state before a step"

    def correction_bits(self, with_slots: bool) -> float:
        """Returns about how many bits corrections take, of a parameter and step.

        Args:
            with_slots: whether slots are restored to the bit too; parameters always are.
        """
        raise TypeError(f"{self.irreversible()}: ask irreversible() first")

    def parameters_before(self, parameters: Tensors, slots: Tensors, rate: Rate, step: Step = 0) -> Tensors:
        """Predicts the parameters before a step, up to rounding.

        Args:
            parameters: ω' after the step.
            slots: the slots after it, or what `slots_before` predicted of them.
            rate: learning rate η of the step.
            step: how many steps were taken before it.
        """
        raise TypeError(f"{self.irreversible()}: ask irreversible() first")

    def slots_before(
        self,
        parameters: Tensors,
        parameters_after: Tensors,
        gradient: Tensors,
        slots: Tensors,
        rate: Rate,
        step: Step = 0,
    ) -> Tensors:
        """Predicts the slots before a step.

        Args:
            parameters: ω before the step.
            parameters_after: ω' after it.
            gradient: gradient g of the step.
            slots: the slots after it; empty where they are only a help to restore parameters, and need not be near.
            rate: learning rate η of the step.
            step: how many steps were taken before it.
        """
        raise TypeError(f"{self.irreversible()}: ask irreversible() first")
