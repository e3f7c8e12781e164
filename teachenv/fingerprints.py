"""A text for any setting that is the same for the same content, in every process, and differs for other content.

Numbers, texts, lists and dictionaries are JSON. An object is its class and a digest of what it is made of: attributes,
tensors and arrays by their bytes; functions by their code, defaults and captured values (of a library's functions their
name is enough); a class of your own by its methods. Global variables that a function reads are part of it, whatever
they hold. Nothing of it depends on addresses, on the order of a set or on which process computes it. Variables that a
function itself rebinds (a counter, say) are no part of it.

An object whose content cannot be read (a generator, an object of a compiled library) is equal to itself alone, and only
within its process. `docs/fingerprints.md` says what environments make of this.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import threading
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from teachenv.introspection import (
    assigned_in_calls,
    attributes,
    captured,
    is_content,
    of_a_library,
    of_itself_alone,
    reduced,
    unwrapped,
)

_WITHOUT_CONTENT = (type(threading.Lock()), type(threading.RLock()), io.IOBase)
"""Kinds of objects on which no result depends: they are known by their class."""


def describe(value: Any) -> str:
    """The text that stands for a setting."""
    try:
        return json.dumps(value, sort_keys=True, default=_stand_in)
    except (TypeError, ValueError):  # keys that JSON lacks, or what holds itself
        return f"{type(value).__qualname__} {digest(value)}"


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of the content of anything."""
    return _hexadecimal(value, _Digester())


def digest_from_outside(value: Any) -> str:
    """The digest of what only others change: it leaves out what objects themselves keep in their attributes.

    These are private attributes, and those that an object's class assigns when it is called: a counter, or a table that
    the first call makes.
    """
    return _hexadecimal(value, _Digester(leaves_out_own=True))


def _hexadecimal(value: Any, digester: _Digester) -> str:
    try:
        return digester.of(value).hex()[:16]
    except RecursionError:
        return hashlib.sha256(of_itself_alone(value)).hexdigest()[:16]


def _stand_in(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, set | frozenset):
        return sorted(value, key=digest)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{name}{simple_attributes(value)} {digest(value)}"


def simple_attributes(value: Any) -> str:
    """An object's simple attributes as a text: two settings in a message show where they differ."""
    if isinstance(value, type | types.FunctionType | torch.nn.Module) or not hasattr(value, "__dict__"):
        return ""
    simple = {name: each for name, each in vars(value).items() if isinstance(each, int | float | str | None)}
    shown = ", ".join(f"{name}={each!r}" for name, each in simple.items() if not name.startswith("_"))
    if len(shown) > 80:
        shown = repr(simple["name"]) if "name" in simple else ""
    return f"({shown})" if shown else ""


