"""A training loop of your own as a process: `meta.Training.of`.

    for batch in batches:                                    ω_{t+1}, v_{t+1} = optimizer(ω_t, v_t, ∇_ω loss)
        optimizer.zero_grad()
        loss(model, batch, **hyperparameters).backward()
        optimizer.step(); scheduler.step()
    J = objective(model)

What J is differentiated with respect to is one action, under which all steps are taken: the hyperparameters that the
loss reads, flat and one after the other, and then the optimiser's settings of each step and parameter group. The
action is in float64, so that a learning rate is the number that PyTorch's optimiser has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd import forward_ad

from meta.hypergradients.blocks import Blocks
from meta.hypergradients.gradient_process import GradientProcess
from meta.hypergradients.hypergradient import hypergradient
from meta.hypergradients.left_out import parts_left_out, warn_of_parts_left_out
from meta.hypergradients.loop_functions import LoopFunctions, size_of, unflattened
from meta.hypergradients.loop_settings import Schedule
from meta.hypergradients.loss_update import Derivatives, LossUpdate
from meta.hypergradients.process import double_backward_kernels
from meta.hypergradients.replay import check_replay
from meta.hypergradients.sweep import Hypergradient
from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.experiment.progress import bar
from teachenv.modes import refuse_inference_mode
from teachenv.optimizers import Optimizer, Rate, Tensors
from teachenv.optimizers.base import SETTINGS
from teachenv.state import StudentState
from teachenv.students.skeleton import Skeleton, refuse_foreign_tensors
from teachenv.trees import leaves, versions_of

ADJOINTS = ("double-backward", "blockwise")


@dataclass(frozen=True)
class LoopGradient:
    """What J depends on, and how: the gradient of a training loop's objective.

    Attributes:
        objective: J, a scalar.
        hyperparameters: dJ/d(each tensor that the loss reads), by name, in its shape and type.
        settings: dJ/d(each setting of the optimiser), by name, (steps, parameter groups) in float64; those of a step
            are as PyTorch would have them there, `"learning_rate"` with the scheduler's factor.
        initial: dJ/d(each parameter before the first step), by name; empty if the method does not give it.
        cost: the memory policy that was followed, bytes, gradients and so on.
    """

    objective: torch.Tensor
    hyperparameters: Tensors
    settings: Tensors
    initial: Tensors = field(repr=False)
    cost: Hypergradient = field(repr=False)


class Loop(GradientProcess):
    """A training loop of your own as a process over `StudentState`; `meta.Training.of` makes it and says more.

    Attributes:
        initial: the state before the first step.
        actions: the one action, (1, n), in float64: hyperparameters and settings as the loop has them.
        steps: how many steps the loop has, all under that action.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Any],
        loss: Callable[..., torch.Tensor],
        objective: Callable[[nn.Module], torch.Tensor],
        *,
        scheduler: Any = None,
        scheduler_every: int = 1,
        hyperparameters: Mapping[str, torch.Tensor] | None = None,
        settings: Sequence[str] = ("learning_rate", "weight_decay"),
        epochs: int = 1,
        seed: int = 0,
        adjoint: Literal["double-backward", "blockwise"] = "double-backward",
        blocks: Sequence[str] | None = None,
    ) -> None:
        """Reads the batches, and takes the first step twice to see that it is a function of its arguments."""
        if checks.integer("epochs", epochs, least=1) > 1 and isinstance(batches, Iterator):
            raise ValueError(
                f"found epochs={epochs} and {type(batches).__name__} of batches, which can be read once; give a list "
                "or a DataLoader"
            )
        kept = _read(batches, epochs)
        refuse_foreign_tensors(model)
        read = _checked(hyperparameters or {})
        refuse_inference_mode("meta.Training.of", [*model.parameters(), *model.buffers(), *read.values()])
        schedule = Schedule.of(model, optimizer, len(kept), scheduler, scheduler_every, _known(settings))
        exchanged = _chosen(model, adjoint, blocks)
        functions = LoopFunctions(Skeleton(model), loss, kept, read, checks.integer("seed", seed, least=0), exchanged)
        parameters, buffers, idle = functions.parted(schedule.names)
        update = _Update(
            optimizer=schedule.optimizer_at(0)[0],
            statistics=[name for name, b in buffers.items() if b.is_floating_point()],
            idle=idle,
            functions=functions,
            schedule=schedule,
        )
        super().__init__(
            update,
            lambda state: functions.objective(objective, state),
            update.statistics,
            stops_gradients=functions.stops_gradients(parameters, buffers),
        )
        self.steps = len(kept)
        self.initial = StudentState(parameters, self.optimizer.init(parameters), buffers, 0)
        flat = [each.detach().flatten().to("cpu", torch.float64) for each in read.values()]
        device = next(iter(parameters.values())).device
        self.actions = torch.cat([*flat, schedule.chosen.flatten()])[None].to(device)
        self._read, self._schedule = read, schedule
        with double_backward_kernels():
            check_replay(model, update, self.initial, self.actions[0], kept[0])
            if exchanged is None and (
                parts := parts_left_out(update, self._objective, self.initial, self.actions[0], read, self.steps - 1)
            ):
                warn_of_parts_left_out(f"{', '.join(parts[:3])} of the model {type(model).__name__}", stacklevel=3)
        if exchanged is not None and not exchanged.called:
            raise ValueError(f"the first step's loss calls none of the blocks {', '.join(exchanged.names[:3])}")

    def gradient(self, **options: Any) -> LoopGradient:
        """Differentiates J with respect to everything that the loop was made with.

        On a terminal a bar shows how many steps have been differentiated.

        Args:
            **options: those of `meta.hypergradient`, such as `method`, `memory`, `byte_budget` and `last`.
        """
        with bar("steps differentiated", options.get("last") or self.steps) as advance:
            given = {"steps_per_action": self.steps, "advance": advance, **options}
            cost = hypergradient(self, self.initial, self.actions, **given)
        of_read, of_settings = cost.actions[0][: size_of(self._read)], cost.actions[0][size_of(self._read) :]
        shaped = of_settings.view(self._schedule.chosen.shape)
        return LoopGradient(
            cost.objective,
            {name: part.to(self._read[name]) for name, part in unflattened(of_read, self._read).items()},
            {name: shaped[..., i] for i, name in enumerate(self._schedule.settings)},
            {} if cost.initial is None else cost.initial.parameters,
            cost,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Update(LossUpdate):
    """A step of the loop: the loss on its batch, and the optimiser under that step's settings."""

    functions: LoopFunctions
    schedule: Schedule

    def beginning(self, tensors: Tensors) -> Tensors:
        """Returns leaves: a loss of one's own may treat the model's parameters as such."""
        return leaves(tensors)

    @property
    def blockwise(self) -> bool:
        return self.functions.blocks is not None

    @property
    def adjusts(self) -> bool:
        return bool(self.schedule.settings)

    def rate(self, state: StudentState) -> Rate:
        return self.schedule.optimizer_at(int(state.step))[1]

    def optimizer_at(self, state: StudentState, action: torch.Tensor) -> tuple[Optimizer, Rate]:
        step = int(state.step)
        if not self.schedule.settings:
            return self.schedule.optimizer_at(step)
        chosen = action[size_of(self.functions.read) :].view(self.schedule.chosen.shape)[step]
        carries = chosen.requires_grad or forward_ad.unpack_dual(chosen).tangent is not None  # type: ignore[no-untyped-call]
        return self.schedule.optimizer_at(step, chosen if carries else chosen.tolist())

    def loss_at(
        self, parameters: Tensors, buffers: Tensors, step: int, action: torch.Tensor, derivatives: Derivatives
    ) -> tuple[torch.Tensor, Tensors]:
        return self.functions.at(parameters, buffers, step, action, derivatives)

    def reached(self, step: int, without: list[str], beside: list[str]) -> None:
        if without:
            raise RuntimeError(
                f"the loss of step {step} does not depend on {without[0]!r}, and that of step 0 did: PyTorch's "
                "optimiser leaves such a parameter out, which is not followed here; add 0 times its sum to the loss, "
                "or freeze it (requires_grad_(False))"
            )
        if beside:
            raise RuntimeError(
                f"the loss of step {step} depends on {beside[0]!r}, and that of step 0 did not: which parameters are "
                "trained must be the same in all steps; begin with a batch whose loss depends on all of them, or add 0 "
                "times their sum to the loss"
            )


def _chosen(model: nn.Module, adjoint: str, blocks: Sequence[str] | None) -> Blocks | None:
    if adjoint not in ADJOINTS:
        raise unknown_name("adjoint", adjoint, ADJOINTS)
    if adjoint == "blockwise":
        return Blocks(model, blocks)
    if blocks is not None:
        raise ValueError(f'found blocks={list(blocks)!r} with adjoint="double-backward"; take adjoint="blockwise"')
    return None


def _read(batches: Iterable[Any], epochs: int) -> list[Any]:
    """All batches. A loader may write each into the memory of the last one, which would then be all of them."""
    kept = [(batch, versions_of(batch)) for _ in range(epochs) for batch in batches]
    if not kept:
        raise ValueError("found no batches, expected a list of them or a DataLoader")
    for t, (batch, versions) in enumerate(kept):
        if versions_of(batch) != versions:
            raise ValueError(
                f"batch {t} was written into when a later one was read; give each batch memory of its own (clone)"
            )
    return [batch for batch, _ in kept]


def _checked(read: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    for name, tensor in read.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise TypeError(
                f"hyperparameters[{name!r}] must be a tensor of floating-point numbers, found {checks.shown(tensor)}"
            )
    return dict(read)


def _known(settings: Sequence[str]) -> tuple[str, ...]:
    for name in settings:
        if name not in SETTINGS:
            raise unknown_name("setting", name, SETTINGS)
    if len(set(settings)) < len(settings):
        raise ValueError(f"found settings={list(settings)!r}, expected each once")
    return tuple(settings)
