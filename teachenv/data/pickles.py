"""Reads NumPy arrays and plain values from pickles of unknown origin, without running anything in them.

A pickle is a program: it names functions, and loading calls them. Here no function that a file names is ever looked
up; what NumPy writes of an array is taken as data, from which the array is made anew.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
import numpy.typing as npt

_NUMBERS = re.compile(r"[<>|=]?[biuf][1248]")


def load_arrays(content: bytes) -> Any:
    """What a pickle of arrays of numbers, containers, texts and numbers holds.

    Texts of Python 2 become latin-1 strings.

    Raises:
        Exception: the content is no pickle, or names anything else; which exception depends on the damage.
    """
    return _resolved(_Unpickler(io.BytesIO(content), encoding="latin1").load())


class _Type:
    """Stands for a `numpy.dtype` of numbers."""

    def __init__(self, name: str, *_: Any) -> None:
        if not _NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"refused an array of {name!r}: only numbers are expected here")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a `numpy.ndarray`."""

    def __init__(self, *_: Any) -> None:
        self.array: npt.NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        self._fill(content, kind, shape, "F" if by_columns else "C")

    def _fill(self, content: Any, kind: _Type, shape: tuple[int, ...], order: Any) -> None:
        content = content.encode("latin1") if isinstance(content, str) else bytes(content)
        self.array = np.frombuffer(content, kind.dtype).reshape(shape, order=order).copy()

    @classmethod
    def of_buffer(cls, content: Any, kind: _Type, shape: tuple[int, ...], order: str, *_: Any) -> _Array:
        """Stands for an array, as pickle protocol 5 writes it."""
        array = cls()
        array._fill(content, kind, shape, order)
        return array


def _encoded(text: str, encoding: str) -> bytes:
    """Stands for bytes, as pickle protocols below 3 write them."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"refused the encoding {encoding!r}: only latin1 is expected here")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    _STAND_INS = {  # noqa: RUF012
        ("numpy", "_reconstruct"): _Array,
        ("numpy", "ndarray"): None,
        ("numpy", "_frombuffer"): _Array.of_buffer,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encoded,
    }

    def find_class(self, module: str, name: str) -> Any:
        key = module.split(".")[0], name
        if key not in self._STAND_INS:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}: only NumPy arrays are expected here")
        return self._STAND_INS[key]


def _resolved(value: Any) -> Any:
    """Arrays for what stands for them, in containers as well."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    return [_resolved(item) for item in value] if isinstance(value, list) else value