class _Digester:
    """Digests of one value: what contains itself is known by how far up it was met."""

    def __init__(self, leaves_out_own: bool = False) -> None:
        self._leaves_out_own = leaves_out_own
        self._under_way: list[int] = []
        self._done: dict[int, tuple[Any, bytes]] = {}  # with the object, so that its id stays its own

    def of(self, value: Any) -> bytes:
        """The digest of a value."""
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._under_way:
            return b"above %d" % (len(self._under_way) - self._under_way.index(id(value)))
        self._under_way.append(id(value))
        hashed = hashlib.sha256()
        for part in self._parts(value):
            hashed.update(len(part).to_bytes(8, "little"))
            hashed.update(part)
        self._under_way.pop()
        self._done[id(value)] = value, hashed.digest()
        return hashed.digest()

    def _parts(self, value: Any) -> Iterator[bytes | memoryview]:
        """The pieces of bytes that a value's digest is made of."""
        kind = type(value)
        if value is None or value is Ellipsis or kind in (bool, int, float, complex, str):
            yield f"{kind.__name__} {value!r}".encode()
        elif kind in (bytes, bytearray):
            yield from (b"bytes", bytes(value))
        elif isinstance(value, torch.Tensor):
            yield from (b"tensor", *_of_tensor(value))
        elif isinstance(value, np.ndarray | np.generic):
            yield from self._of_array(np.asarray(value))
        elif isinstance(value, list | tuple):
            yield _name(kind)
            yield from map(self.of, value)
            yield from self._of_attributes(value)
        elif isinstance(value, Mapping):
            yield _name(kind)
            pairs = [self.of(key) + self.of(each) for key, each in value.items()]
            yield from pairs if isinstance(value, OrderedDict) else sorted(pairs)
            yield from self._of_attributes(value)
        elif isinstance(value, set | frozenset):
            yield b"set"
            yield from sorted(map(self.of, value))
        elif isinstance(value, types.FunctionType):
            yield from self._of_function(value)
        elif isinstance(value, types.CodeType):
            yield from self._of_code(value)
        elif isinstance(value, functools.partial):
            yield b"partial"
            yield from map(self.of, (value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            yield b"method"
            yield from map(self.of, (value.__self__, value.__func__))
        elif isinstance(value, type):
            yield from self._of_class(value)
        elif isinstance(value, types.ModuleType):
            yield f"module {value.__name__}".encode()
        elif isinstance(value, types.BuiltinFunctionType | torch.dtype | torch.device):
            yield f"{kind.__name__} {getattr(value, '__qualname__', value)}".encode()
            holder = getattr(value, "__self__", None)
            if not isinstance(holder, type | types.ModuleType | None):  # a method of a list, say
                yield self.of(holder)
        elif isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket | logging.Logger):
            yield f"{kind.__name__} {value.name if isinstance(value, logging.Logger) else value}".encode()
        elif isinstance(value, _WITHOUT_CONTENT):
            yield kind.__name__.encode()
        else:
            yield from self._of_object(value)

    def _of_array(self, array: np.ndarray) -> Iterator[bytes | memoryview]:
        if array.dtype.hasobject:
            yield f"array {array.shape}".encode()
            yield from map(self.of, array.ravel().tolist())
        else:
            native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
            yield from (f"array {native.dtype} {array.shape}".encode(), native.reshape(-1).view(np.uint8).data)

    def _of_function(self, function: types.FunctionType) -> Iterator[bytes | memoryview]:
        outside = captured(function)
        if of_a_library(function.__module__):
            yield f"{function.__module__}:{function.__qualname__}".encode()
            outside = {name: outside[name] for name in function.__code__.co_freevars if name in outside}
        else:
            yield from (b"function", self.of(function.__code__))
        yield self.of((function.__defaults__, function.__kwdefaults__))
        yield self.of(outside)

    def _of_code(self, code: types.CodeType) -> Iterator[bytes | memoryview]:
        yield from (b"code", code.co_code, str(code.co_argcount).encode())
        # A docstring is the first constant; where something is written in a file makes no difference.
        yield from map(self.of, (code.co_names, code.co_freevars, code.co_consts))

    def _of_class(self, kind: type) -> Iterator[bytes | memoryview]:
        yield _name(kind)
        if not of_a_library(kind.__module__):
            yield self.of([base for base in kind.__mro__[1:] if not of_a_library(base.__module__)])
            yield self.of({name: unwrapped(value) for name, value in vars(kind).items() if is_content(name, value)})

    def _of_object(self, value: Any) -> Iterator[bytes | memoryview]:
        yield self.of(type(value))
        named, hidden = attributes(value), reduced(value)
        if isinstance(value, torch.nn.Module):
            yield self.of(list(value._modules))  # their order counts
        if self._leaves_out_own:
            left_out = assigned_in_calls(type(value))  # type: ignore[arg-type]
            private = () if isinstance(value, torch.nn.Module) else ("_",)
            named = {n: v for n, v in named.items() if n not in left_out and not n.startswith(private)}
        if named or hidden is None:
            yield self.of(named)
        if hidden is not None:
            yield self.of(hidden)

    def _of_attributes(self, value: Any) -> Iterator[bytes | memoryview]:
        """What a list or mapping of one's own class holds besides its entries."""
        if named := attributes(value):
            yield self.of(named)
        if factory := getattr(value, "default_factory", None):
            yield self.of(factory)


def _of_tensor(tensor: torch.Tensor) -> Iterator[bytes | memoryview]:
    if torch.nn.parameter.is_lazy(tensor):
        yield b"not yet made"
        return
    yield f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    if tensor.device.type != "meta" and tensor.numel():
        dense = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
        yield dense.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _name(kind: type) -> bytes:
    # What ran as a script is a module of another name where it is imported.
    return (
        kind.__qualname__ if not of_a_library(kind.__module__) else f"{kind.__module__}:{kind.__qualname__}"
    ).encode()
