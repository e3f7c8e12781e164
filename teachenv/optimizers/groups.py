"""Groups of parameters, each with an optimiser and a learning rate of its own, as `param_groups` are in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from teachenv.optimizers.base import Optimizer, Places, Rate, Step, Tensors, slots_of


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
        out: Places | None = None,
    ) -> tuple[Tensors, Tensors]:
        """Takes one step in each group; `Optimizer.update` says more."""

        def updated(group: Group) -> tuple[Tensors, Tensors]:
            places = None if out is None else Places(_of(group, out.parameters), slots_of(out.slots, group.names))
            slots_of_group, rate_of_group = slots_of(slots, group.names), rate * group.learning_rate
            return group.optimizer.update(
                _of(group, parameters), _of(group, gradient), slots_of_group, rate_of_group, step, places
            )

        return self._joined(updated)

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

        def reversed_group(group: Group) -> tuple[Tensors, Tensors]:
            assert slots is not None
            of_gradient, of_parameters, of_slots = group.optimizer.reverse(
                _of(group, d_parameters),
                slots_of(d_slots, group.names),
                rate * group.learning_rate,
                step,
                _of(group, parameters),
                _of(group, gradient),
                slots_of(slots, group.names),
            )
            d_gradient.update(of_gradient)
            return of_parameters, of_slots

        d_old, d_old_slots = self._joined(reversed_group)
        return d_gradient, d_old, d_old_slots

    def groups_of(self, names: Collection[str]) -> list[Collection[str]]:
        """Returns the parameters of each group."""
        return [group.names for group in self.groups]

    def irreversible(self) -> str | None:
        """None, if the steps of every group can be reversed; else why not those of the first that cannot."""
        reasons = [group.optimizer.irreversible() for group in self.groups]
        return next((f"parameter group {i}: {reason}" for i, reason in enumerate(reasons) if reason), None)

    def correction_bits(self, with_slots: bool) -> float:
        """Those of the group that takes most."""
        return max(group.optimizer.correction_bits(with_slots) for group in self.groups)

    def parameters_before(self, parameters: Tensors, slots: Tensors, rate: Rate, step: Step = 0) -> Tensors:
        """Predicts the parameters of each group."""
        before: Tensors = {}
        for group in self.groups:
            of_group = _of(group, parameters), slots_of(slots, group.names)
            before |= group.optimizer.parameters_before(*of_group, rate * group.learning_rate, step)
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
        """Predicts the slots of each group."""
        before: Tensors = {}
        for group in self.groups:
            before |= group.optimizer.slots_before(
                _of(group, parameters),
                _of(group, parameters_after),
                _of(group, gradient),
                slots_of(slots, group.names),
                rate * group.learning_rate,
                step,
            )
        return before

    def _joined(self, of_group: Callable[[Group], tuple[Tensors, Tensors]]) -> tuple[Tensors, Tensors]:
        """What a function gives for each group, of all groups."""
        tensors: Tensors = {}
        slots: Tensors = {}
        for group in self.groups:
            of_parameters, of_slots = of_group(group)
            tensors |= of_parameters
            slots |= of_slots
        return tensors, slots


def _of(group: Group, tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name in group.names}
