"""Whether a step is a function of its arguments, and if not, what in it is not."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from meta.hypergradients.loss_update import LossUpdate
from meta.hypergradients.process import double_backward_kernels
from teachenv.nodes import nodes_of
from teachenv.optimizers import Tensors
from teachenv.state import Gradient, StudentState
from teachenv.students.transforms import is_wrapped
from teachenv.trees import tensors_of, versions_of

_TOLERANCE, _TOLERANCE_OF_DOUBLE = 5e-3, 1e-6
"""How far gradients may differ, as a share: with a second derivative a step has other kernels, also in bfloat16."""


def check_replay(model: nn.Module, update: LossUpdate, state: StudentState, action: torch.Tensor, batch: Any) -> None:
    """Takes a step twice from one state, and compares loss and gradient bitwise; then with its second derivative.

    Raises:
        RuntimeError: they differ, or the step writes into its batch; says which module or kernel it is. Or the gradient
            that has a derivative itself differs from the one that has none.
    """
    versions = versions_of(batch)
    passes: list[tuple[Gradient, dict[str, list[int]]]] = []
    for _ in range(2):
        with _outputs_of(model) as outputs:
            passes.append((update.gradient(state, action), outputs))
    if versions != versions_of(batch):
        raise RuntimeError("the loss writes into its batch, which a replay would find changed; let it work on a copy")
    (one, outputs), (other, again) = passes
    if not _same(one.outcome.loss, other.outcome.loss):
        name = next((name for name in outputs if outputs[name] != again.get(name)), None)
        where = "the loss itself" if name is None else f"the module {name or 'model'!r} ({_class_of(model, name)})"
        raise RuntimeError(
            f"the first step was taken twice and had two losses, {float(one.outcome.loss):.9g} and "
            f"{float(other.outcome.loss):.9g}; the first to differ is {where}. It draws from a generator of its own or "
            "keeps something between calls: let it draw from torch's global generator, which is seeded for each step, "
            "or keep it in a buffer"
        )
    for name, gradient in one.parameters.items():
        if not _same(gradient, other.parameters[name]):
            raise RuntimeError(
                f"the first step was taken twice and had one loss and two gradients of {name!r}: a kernel of its "
                "backward pass is not deterministic; call torch.use_deterministic_algorithms(True), which names it"
            )
    _check_same_gradient(one.parameters, update.linearize(state, action)[0].parameters)


def _check_same_gradient(once: Tensors, twice: Tensors) -> None:
    """Compares the gradients of a step that is differentiated once, and of one that is differentiated twice.

    Raises:
        RuntimeError: they differ, all parameters together.
    """
    distance, length = (
        math.hypot(*(float(tensor.double().norm()) for tensor in tensors))
        for tensors in ([twice[name].nan_to_num() - g.nan_to_num() for name, g in once.items()], once.values())
    )
    tolerance = _TOLERANCE_OF_DOUBLE if all(g.dtype == torch.float64 for g in once.values()) else _TOLERANCE
    if distance > tolerance * length:
        raise RuntimeError(
            f"the first step has two gradients: differentiated once and twice they differ by "
            f"{100 * distance / max(length, 1e-30):.3g} %, expected at most {100 * tolerance:g} %. The loss changes "
            "tensors or gradients in a way that is not followed (hooks, .data, in place, torch.func under no_grad); "
            "let it take gradients by torch.autograd.grad, and make new tensors of them"
        )


def recomputes(
    holding: AbstractContextManager[None], loss: Callable[[], Any], parameters: Sequence[torch.Tensor]
) -> bool:
    """Returns whether a loss computes parts of its model again in its backward pass.

    Args:
        holding: puts other parameters into the model than its own, for as long as it is entered.
        loss: computes the loss; what is no scalar with a gradient is left to others to refuse.
        parameters: these other parameters.
    """

    def gradient() -> Sequence[torch.Tensor]:
        try:
            return torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        except RuntimeError:  # as checkpointing raises where what is computed again has another form
            return [torch.full((), math.nan)] * len(parameters)

    with torch.enable_grad(), double_backward_kernels():
        with holding:
            value = loss()
            if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
                return False
            inside = gradient()
        outside = gradient()
    reentrant = any("CheckpointFunction" in type(node).__name__ for node in nodes_of([value.grad_fn]))
    return reentrant or not all(map(_alike, inside, outside))


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two gradients are the same but for rounding."""
    one, other = ((t.to_dense() if t.is_sparse else t).double().nan_to_num() for t in (one, other))
    return one.shape == other.shape and bool((one - other).norm() <= 0.01 * one.norm())


@contextmanager
def _outputs_of(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Checksums of what each module returns inside the block, by its name, in the order in which they return."""
    outputs: dict[str, list[int]] = {}

    def noting(name: str) -> Any:
        return lambda module, args, result: outputs.setdefault(name, []).extend(
            _checksum(tensor) for tensor in tensors_of(result)
        )

    handles = [module.register_forward_hook(noting(name)) for name, module in model.named_modules()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _checksum(tensor: torch.Tensor) -> int:
    if is_wrapped(tensor):
        return 0
    return zlib.crc32(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type]


def _class_of(model: nn.Module, name: str) -> str:
    return type(model.get_submodule(name)).__name__


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num()) if one.is_floating_point() else torch.equal(one, other)
