"""Losses in full precision, also of networks that compute in half of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

from teachenv.trees import mapped, tensors_of

P = ParamSpec("P")
R = TypeVar("R")

_HALF = (torch.float16, torch.bfloat16)


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a function of tensors: those in half precision come as float32, and autocast is off inside.

    So PyTorch has it for its own losses under `torch.autocast`. Tensors in float32 and float64 come as they are; the
    gradient comes back in the type of the tensor that was given.

    Args:
        function: takes tensors, alone or in a nesting of lists, tuples and dicts, and whatever else.
    """

    @functools.wraps(function)
    def raised(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = args, kwargs
        args, kwargs = mapped(_raised, given)
        with without_autocast(given):
            return function(*args, **kwargs)

    return raised


@contextmanager
def without_autocast(tensors: Any) -> Iterator[None]:
    """Turns autocast off inside the block, on the devices of the tensors of a structure."""
    with ExitStack() as stack:
        for device in {tensor.device.type for tensor in tensors_of(tensors)}:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _raised(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor
