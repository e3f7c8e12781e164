"""What PyTorch's optimiser and scheduler have at each step of a loop, and the optimisers here that are like them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from teachenv import checks
from teachenv.optimizers import Optimizer, Rate
from teachenv.optimizers.base import SETTINGS
from teachenv.optimizers.groups import Group, ParameterGroups
from teachenv.optimizers.of_torch import optimizer_of_group

_IN_PYTORCH = {"learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}


@dataclass(frozen=True, eq=False)
class Schedule:
    """The settings of a loop's optimiser, step by step.

    Attributes:
        groups: the optimiser of each parameter group at the first step.
        table: settings by step and group, (steps, groups, len(SETTINGS)) in float64.
        settings: names of those that are differentiated.
    """

    groups: tuple[Group, ...]
    table: torch.Tensor
    settings: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The names of all parameters that the optimiser has."""
        return [name for group in self.groups for name in group.names]

    @cached_property  # each step asks for its shape
    def chosen(self) -> torch.Tensor:
        """The settings that are differentiated, (steps, groups, len(settings)) in float64."""
        return self.table[..., [SETTINGS.index(name) for name in self.settings]]

    def optimizer_at(self, step: int, chosen: Any = None) -> tuple[Optimizer, Rate]:
        """The (optimiser, learning rate) of a step.

        Args:
            step: the number of the step.
            chosen: the settings that are differentiated in the place of the table's, (groups, len(settings)).
        """
        groups = []
        for i, group in enumerate(self.groups):
            values: dict[str, Any] = dict(zip(SETTINGS, self.table[step, i].tolist(), strict=True))
            values |= {} if chosen is None else {name: chosen[i][j] for j, name in enumerate(self.settings)}
            rate = values.pop("learning_rate")
            if not _has_momentum(group.optimizer):
                del values["momentum"]
            groups.append(Group(group.names, group.optimizer.under(**values), rate))
        if len(groups) == 1:
            return groups[0].optimizer, groups[0].learning_rate
        return ParameterGroups(tuple(groups)), 1.0

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int,
        scheduler: Any,
        every: int,
        settings: tuple[str, ...],
    ) -> Schedule:
        """The settings that PyTorch's optimiser has under its scheduler.

        Args:
            model: whose parameters the optimiser moves.
            optimizer: PyTorch's, before its first step; it stays as it is.
            steps: how many steps the loop has.
            scheduler: a scheduler of PyTorch's on that optimiser, or None; it stays as it is.
            every: after how many steps it is called, each time.
            settings: names of the settings that are differentiated.

        Raises:
            TypeError: another optimiser or scheduler than there is here.
            ValueError: the optimiser has stepped already, has a hook, or moves what is not of the model; a setting that
                it does not have, or that the scheduler changes and that has no derivative here.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer must be one of torch.optim on the model's parameters, found {checks.shown(optimizer)}"
            )
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = []
        for given in optimizer.param_groups:
            if any(id(parameter) not in names for parameter in given["params"]):
                raise ValueError(
                    "the optimizer has a parameter that is not of the model; make it of model.parameters()"
                )
            members = frozenset(names[id(parameter)] for parameter in given["params"])
            groups.append(Group(members, *optimizer_of_group(optimizer, given)))
            if "momentum" in settings and not _has_momentum(groups[-1].optimizer):
                raise ValueError(
                    'settings has "momentum", and the optimizer has none: give it momentum, or leave it out'
                )
        if any(getattr(optimizer, f"_optimizer_step_{when}_hooks", None) for when in ("pre", "post")):
            raise ValueError(
                "the optimizer has a hook on its step, which may change gradients or parameters and is not followed; "
                "make one without, and bound the gradient by the loss or the learning rate"
            )
        if optimizer.state:
            raise ValueError(
                "the optimizer has taken steps already; make a fresh one, since the loop begins with its first"
            )
        table = torch.tensor(_rows(optimizer, steps, scheduler, every), dtype=torch.float64)
        return cls(tuple(groups), table, settings)


def _has_momentum(optimizer: Optimizer) -> bool:
    return bool(getattr(optimizer, "momentum", 0.0))


def _rows(optimizer: torch.optim.Optimizer, steps: int, scheduler: Any, every: int) -> list[list[list[float]]]:
    """The settings of all groups at each step, from copies of optimiser and scheduler without the parameters."""
    # A learning rate may be a tensor, which schedulers write into.
    groups = [copy.deepcopy({**group, "params": [torch.zeros(1)]}) for group in optimizer.param_groups]
    make: Callable[..., torch.optim.Optimizer] = type(optimizer)
    like = make(groups)
    if scheduler is not None:
        if not isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler) or scheduler.optimizer is not optimizer:
            raise TypeError(
                f"scheduler must be one of torch.optim.lr_scheduler on this optimizer, found {checks.shown(scheduler)}"
            )
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise TypeError(
                "ReduceLROnPlateau reads a measure of the training, and has no derivative; take another one"
            )
        scheduler = copy.deepcopy(scheduler, {id(optimizer): like})
    elif every != 1:
        raise ValueError(f"found scheduler_every={checks.shown(every)} without a scheduler; leave it out, or give one")

    def others() -> list[dict[str, Any]]:
        """What the optimiser has beside the settings that a scheduler may change."""
        names = optimizer.defaults.keys() - _IN_PYTORCH.values()
        return [{name: group.get(name) for name in sorted(names)} for group in like.param_groups]

    fixed, rows = others(), []
    for step in range(steps):
        rows.append([[float(group.get(_IN_PYTORCH[name], 0.0)) for name in SETTINGS] for group in like.param_groups])
        if scheduler is not None and (step + 1) % checks.integer("scheduler_every", every, least=1) == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a scheduler whose optimiser takes no step
                scheduler.step()
        for before, after in zip(fixed, others(), strict=True):
            if changed := [name for name in before if before[name] != after[name]]:
                hint = "; a OneCycleLR takes cycle_momentum=False" if changed == ["betas"] else ""
                raise ValueError(
                    f"the scheduler changes {changed[0]} in step {step}, which is not followed here: it may change "
                    f"{', '.join(_IN_PYTORCH.values())}{hint}"
                )
    at = SETTINGS.index("momentum")
    for group in range(len(fixed)):
        has = [row[group][at] != 0 for row in rows]
        if sorted(has, reverse=True) != has:
            raise ValueError(
                f"the scheduler sets momentum to 0 at step {has.index(False)} and to more later: PyTorch's optimiser "
                "keeps the velocity from before such a step, which is not followed here; take a least momentum above 0"
            )
    return rows
