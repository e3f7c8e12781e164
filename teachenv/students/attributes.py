"""What a module keeps outside its parameters and buffers: described, compared, and named in messages."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

_OF_TORCH = set(nn.Module().__dict__) | {"training"}

Attributes = dict[tuple[str, str], str]
"""Descriptions by (path of the module, name of the attribute)."""


def attributes_of(module: nn.Module) -> Attributes:
    """What a module and its children keep outside parameters and buffers, described so that it can be compared."""
    known = {id(t) for t in (*module.parameters(), *module.buffers())}
    content: Attributes = {}
    for path, child in module.named_modules():
        late = {key: b for key, b in child._buffers.items() if id(b) not in known}
        for key, value in ({k: v for k, v in child.__dict__.items() if k not in _OF_TORCH} | late).items():
            with suppress(Exception):
                content[path, key] = _described(value)
    return content


def changed(before: Attributes, after: Attributes) -> dict[tuple[str, str], tuple[str, str]]:
    """(Description before, after) of each attribute whose description is another one."""
    pairs = {k: (before.get(k, "nothing"), after.get(k, "nothing")) for k in {**before, **after}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _described(value: Any, depth: int = 3) -> str:
    if isinstance(value, torch.Tensor):
        number = f"{float(value.detach().double().sum()):.6g}" if value.numel() else "empty"
        return f"a tensor of shape {tuple(value.shape)}, sum {number}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {hash(value.tobytes())}"
    if isinstance(value, torch.Generator):
        return f"torch.Generator {hash(value.get_state().numpy().tobytes())}"
    if isinstance(value, np.random.Generator):
        return f"numpy.random.Generator {hash(repr(value.bit_generator.state))}"
    if isinstance(value, np.random.RandomState):
        return f"RandomState {hash(repr(value.get_state()))}"
    if isinstance(value, random.Random):
        return f"random.Random {hash(value.getstate())}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if depth and isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_described(v, depth - 1)}" for k, v in value.items()) + "}"
    if (depth and isinstance(value, list | tuple | set)) or type(value).__name__ == "deque":
        return f"{type(value).__name__} of {len(value)}: " + ", ".join(_described(v, depth - 1) for v in value)
    if depth and hasattr(value, "__dict__") and not isinstance(value, nn.Module | type) and not callable(value):
        return f"{type(value).__name__} with {_described(vars(value), depth - 1)}"
    return f"{type(value).__name__} {id(value)}"


def kept_parameter(module: nn.Module) -> tuple[str, str] | None:
    """(name, where) of a parameter that is also in a list or dictionary among the attributes."""
    names = {id(p): name for name, p in module.named_parameters()}
    for path, child in module.named_modules():
        if isinstance(child, nn.RNNBase):  # which looks after its list itself
            continue
        for key, value in child.__dict__.items():
            if key in _OF_TORCH:
                continue
            content = value.values() if isinstance(value, Mapping) else value
            if isinstance(content, torch.Tensor):
                content = [content]
            with suppress(Exception):
                for tensor in content if hasattr(content, "__iter__") else ():
                    if id(tensor) in names:
                        return names[id(tensor)], f"the attribute {key!r} of {module_at(module, path)}"
    return None


def module_at(module: nn.Module, path: str) -> str:
    """What a message calls the part of a network at a path."""
    return f"its module {path!r} ({type(module.get_submodule(path)).__name__})" if path else "it"
