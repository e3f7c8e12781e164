"""Names for objects of one's own, by which rows know them."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from teachenv.fingerprints import digest, simple_attributes
from teachenv.introspection import of_a_library


@dataclass(frozen=True)
class Named:
    """A function under a name, for one that has none: `Named("wide", lambda: MyNet(width=512))`.

    Attributes:
        name: the name by which rows know it.
        function: what it calls.
    """

    name: str
    function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        return self.function(*args, **kwargs)


def name_of(value: Any) -> str:
    """The name of an object: its own attribute `name`, that of a function or class, or its class with its options.

    Raises:
        ValueError: a function without a name.
    """
    attribute = getattr(value, "name", None)
    if isinstance(attribute, str) and attribute:
        return attribute
    name = getattr(value, "__qualname__", None)
    if name is None and not isinstance(value, functools.partial):
        return f"{_bare(type(value).__qualname__)}{simple_attributes(value)}"
    if name is None or name.endswith("<lambda>"):
        raise _nameless(value)
    return _bare(str(name))


def _bare(name: str) -> str:
    """A qualified name without the function that defines it."""
    return name.rpartition("<locals>.")[2]


def file_name(text: str) -> str:
    """A text as the name of a file: itself if it can be one, else what of it can be and a digest."""
    name = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)
    if name == text and len(name) <= 150 and not name.startswith("."):
        return name
    return f"{name[:100].strip('.-')}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}".lstrip("-")


def in_words(value: Any) -> Any:
    """A value as JSON holds it, with the name of each object of one's own in its place."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): in_words(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [in_words(each) for each in value]
    return name_of(value)


def objects_in(value: Any) -> dict[str, str]:
    """Digests of the content of all objects of one's own in a value, by name.

    Raises:
        ValueError: two objects of different content have the same name, by which rows could not tell them apart.
    """
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return {}
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return {name_of(value): digest(value)}
    found: dict[str, str] = {}
    for name, content in (pair for each in value for pair in objects_in(each).items()):
        if found.setdefault(name, content) != content:
            raise ValueError(
                f"found two objects called {name!r} of different content, expected a name for each, since rows know "
                "them by it; give each an attribute `name`, or functions a teachenv.experiment.Named(name, function)"
            )
    return found


def made_by(value: Any, under_way: tuple[int, ...] = ()) -> Any:
    """What tells the makers of two teachers apart: a structure for `teachenv.fingerprints.digest`.

    Of functions and classes of one's own it is their code, with what functions capture; of a library's their name. What
    they read from modules is left out: it may be another object in each process, such as a compiled pattern.

    Args:
        value: a function, a class or an object.
        under_way: ids of what contains it, since a function may capture itself.
    """
    if value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic | torch.Tensor):
        return value
    if id(value) in under_way:
        return "itself"
    inner = functools.partial(made_by, under_way=(*under_way, id(value)))
    if isinstance(value, Mapping):
        return {str(key): inner(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [inner(each) for each in value]
    if isinstance(value, functools.partial):
        return [inner(each) for each in (value.func, value.args, value.keywords)]
    if isinstance(value, types.MethodType):
        return [inner(type(value.__self__)), inner(value.__func__)]
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        held = [[name, inner(_held(cell))] for name, cell in cells]
        code = f"{value.__module__}:{value.__qualname__}" if of_a_library(value.__module__) else value.__code__
        return [code, inner(value.__defaults__), inner(value.__kwdefaults__), held]
    if isinstance(value, type):
        if of_a_library(value.__module__):
            return f"{value.__module__}:{value.__qualname__}"
        return [value.__qualname__, [inner(each) for each in vars(value).values() if inspect.isfunction(each)]]
    return [inner(type(value)), simple_attributes(value)]


def _held(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet set
        return None


def _nameless(value: Any) -> ValueError:
    return ValueError(
        f"found {value!r}, which has no name for rows to know it by; define it with def or class, or give it a name: "
        'teachenv.experiment.Named("my-net", ...)'
    )
