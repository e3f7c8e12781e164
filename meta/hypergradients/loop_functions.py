"""The loss and the objective of a training loop of your own, as functions of tensors that its model is given.

What they may not do is refused here: to read parameters past the model, to compute activations again in the backward
pass, to write into parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meta.hypergradients.blocks import Blocks, Kernels
from meta.hypergradients.loss_update import Derivatives
from meta.hypergradients.process import double_backward_kernels
from meta.hypergradients.replay import recomputes
from teachenv import checks
from teachenv.optimizers import Tensors
from teachenv.randomness import Purpose, all_seeded
from teachenv.state import StudentState
from teachenv.students.kernels import DifferentiableKernels
from teachenv.students.skeleton import Skeleton
from teachenv.trees import leaves


@dataclass(frozen=True, eq=False)
class LoopFunctions:
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
            grads: Sequence[torch.Tensor | None] = ()
            if loss.requires_grad:
                grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
        moved = [name for name, grad in zip(named, grads, strict=False) if grad is not None]
        of_model = dict(model.named_parameters())
        _refuse_the_models(loss, {name: of_model[name] for name in every}, "the loss")
        if not moved:
            raise ValueError(
                "the loss of the first batch has no derivative with respect to any parameter of the optimizer; compute "
                "it without torch.no_grad, .detach() and .item()"
            )
        parameters = {name: named[name].detach() for name in moved}
        return parameters, buffers, {name: of_model[name] for name in named if name not in parameters}

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
            fused = derivatives == "reverse"
            return DifferentiableKernels(fused=fused, opens=True, buffers=buffers.values(), leaves=parameters.values())

        keeps = derivatives in ("reverse", "forward")
        read = unflattened(action[: size_of(self.read)], self.read)
        with (
            self._holding(parameters | buffers, step, action.device),
            self._exchanged(kernels, pushed=derivatives == "blockwise", keeps=keeps),
            kernels(),
        ):
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
        of_model = dict(self.skeleton.module.named_parameters())
        _refuse_the_models(value, {name: of_model[name] for name in state.parameters}, "the objective")
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


def size_of(read: Mapping[str, torch.Tensor]) -> int:
    """How many numbers tensors have together."""
    return sum(tensor.numel() for tensor in read.values())


def unflattened(flat: torch.Tensor, like: Mapping[str, torch.Tensor]) -> Tensors:
    """Parts of a vector by name, in the shapes of other tensors."""
    parts: Tensors = {}
    begin = 0
    for name, tensor in like.items():
        parts[name] = flat[begin : begin + tensor.numel()].view(tensor.shape)
        begin += tensor.numel()
    return parts


def _refuse_the_models(value: torch.Tensor, of_model: Tensors, what: str) -> None:
    """Refuses a value that depends on the model's own tensors, in whose places others were."""
    if reached := _reached(value, of_model):
        raise ValueError(
            f"{what} reads the parameter {reached[0]!r} from outside of its argument model, as from a list of "
            "model.parameters() that was kept, so that it would never see the parameter's later values; read it from "
            "the argument"
        )


def _reached(value: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of those tensors that are in a value's graph."""
    sources = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    if not value.requires_grad or not sources:
        return []
    # A graph that none of them is in is looked through, and not walked.
    derivatives = torch.autograd.grad(value, list(sources.values()), allow_unused=True, retain_graph=True)
    grads: Mapping[str, torch.Tensor | None] = dict(zip(sources, derivatives, strict=True))
    return [name for name, grad in grads.items() if grad is not None]


def _scalar(name: str, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        form = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else checks.shown(value)
        raise ValueError(f"the {name} must be one number, a tensor; found {form}: take its mean")
    return value.reshape(())
