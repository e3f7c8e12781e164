"""Nested structures of tensors: dictionaries, lists, tuples, named tuples and dataclasses, in any nesting."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors of a structure, in order; whatever else it holds is left out."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        branches: Iterable[Any] = tree.values()
    elif isinstance(tree, list | tuple):
        branches = tree
    elif dataclasses.is_dataclass(tree):
        branches = (getattr(tree, field.name) for field in dataclasses.fields(tree))
    else:
        return []
    return [tensor for branch in branches for tensor in tensors_of(branch)]


def with_tensors(tree: T, tensors: Iterable[Any]) -> T:
    """The same structure with other things in the places of its tensors, in the order of `tensors_of`."""
    rebuilt: T = _rebuilt(tree, iter(tensors))
    return rebuilt


def _rebuilt(tree: Any, tensors: Iterator[Any]) -> Any:
    if isinstance(tree, torch.Tensor):
        return next(tensors)
    if isinstance(tree, dict):
        return {key: _rebuilt(branch, tensors) for key, branch in tree.items()}
    if isinstance(tree, list):
        return [_rebuilt(branch, tensors) for branch in tree]
    if isinstance(tree, tuple):
        branches = [_rebuilt(branch, tensors) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        return dataclasses.replace(tree, **{name: _rebuilt(getattr(tree, name), tensors) for name in names})
    return tree


def leaves(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors without their graphs, each asking for a gradient."""
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


def bytes_of(*trees: Any) -> int:
    """The bytes of memory that the tensors of the structures take, what they share counted once."""
    parts: dict[int, dict[int, int]] = {}  # of each storage, by where they begin: a view may be of a part alone
    whole: dict[int, int] = {}
    for tensor in tensors_of(trees):
        storage = tensor.untyped_storage()
        whole[storage.data_ptr()] = storage.nbytes()
        part = parts.setdefault(storage.data_ptr(), {})
        part[tensor.data_ptr()] = max(part.get(tensor.data_ptr(), 0), tensor.numel() * tensor.element_size())
    return sum(min(whole[storage], sum(part.values())) for storage, part in parts.items())
