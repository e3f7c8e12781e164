"""Networks from a user's factory, on the student's device and in its dtype, lazy modules completed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from teachenv.students.skeleton import refuse_foreign_tensors

StudentFactory = Callable[[], nn.Module]
"""Builds a freshly initialised network; called once per episode, under the episode's seed."""


def built(factory: StudentFactory, like: torch.Tensor, complete: Callable[[nn.Module], None]) -> nn.Module:
    """A fresh network from a user's factory.

    Args:
        factory: builds the network.
        like: a tensor of the dtype and on the device that it shall have.
        complete: takes a pass of a network, which completes its lazy modules.

    Raises:
        ValueError: the factory is none, needs an argument, or builds no network.
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ValueError(
            f"a student is a name or a function that builds a fresh torch.nn.Module, found "
            f"{type(factory).__name__}; for example, pass lambda: MyNetwork(...)"
        )
    module = _product(factory)
    if not isinstance(module, nn.Module):
        raise ValueError(f"a student factory must return a torch.nn.Module, found {type(module).__name__}")
    refuse_foreign_tensors(module)
    module = module.to(like.device, like.dtype)
    if any(is_lazy(p) for p in (*module.parameters(), *module.buffers())):
        _refuse_forward_that_is_lost(module)
        with torch.no_grad():
            complete(module)
    return module


def _product(factory: StudentFactory) -> object:
    try:
        return factory()
    except TypeError as error:
        if _is_called_without_arguments(factory):
            raise
        raise ValueError(
            f"the student factory must need no argument, found {error}; pass lambda: MyNetwork(...)"
        ) from error


def _refuse_forward_that_is_lost(module: nn.Module) -> None:
    """Refuses a lazy module with a forward pass of its own that is another class's after its first pass.

    Raises:
        ValueError: there is one.
    """
    for path, child in module.named_modules():
        becomes = getattr(child, "cls_to_become", None)
        lazy: Any = next((c for c in type(child).__mro__ if "cls_to_become" in vars(c)), None)
        if becomes and lazy and type(child).forward is not lazy.forward:
            name = type(child).__name__
            raise ValueError(
                f"the student {type(module).__name__} has a lazy module {path!r} ({name}) with a forward pass of its "
                f"own, which PyTorch drops when the module becomes {becomes.__name__} in its first pass; set "
                f"cls_to_become = None in the class {name}"
            )


def _is_called_without_arguments(factory: Callable[..., object]) -> bool:
    try:
        inspect.signature(factory).bind()
    except ValueError:  # a callable of C without a signature: what it says of itself stands
        return True
    except TypeError:
        return False
    return True
