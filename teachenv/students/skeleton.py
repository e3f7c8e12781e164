"""Where a module keeps its tensors and its modes, so that a function of the tensors can put others in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def refuse_foreign_tensors(module: nn.Module) -> None:
    """Refuses what cannot be an argument of a function over real tensors, or has other gradients than that function.

    Raises:
        ValueError: a TorchScript module, complex tensors, hooks on gradients, or gradients scaled by frequency.
    """
    name = type(module).__name__
    if any(isinstance(m, torch.jit.ScriptModule) for m in module.modules()):
        raise ValueError(
            f"the student {name} is a TorchScript module, whose tensors cannot be exchanged; pass the torch.nn.Module "
            "that it was made from"
        )
    for key, child in module.named_modules():
        if child._backward_hooks or child._backward_pre_hooks:
            raise ValueError(
                f"the student {name} has a backward hook on {key or 'itself'!r}, which second derivatives would pass "
                "through twice; take it off, and change the gradient in the forward pass"
            )
        if getattr(child, "scale_grad_by_freq", False):
            raise ValueError(
                f"the student {name} has scale_grad_by_freq=True in {key or 'itself'!r}, and PyTorch's second "
                "derivative of such a gradient is wrong; build it without, and weigh the samples in the loss"
            )
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_complex():
            raise ValueError(
                f"the student {name} has a complex tensor {key!r}, expected real ones; keep its two parts as "
                "(..., 2) and use torch.view_as_complex in the forward pass"
            )
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise ValueError(
                f"the student {name} has a gradient hook on {key!r}, which a function over tensors cannot call; change "
                "the gradient in the forward pass: mask the weight there, or use torch.nn.utils.parametrize"
            )


Place = tuple[dict[str, Any], str]
"""Where a module keeps a tensor: its dictionary of parameters or buffers, and the key there."""


def places_of(module: nn.Module) -> dict[str, list[Place]]:
    """All places of each parameter and buffer, by the tensor's first name; tied tensors have several."""
    names: dict[int, str] = {}
    places: dict[str, list[Place]] = {}
    for prefix, child in module.named_modules():
        for registry in (child._parameters, child._buffers):
            for key, tensor in registry.items():
                if tensor is not None:
                    name = names.setdefault(id(tensor), f"{prefix}.{key}" if prefix else key)
                    places.setdefault(name, []).append((registry, key))
    return places


Mode = tuple[dict[str, Any], str, Any]
"""An attribute of a module that depends on its mode: the module's dictionary, the key there, the value."""


class Skeleton:
    """A module into which tensors are put for a pass.

    It is `torch.func.functional_call` with the names looked up once and not at each call, which a small student feels.

    Args:
        module: the module; between passes it has its own tensors.

    Attributes:
        module: the module.
        places: all places of each parameter and buffer, by the tensor's first name.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.places = module, places_of(module)

    @contextmanager
    def holding(self, tensors: dict[str, torch.Tensor], modes: Iterable[Mode] = ()) -> Iterator[None]:
        """Puts tensors, and what depends on a mode, into the module inside the block, and what was there back."""
        modes = list(modes)
        previous = [(registry, key, registry[key]) for name in tensors for registry, key in self.places[name]]
        previous += [(attributes, key, attributes[key]) for attributes, key, _ in modes]
        try:
            for name, tensor in tensors.items():
                for registry, key in self.places[name]:
                    registry[key] = tensor
            for attributes, key, value in modes:
                attributes[key] = value
            yield
        finally:
            for registry, key, value in previous:
                registry[key] = value

    def tensor_at(self, name: str) -> torch.Tensor:
        """The tensor that is in the module under a name."""
        registry, key = self.places[name][0]
        tensor: torch.Tensor = registry[key]
        return tensor


def modes_of(module: nn.Module) -> dict[bool, list[Mode]]:
    """What `train()` and `eval()` set in a module and its children, by `training`.

    Setting just that is faster than calling them, and leaves alone what else a forward pass has changed.
    """
    attributes = {}
    for training in (True, False):
        module.train(training)
        attributes[training] = [dict(child.__dict__) for child in module.modules()]
    differing = [
        (child.__dict__, key, train[key], evaluation[key])
        for child, train, evaluation in zip(module.modules(), attributes[True], attributes[False], strict=True)
        for key in train.keys() & evaluation.keys()
        if train[key] is not evaluation[key]
    ]
    return {True: [(d, k, v) for d, k, v, _ in differing], False: [(d, k, v) for d, k, _, v in differing]}
