"""Nested structures of tensors: dictionaries, lists, tuples, named tuples and dataclasses, in any nesting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")
ARRAYS = (torch.Tensor, np.ndarray)


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


def versions_of(tree: Any) -> list[int]:
    """Returns how often each tensor was written into; of those of inference mode nobody counts it."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors_of(tree)]


def places_of(tree: Any, name: str, of: type | tuple[type, ...] = torch.Tensor) -> dict[str, Any]:
    """The tensors of a structure of this name by what Python calls each, such as `state['body'].speed`.

    Args:
        tree: the structure.
        name: what it is called.
        of: what is looked for; `ARRAYS`: NumPy's arrays, too.
    """
    if isinstance(tree, of):
        return {name: tree}
    if isinstance(tree, dict):
        branches = {f"{name}[{key!r}]": branch for key, branch in tree.items()}
    elif isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        branches = {f"{name}[{i}]": branch for i, branch in enumerate(tree)}
    elif hasattr(tree, "_fields") or dataclasses.is_dataclass(tree):
        fields = getattr(tree, "_fields", None) or [field.name for field in dataclasses.fields(tree)]
        branches = {f"{name}.{field}": getattr(tree, field) for field in fields}
    else:
        return {}
    return {place: leaf for where, branch in branches.items() for place, leaf in places_of(branch, where, of).items()}


def with_tensors(tree: T, tensors: Iterable[Any]) -> T:
    """A copy of a structure with other things in the places of its tensors, in the order of `tensors_of`."""
    rest = iter(tensors)
    rebuilt: T = mapped(lambda _: next(rest), tree)
    return rebuilt


def mapped(function: Callable[..., Any], tree: Any, *others: Any, of: type | tuple[type, ...] = torch.Tensor) -> Any:
    """The structure of what `function` makes of each tensor and of what others have in its place.

    Whatever else the structure holds stays in it as it is; all have to agree on it.

    Args:
        function: what is called, with as many arguments as there are structures.
        tree: the structure whose form the result has.
        *others: structures of the same form.
        of: what the function is called with; `ARRAYS`: NumPy's arrays, too.

    Raises:
        TypeError: the structures differ in something else than these.
    """
    if isinstance(tree, of):
        return function(tree, *others)
    if isinstance(tree, dict):
        return {key: mapped(function, branch, *(other[key] for other in others), of=of) for key, branch in tree.items()}
    if isinstance(tree, list | tuple):
        branches = [mapped(function, *each, of=of) for each in zip(tree, *others, strict=True)]
        if isinstance(tree, list):
            return branches
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        parts = {name: mapped(function, *(getattr(each, name) for each in (tree, *others)), of=of) for name in names}
        return dataclasses.replace(tree, **parts)
    for other in others:
        if not np.array_equal(tree, other):
            raise TypeError(f"found {tree!r} and {other!r} in one place, expected tensors or equal values")
    return tree


def stack(trees: Sequence[T]) -> T:
    """Structures of one form as one, whose tensors have a new first dimension."""
    stacked: T = mapped(lambda *tensors: torch.stack(tensors), *trees)
    return stacked


def unstacked(tree: T) -> list[T]:
    """The structures that `stack` makes this one of.

    They are taken by `unbind`, whose backward is one stack; indexing row by row would cost O(n²) there.
    """
    return [with_tensors(tree, row) for row in zip(*(t.unbind() for t in tensors_of(tree)), strict=True)]


def at(tree: T, rows: Any) -> T:
    """The structure of the given rows (an index) of all its tensors and arrays."""
    rows_of_tree: T = mapped(lambda values: values[rows], tree, of=ARRAYS)
    return rows_of_tree


def put(tree: T, rows: np.ndarray, new: T) -> T:
    """The structure with the given rows of its tensors and arrays taken from another, without a change of its own."""

    def replaced(old: Any, new: Any) -> Any:
        if isinstance(old, torch.Tensor):
            return old.index_copy(0, torch.from_numpy(rows).to(old.device), new)
        result = old.copy()
        result[rows] = new
        return result

    new_tree: T = mapped(replaced, tree, new, of=ARRAYS)
    return new_tree


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
