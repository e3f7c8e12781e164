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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd import forward_ad

from meta.hypergradients.blocks import Blocks, Kernels
from meta.hypergradients.gradient_process import GradientProcess
from meta.hypergradients.hypergradient import hypergradient
from meta.hypergradients.left_out import parts_left_out, warn_of_parts_left_out
from meta.hypergradients.loop_settings import Schedule
from meta.hypergradients.loss_update import Derivatives, LossUpdate
from meta.hypergradients.process import double_backward_kernels
from meta.hypergradients.replay import check_replay, recomputes
from meta.hypergradients.sweep import Hypergradient
from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.experiment.progress import bar
from teachenv.optimizers import Optimizer, Rate, Tensors
from teachenv.optimizers.base import SETTINGS
from teachenv.randomness import Purpose, all_seeded
from teachenv.state import StudentState
from teachenv.students.kernels import DifferentiableKernels
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
        schedule = Schedule.of(model, optimizer, len(kept), scheduler, scheduler_every, _known(settings))
        exchanged = _chosen(model, adjoint, blocks)
        called = _Called(Skeleton(model), loss, kept, read, checks.integer("seed", seed, least=0), exchanged)
        parameters, buffers, idle = called.parted(schedule.names)
        update = _Update(
            optimizer=schedule.optimizer_at(0)[0],
            statistics=[name for name, b in buffers.items() if b.is_floating_point()],
            idle=idle,
            called=called,
            schedule=schedule,
        )
        super().__init__(
            update,
            lambda state: called.objective(objective, state),
            update.statistics,
            stops_gradients=called.stops_gradients(parameters, buffers),
        )
        self.steps = len(kept)
        self.initial = StudentState(parameters, self.optimizer.init(parameters), buffers, 0)
        flat = [each.detach().flatten().to("cpu", torch.float64) for each in read.values()]
        device = next(iter(parameters.values())).device
        self.actions = torch.cat([*flat, schedule.chosen.flatten()])[None].to(device)
        self._read, self._schedule = read, schedule
        with double_backward_kernels():
            check_replay(model, update, self.initial, self.actions[0], kept[0])
            if exchanged is None and (parts := parts_left_out(update, self.initial, self.actions[0], read)):
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
        of_read, of_settings = cost.actions[0][: _size(self._read)], cost.actions[0][_size(self._read) :]
        shaped = of_settings.view(self._schedule.chosen.shape)
        return LoopGradient(
            cost.objective,
            {name: part.to(self._read[name]) for name, part in _unflattened(of_read, self._read).items()},
            {name: shaped[..., i] for i, name in enumerate(self._schedule.settings)},
            {} if cost.initial is None else cost.initial.parameters,
            cost,
        )


