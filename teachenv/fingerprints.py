"""A text for any setting that is the same for the same content, in every process, and differs for other content.

Numbers, texts, lists and dictionaries are JSON. An object is its class and a digest of what it is made of: attributes,
tensors and arrays by their bytes; functions by their code, defaults and captured values (of a library's functions their
name is enough); a class of your own by its methods. Nothing of it depends on addresses, on the order of a set or on
which process computes it. Variables that a function itself rebinds (a counter, say) are no part of it.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import json
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

_LIBRARY_PATHS = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_OWN_PACKAGES = ("teachenv", "meta", "agents")


def describe(value: Any) -> str:
    """The text that stands for a setting."""
    try:
        return json.dumps(value, sort_keys=True, default=_stand_in)
    except (TypeError, ValueError):  # keys that JSON lacks, or what holds itself
        return f"{type(value).__qualname__} {digest(value)}"


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of the content of anything."""
    return _Digester().of(value).hex()[:16]


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

    def __init__(self) -> None:
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
        elif isinstance(value, Mapping):
            yield _name(kind)
            yield from sorted(self.of(key) + self.of(each) for key, each in value.items())
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
        captured = _captured(function)
        if _of_a_library(function.__module__):
            yield f"{function.__module__}:{function.__qualname__}".encode()
            captured = {name: value for name, value in captured.items() if name in function.__code__.co_freevars}
        else:
            yield from (b"function", self.of(function.__code__))
        yield self.of((function.__defaults__, function.__kwdefaults__))
        yield self.of(captured)

    def _of_code(self, code: types.CodeType) -> Iterator[bytes | memoryview]:
        yield from (b"code", code.co_code, str(code.co_argcount).encode())
        # A docstring is the first constant; where something is written in a file makes no difference.
        yield from map(self.of, (code.co_names, code.co_freevars, code.co_consts))

    def _of_class(self, kind: type) -> Iterator[bytes | memoryview]:
        yield _name(kind)
        if not _of_a_library(kind.__module__):
            yield self.of([base for base in kind.__mro__[1:] if not _of_a_library(base.__module__)])
            yield self.of({name: _unwrapped(value) for name, value in vars(kind).items() if _is_content(name, value)})

    def _of_object(self, value: Any) -> Iterator[bytes | memoryview]:
        yield self.of(type(value))
        state = _state(value)
        yield type(value).__name__.encode() if state is None else self.of(state)


def _of_tensor(tensor: torch.Tensor) -> Iterator[bytes | memoryview]:
    if torch.nn.parameter.is_lazy(tensor):
        yield b"not yet made"
        return
    yield f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    if tensor.device.type != "meta" and tensor.numel():
        dense = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
        yield dense.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _captured(function: types.FunctionType) -> dict[str, Any]:
    """What a function refers to outside of itself, but for what it rebinds: its closure, and plain globals."""
    code = function.__code__
    rebound = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_GLOBAL", "STORE_DEREF")}
    captured = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if name not in rebound and name != "__class__":
            try:
                captured[name] = cell.cell_contents
            except ValueError:  # not bound yet
                continue
    for name in _names(code):
        value = function.__globals__.get(name)
        if name not in rebound and isinstance(value, int | float | str | tuple | type | types.FunctionType):
            captured[name] = value
    return captured


def _names(code: types.CodeType) -> set[str]:
    """Names that the code, or a function in it, may look up among the globals."""
    inner = (_names(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*inner)


def _state(value: Any) -> Any:
    """What an object holds, as a value; None if that cannot be known."""
    state = {
        name: each
        for name, each in (vars(value) if hasattr(value, "__dict__") else {}).items()
        if not isinstance(getattr(type(value), name, None), functools.cached_property)  # made of the rest
    }
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                state[name] = getattr(value, name)
    if state:
        return state
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # whatever a class has to say against being copied
        return None
    return reduced if isinstance(reduced, str) else [part for part in reduced if not isinstance(part, Iterator)]


def _is_content(name: str, value: Any) -> bool:
    """Whether a class's attribute is its author's: of names with underscores on both sides only methods are."""
    if name.startswith("__") and name.endswith("__"):
        return isinstance(_unwrapped(value), types.FunctionType) and not name.startswith("__annotat")
    return True


def _unwrapped(value: Any) -> Any:
    """A class's attribute without what Python puts around functions."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, functools.cached_property):
        return value.func
    if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
        return value.__name__
    return value


def _name(kind: type) -> bytes:
    # What ran as a script is a module of another name where it is imported.
    return (
        kind.__qualname__ if not _of_a_library(kind.__module__) else f"{kind.__module__}:{kind.__qualname__}"
    ).encode()


@functools.lru_cache(maxsize=1024)
def _of_a_library(module: str | None) -> bool:
    """Whether what the module defines is known by its name: it is this library's, Python's or an installed one's."""
    if module is None or module == "__main__":
        return False
    if module.partition(".")[0] in (*_OWN_PACKAGES, "builtins"):
        return True
    loaded = sys.modules.get(module)
    if loaded is None:
        return False
    path = getattr(loaded, "__file__", None)
    return path is None or path.startswith(_LIBRARY_PATHS)
