"""What tensors are within the transforms of `torch.func`: `grad`, `vmap`, `jvp` and the like, one inside the other."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from teachenv.trees import tensors_of


def is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether a transform that is being computed has wrapped the tensor, which has no memory of its own then."""
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return wrapped


def levels_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor as each transform sees it, from the innermost one to what it is outside of all of them."""
    levels = [tensor]
    while is_wrapped(levels[-1]):
        levels.append(torch._C._functorch.get_unwrapped(levels[-1]))
    return levels


def is_differentiated(arguments: Any) -> bool:
    """Whether `torch.func.grad`, or a transform like it, differentiates a call with these arguments."""
    return any(torch._C._functorch.is_gradtrackingtensor(tensor) for tensor in tensors_of(arguments))


def is_followed(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a graph at some level or, in forward mode, a tangent."""
    if any(level.requires_grad for level in levels_of(tensor)):
        return True
    tangent = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return tangent is not None
