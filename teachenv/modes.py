"""Modes in which modules are called: evaluation for a while, and PyTorch's inference mode, which is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode inside the block; afterwards each part is in its own mode again.

    Args:
        module: the module; batch norm, say, that is in evaluation mode while the rest trains stays so.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        # Parents come first: what their `train` does to a part is undone by the part's own mode.
        for part, mode in modes:
            if part.training == mode:
                continue
            if type(part).train is nn.Module.train:
                part.training = mode
            else:
                part.train(mode)  # which may do more, such as take apart weights that eval() has merged


def frozen_norms(module: nn.Module) -> list[nn.Module]:
    """The batch norms in evaluation mode whose parents are in training mode: somebody froze them.

    Those of a part that is in evaluation mode as a whole, as `from_pretrained` gives it, are not among them.

    Args:
        module: the module.
    """
    parts = [part for parent in module.modules() if parent.training for part in parent.children()]
    return [part for part in parts if isinstance(part, _BatchNorm) and not part.training]


def refuse_inference_mode(what: str, tensors: Iterable[torch.Tensor] = ()) -> None:
    """Refuses to differentiate in inference mode, where PyTorch records nothing, or with respect to tensors from it.

    Args:
        what: what differentiates, for the message.
        tensors: what it starts from.

    Raises:
        RuntimeError: inference mode is on, or one of the tensors was made in it.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{what} differentiates: found torch.inference_mode(), expected a call outside of it; torch.no_grad() may "
            "stay"
        )
    if any(tensor.is_inference() for tensor in tensors):
        raise RuntimeError(
            f"{what} differentiates: found tensors that were made in torch.inference_mode(), expected others: make "
            "them outside of it, or tensor.clone()"
        )
