"""Copies of frozen objects with other values."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

T = TypeVar("T")


def with_values(frozen: T, **values: Any) -> T:
    """A copy of an object with other values of some attributes, which are not checked.

    `dataclasses.replace` does not do: it calls `__init__`, which checks all values again. A task would read all its
    data once more, and an optimiser would refuse tensors and arrays, which are right where one tensor holds the numbers
    of many students.

    Args:
        frozen: the object, which stays as it is; it need not be a dataclass.
        **values: values of attributes by name.
    """
    copied = copy.copy(frozen)
    for name, value in values.items():
        object.__setattr__(copied, name, value)
    return copied
