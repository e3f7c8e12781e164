"""What functions, classes and objects are made of, as far as Python can be asked: for `teachenv.fingerprints`."""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
import uuid
from typing import Any

_LIBRARY_PATHS = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_OWN_PACKAGES = ("teachenv", "meta", "agents")
_PROCESS = uuid.uuid4().hex
_HEAP_TYPE = 1 << 9
"""The flag of classes that Python code defines."""


def captured(function: types.FunctionType) -> dict[str, Any]:
    """What a function refers to outside of itself, but for what it rebinds: its closure, and global variables."""
    read, rebound = _variables(function.__code__)
    outside = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name not in rebound and name != "__class__":
            try:
                outside[name] = cell.cell_contents
            except ValueError:  # not bound yet
                continue
    # In the order of names: what holds itself is known by how it was reached.
    outside |= {name: function.__globals__[name] for name in sorted(read - rebound) if name in function.__globals__}
    modules = {name: value for name, value in outside.items() if isinstance(value, types.ModuleType)}
    for name, module in modules.items():
        if not of_a_library(module.__name__):
            used = sorted(_names(function.__code__) & vars(module).keys())
            outside |= {f"{name}.{attribute}": vars(module)[attribute] for attribute in used}
    return outside


@functools.lru_cache(maxsize=4096)
def _variables(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Names that the code, or a function in it, looks up among the globals; and names outside that it rebinds."""
    read: set[str] = set()
    rebound: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            read.add(instruction.argval)
        elif instruction.opname == "STORE_GLOBAL" or (
            instruction.opname == "STORE_DEREF" and instruction.argval in code.co_freevars
        ):
            rebound.add(instruction.argval)
    for inner in _inner(code):
        also_read, also_rebound = _variables(inner)
        read |= also_read
        rebound |= also_rebound
    return frozenset(read), frozenset(rebound)


def _names(code: types.CodeType) -> set[str]:
    """All names of globals and attributes in the code, or in a function in it."""
    return set(code.co_names).union(*map(_names, _inner(code)))


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, those in slots among them, by name."""
    by_name = {
        name: each
        for name, each in (vars(value) if hasattr(value, "__dict__") else {}).items()
        if not isinstance(getattr(type(value), name, None), functools.cached_property)  # made of the rest
    }
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                by_name[name] = getattr(value, name)
    return by_name


def reduced(value: Any) -> Any:
    """What `pickle` would keep of an object beside its attributes; None: all of it is in them."""
    compiled = [kind for kind in type(value).__mro__ if kind is not object and not kind.__flags__ & _HEAP_TYPE]
    if not compiled and attributes(value):
        return None
    try:
        parts = value.__reduce_ex__(4)
    except Exception:  # whatever a class has to say against being copied
        return of_itself_alone(value)
    if isinstance(parts, str):
        return parts
    # Of what pickle keeps the third part are attributes, and those behind it iterators.
    return [list(part) if i > 2 and part is not None else part for i, part in enumerate(parts) if i != 2 or compiled]


def of_itself_alone(value: Any) -> bytes:
    """Bytes that stand for one object in one process."""
    return f"{_PROCESS} {id(value)}".encode()


@functools.lru_cache(maxsize=1024)
def assigned_in_calls(kind: type) -> frozenset[str]:
    """Attributes that a class's own methods assign where a library calls them: in what replaces a library's methods."""
    of_user = [base for base in kind.__mro__ if not of_a_library(base.__module__)]
    of_libraries = [base for base in kind.__mro__ if of_a_library(base.__module__) and base is not object]
    methods = {
        name: function.__code__
        for base in reversed(of_user)
        for name, function in vars(base).items()
        if isinstance(function, types.FunctionType)
    }
    reached = {name for name in methods if name == "__call__" or any(hasattr(base, name) for base in of_libraries)}
    reached -= {name for name in methods if name.startswith("__") and name != "__call__"}
    while more := {name for each in reached for name in _names(methods[each]) if name in methods} - reached:
        reached |= more
    codes = [methods[name] for name in reached]
    return frozenset(i.argval for code in codes for i in dis.get_instructions(code) if i.opname == "STORE_ATTR")


def is_content(name: str, value: Any) -> bool:
    """Whether a class's attribute is its author's: of names with underscores on both sides only methods are."""
    if name == "_abc_impl":  # the memory of `isinstance`
        return False
    if name.startswith("__") and name.endswith("__"):
        return isinstance(unwrapped(value), types.FunctionType) and not name.startswith("__annotat")
    return True


def unwrapped(value: Any) -> Any:
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


@functools.lru_cache(maxsize=1024)
def of_a_library(module: str | None) -> bool:
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