@dataclass(frozen=True, eq=False)
class _Called:
    """The loss and the objective as functions of tensors that are put into the model.

    Attributes:
        skeleton: the model; it has its own tensors again after each call.
        loss: (model, batch, and hyperparameters by name) to a scalar.
        batches: the batch of each step.
        read: the hyperparameters, by name.
        seed: decides what a step draws from the global generators.
        blocks: modules that keep no graph but where the step is differentiated twice in the usual way; None: none.
    """

    skeleton: Skeleton
    loss: Callable[..., torch.Tensor]
    batches: Sequence[Any]
    read: Mapping[str, torch.Tensor]
    seed: int
    blocks: Blocks | None

    def parted(self, moving: Sequence[str]) -> tuple[Tensors, Tensors, Tensors]:
        """(Parameters that move, buffers, parameters that do not since the first step's loss does not read them)."""
        model = self.skeleton.module
        every = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in model.named_parameters()}
        named = {n: p for n, p in every.items() if n in moving and p.requires_grad}
        buffers = {n: b.detach().clone() for n, b in model.named_buffers() if n in self.skeleton.places}
        action = torch.cat([torch.zeros(0, dtype=torch.float64), *(r.flatten().double() for r in self.read.values())])
        self._refuse_recomputation(named, buffers)
        with torch.enable_grad(), double_backward_kernels():
            loss, _ = self.at(every, buffers, 0, action, "none")
            found: Sequence[torch.Tensor | None] = ()
            if loss.requires_grad:
                found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
        moved = [name for name, grad in zip(named, found, strict=False) if grad is not None]
        own = dict(model.named_parameters())
        _refuse_own(loss, {name: own[name] for name in every}, "the loss")
        if not moved:
            raise ValueError(
                "the loss of the first batch has no derivative with respect to any parameter of the optimizer; compute "
                "it without torch.no_grad, .detach() and .item()"
            )
        parameters = {name: named[name].detach() for name in moved}
        return parameters, buffers, {name: own[name] for name in named if name not in parameters}

    def _refuse_recomputation(self, parameters: Tensors, buffers: Tensors) -> None:
        """Refuses a loss whose backward pass reads the model, which has its own tensors again by then.

        Other parameters than the model's own are put into it: what is computed from its own then is seen.
        """
        moved = {n: (1.1 * p.detach() + 0.01).requires_grad_() for n, p in parameters.items()}
        if not moved:
            return
        held = moved | {name: b.clone() for name, b in buffers.items()}
        holding = self._holding(held, 0, next(iter(moved.values())).device)
        if recomputes(
            holding, lambda: self.loss(self.skeleton.module, self.batches[0], **self.read), [*moved.values()]
        ):
            raise ValueError(
                "the loss computes parts of the model again in its backward pass (torch.utils.checkpoint), when the "
                "model has its own parameters again; turn that off (model.gradient_checkpointing_disable()): "
                'memory="sqrt" and adjoint="blockwise" save memory here'
            )

    def stops_gradients(self, parameters: Tensors, buffers: Tensors) -> bool:
        """Whether the first step's gradient may leave out a dependence: it detaches something, or has batch norm.

        Raises:
            ValueError: the loss takes gradients itself, which blocks do not follow; or changes leaves in place.
        """
        buffers = {name: b.clone() for name, b in buffers.items()}
        kernels = DifferentiableKernels(fused=True, opens=True, buffers=buffers.values())
        with (
            self._holding(leaves(parameters) | buffers, 0, next(iter(parameters.values())).device),
            torch.enable_grad(),
            kernels,
        ):
            try:
                self.loss(self.skeleton.module, self.batches[0], **self.read)
            except RuntimeError as error:
                if "a leaf Variable that requires grad" not in str(error):
                    raise
                raise ValueError(
                    "the loss changes a tensor with requires_grad=True in place, which no derivative follows; make a "
                    "new one in each step: x = (x + step).detach().requires_grad_()"
                ) from error
        if kernels.inner_gradients.taken and self.blocks is not None:
            raise ValueError(
                'found adjoint="blockwise" with a loss that takes gradients itself (torch.autograd.grad, backward), '
                'which it does not follow; leave it out, and save memory by memory="sqrt" or "log"'
            )
        return kernels.used

    def at(
        self, parameters: Tensors, buffers: Tensors, step: int, action: torch.Tensor, derivatives: Derivatives
    ) -> tuple[torch.Tensor, Tensors]:
        """(Loss, new buffers) of a step; see `LossUpdate.loss_at`.

        Raises:
            RuntimeError: the pass writes into a parameter.
        """
        model = self.skeleton.module
        held = parameters | {n: p for n, p in model.named_parameters() if n not in parameters}
        versions = {name: p._version for name, p in held.items()}
        buffers = {name: b.clone() for name, b in buffers.items()}  # a module may update them in place

        def kernels() -> Any:
            if derivatives == "none":
                return nullcontext()
            return DifferentiableKernels(fused=derivatives == "reverse", opens=True, buffers=buffers.values())

        keeps = derivatives in ("reverse", "forward")
        read = _unflattened(action[: _size(self.read)], self.read)
        with (
            self._holding(parameters | buffers, step, action.device),
            self._exchanged(kernels, pushed=derivatives == "blockwise", keeps=keeps),
            kernels() as entered,
        ):
            if derivatives == "forward":  # backward() in the loss accumulates into parameters that are no leaves here
                for parameter in parameters.values():
                    entered.inner_gradients.ask(parameter)
            loss = self.loss(
                model,
                self.batches[step],
                **{name: part.to(self.read[name]) for name, part in read.items()},
            )
            new_buffers = {name: self.skeleton.tensor_at(name) for name in buffers}
        for name, version in versions.items():
            if held[name]._version != version:
                raise RuntimeError(
                    f"the loss of step {step} writes into the parameter {name!r} (an embedding's max_norm does so): "
                    "compute the changed weight from the parameter in the forward pass; what is not trained and "
                    "changes, such as a mean of weights, belongs into buffers"
                )
        return _scalar("loss", loss), new_buffers

    def objective(self, objective: Callable[[nn.Module], torch.Tensor], state: StudentState) -> torch.Tensor:
        """J of a state, differentiable with respect to parameters and buffers."""
        buffers = {name: b.clone() for name, b in state.buffers.items()}  # a module in training mode updates them

        def kernels() -> Any:
            return DifferentiableKernels(fused=True, opens=True, buffers=buffers.values())

        device = next(iter(state.parameters.values())).device
        holding = self._holding(state.parameters | buffers, len(self.batches), device)
        with holding, self._exchanged(kernels), kernels():
            value = _scalar("objective", objective(self.skeleton.module))
        own = dict(self.skeleton.module.named_parameters())
        _refuse_own(value, {name: own[name] for name in state.parameters}, "the objective")
        if _reached(value, self.read):
            raise ValueError(
                "the objective reads a hyperparameter, expected a function of the model alone; add that term's own "
                "gradient to the result"
            )
        return value

    def _exchanged(self, kernels: Kernels, *, pushed: bool = False, keeps: bool = False) -> Any:
        return nullcontext() if self.blocks is None or keeps else self.blocks.exchanged(kernels, pushed=pushed)

    @contextmanager
    def _holding(self, tensors: Tensors, step: int, device: torch.device) -> Iterator[None]:
        """Puts tensors into the model and seeds global generators; after the block all is as before, modes too."""
        modes = [(module, module.training) for module in self.skeleton.module.modules()]
        try:
            with all_seeded(self.seed, Purpose.DROPOUT, step, device), self.skeleton.holding(tensors):
                yield
        finally:
            for module, training in modes:
                module.training = training


