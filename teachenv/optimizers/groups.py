"""Groups of parameters, each with an optimiser and a learning rate of its own, as `param_groups` are in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from teachenv.optimizers.base import Optimizer, Rate, Step, Tensors, slots_of


class Group(NamedTuple):
    """Parameters that move alike.

    Attributes:
        names: the parameters' names.
        optimizer: their optimiser.
        learning_rate: their learning rate η.
    """

    names: frozenset[str]
    optimizer: Optimizer
    learning_rate: Rate


@dataclass(frozen=True)
class ParameterGroups(Optimizer):
    """An optimiser for each of several groups of parameters; its learning rate is a factor on those of the groups.

    Attributes:
        groups: the groups; each parameter is in one of them.
    """

    groups: tuple[Group, ...]
    needs_gradient: ClassVar[bool] = True

    def init(self, parameters: Tensors) -> Tensors:
        """The slots of all groups before the first step."""
        slots: Tensors = {}
        for group in self.groups:
            slots |= group.optimizer.init(_of(group, parameters))
        return slots

    def update(
        self,
        parameters: Tensors,
        gradient: Tensors,
        slots: Tensors,
        rate: Rate,
        step: Step = 0,
        out: Tensors | None = None,
    ) -> tuple[Tensors, Tensors]:
        """Takes one step in each group; `Optimizer.update` says more."""

        def updated(group: Group, slots: Tensors) -> tuple[Tensors, Tensors]:
            places = None if out is None else _of(group, out)
            rate_of_group = rate * group.learning_rate
            return group.optimizer.update(
                _of(group, parameters), _of(group, gradient), slots, rate_of_group, step, places
            )

        new, new_slots = self._joined(updated, slots)
        return {name: new[name] for name in parameters}, new_slots

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
        """The adjoint of `update`, group by group."""
        assert parameters is not None
        assert gradient is not None
        assert slots is not None
        d_gradient: Tensors = {}

        def reversed_group(group: Group, d_slots: Tensors) -> tuple[Tensors, Tensors]:
            assert slots is not None
            of_gradient, of_parameters, of_slots = group.optimizer.reverse(
                _of(group, d_parameters),
                d_slots,
                rate * group.learning_rate,
                step,
                _of(group, parameters),
                _of(group, gradient),
                slots_of(slots, group.names),
            )
            d_gradient.update(of_gradient)
            return of_parameters, of_slots

        d_old, d_old_slots = self._joined(reversed_group, d_slots)
        return d_gradient, d_old, d_old_slots

    def _joined(
        self, of_group: Callable[[Group, Tensors], tuple[Tensors, Tensors]], slots: Tensors
    ) -> tuple[Tensors, Tensors]:
        """What a function gives for each group and its slots, of all groups; slots stay in their order."""
        joined: Tensors = {}
        new_slots: Tensors = {}
        for group in self.groups:
            tensors, of_slots = of_group(group, slots_of(slots, group.names))
            joined |= tensors
            new_slots |= of_slots
        return joined, {name: new_slots[name] for name in slots}


def _of(group: Group, tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name in group.names}
