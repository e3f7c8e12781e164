"""Whether a step is a function of its arguments, and if not, what in it is not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from meta.hypergradients.loss_update import LossUpdate
from teachenv.state import Gradient, StudentState
from teachenv.trees import tensors_of


def check_replay(model: nn.Module, update: LossUpdate, state: StudentState, action: torch.Tensor, batch: Any) -> None:
    """Takes a step twice from one state, and compares loss and gradient bitwise.

    Raises:
        RuntimeError: they differ, or the step writes into its batch; says which module or kernel it is.
    """
    versions = [tensor._version for tensor in tensors_of(batch)]
    passes: list[tuple[Gradient, dict[str, list[int]]]] = []
    for _ in range(2):
        with _outputs_of(model) as outputs:
            passes.append((update.gradient(state, action), outputs))
    if versions != [tensor._version for tensor in tensors_of(batch)]:
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
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # inside torch.func: it has no memory of its own
        return 0
    return zlib.crc32(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type]


def _class_of(model: nn.Module, name: str) -> str:
    return type(model.get_submodule(name)).__name__


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num()) if one.is_floating_point() else torch.equal(one, other)