@dataclass(frozen=True, eq=False, kw_only=True)
class _Update(LossUpdate):
    """A step of the loop: the loss on its batch, and the optimiser under that step's settings."""

    called: _Called
    schedule: Schedule

    def beginning(self, tensors: Tensors) -> Tensors:
        """Returns leaves: a loss of one's own may treat the model's parameters as such."""
        return leaves(tensors)

    @property
    def blockwise(self) -> bool:
        return self.called.blocks is not None

    @property
    def adjusts(self) -> bool:
        return bool(self.schedule.settings)

    def rate(self, state: StudentState) -> Rate:
        return self.schedule.optimizer_at(int(state.step))[1]

    def optimizer_at(self, state: StudentState, action: torch.Tensor) -> tuple[Optimizer, Rate]:
        step = int(state.step)
        if not self.schedule.settings:
            return self.schedule.optimizer_at(step)
        chosen = action[_size(self.called.read) :].view(self.schedule.chosen.shape)[step]
        carries = chosen.requires_grad or forward_ad.unpack_dual(chosen).tangent is not None  # type: ignore[no-untyped-call]
        return self.schedule.optimizer_at(step, chosen if carries else chosen.tolist())

    def loss_at(
        self, parameters: Tensors, buffers: Tensors, step: int, action: torch.Tensor, derivatives: Derivatives
    ) -> tuple[torch.Tensor, Tensors]:
        return self.called.at(parameters, buffers, step, action, derivatives)

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


def _size(read: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in read.values())


def _unflattened(flat: torch.Tensor, like: Mapping[str, torch.Tensor]) -> Tensors:
    """Parts of a vector by name, in the shapes of other tensors."""
    parts: Tensors = {}
    begin = 0
    for name, tensor in like.items():
        parts[name] = flat[begin : begin + tensor.numel()].view(tensor.shape)
        begin += tensor.numel()
    return parts


def _refuse_own(value: torch.Tensor, own: Tensors, what: str) -> None:
    """Refuses a value that depends on the model's own tensors, in whose places others were."""
    if reached := _reached(value, own):
        raise ValueError(
            f"{what} reads the parameter {reached[0]!r} past the model that it is called with, as from a list that was "
            "kept of model.parameters(), where it would stay as it is now; read it from that model"
        )


def _reached(value: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of those tensors that are in a value's graph."""
    sources = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    if not value.requires_grad or not sources:
        return []
    # A graph that none of them is in is looked through, and not walked.
    found = torch.autograd.grad(value, list(sources.values()), allow_unused=True, retain_graph=True)
    grads: Mapping[str, torch.Tensor | None] = dict(zip(sources, found, strict=True))
    return [name for name, grad in grads.items() if grad is not None]


def _scalar(name: str, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        form = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else checks.shown(value)
        raise ValueError(f"the {name} must be one number, a tensor; found {form}: take the mean of what it is of")
    return value.reshape(())
