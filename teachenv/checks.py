"""Checks of single options: each returns the plain Python value, or says in one line what was expected and what came.

NumPy's scalars and arrays or tensors without dimensions stand for the numbers that they hold. A truth value is never
taken for a number, nor a number or a text for a truth value: `"no"` is true in Python.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from teachenv.errors import UnknownOption, unexpected_argument, unknown_name
from teachenv.errors import shown as shown


def integer(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """The value as a whole number; floating point is refused even where it is whole.

    Raises:
        ValueError: the value is not an integer, or it is outside [least, most].
    """
    plain = _plain(value)
    if not isinstance(plain, bool) and isinstance(plain, numbers.Integral):
        number = int(plain)
        if (least is None or number >= least) and (most is None or number <= most):
            return number
    bounds = [f"of at least {least}"] if least is not None else []
    bounds += [f"at most {most}"] if most is not None else []
    raise _wrong(name, " ".join(["an integer", " and ".join(bounds)]).rstrip(), value)


def whole(value: object) -> object:
    """The value, as an integer if it is a whole number in floating point, such as 1e5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def integers(name: str, value: object, least: int | None = None) -> tuple[int, ...]:
    """The value as a tuple of whole numbers.

    Raises:
        ValueError: the value is not a list of integers, or one of them is below `least`.
    """
    return tuple(integer(f"{name}[{i}]", each, least) for i, each in enumerate(listed(name, value, "integers")))


def listed(name: str, value: object, of: str, count: int | None = None) -> list[Any]:
    """The value, a sequence but no text, as a list.

    Args:
        name: the option's name, for messages.
        value: what the user gave.
        of: what it should be of, in the plural, for the message.
        count: how many there must be; None: any number.

    Raises:
        ValueError: the value is not a sequence, or it has another length.
    """
    is_array = isinstance(value, np.ndarray | torch.Tensor) and value.ndim > 0
    if is_array or (isinstance(value, Sequence) and not isinstance(value, str | bytes)):
        entries: list[Any] = list(value)  # type: ignore[call-overload]
        if count is None or len(entries) == count:
            return entries
    raise _wrong(name, f"a list of {of}" if count is None else f"a list of {count} {of}", value)


def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> float:
    """The value as a finite number that tensors of `dtype` can be multiplied by: zero, or one that the dtype holds.

    Args:
        name: the option's name, for messages.
        value: what the user gave.
        least: it must be at least this.
        above: it must be greater than this.
        most: it must be at most this.
        below: it must be smaller than this.
        dtype: the tensors' dtype; a number beyond its range would be infinite or zero there. None: any.

    Raises:
        ValueError: the value is not a finite number, or it is outside its range.
    """
    plain = _plain(value)
    real = _real(plain)
    if real is None or not _within(real, least, above, most, below):
        raise _wrong(name, "a finite number" + _range(least, above, most, below), value)
    limits = None if dtype is None else torch.finfo(dtype)
    if real and limits is not None and not limits.tiny <= abs(real) <= limits.max:
        kind = str(dtype).removeprefix("torch.")
        instead = 'or dtype="float64"' if dtype == torch.float32 else "there"
        raise _wrong(name, f"0 or between {limits.tiny:.2g} and {limits.max:.2g}, which {kind} holds, {instead}", value)
    return real


def flag(name: str, value: object) -> bool:
    """The value as a bool.

    Raises:
        ValueError: the value is neither True nor False.
    """
    plain = _plain(value)
    if isinstance(plain, bool):
        return plain
    raise _wrong(name, "True or False", value)


def choice(name: str, value: object, known: Iterable[str], listed: str = "") -> str:
    """The value, if it is one of the known names, which `listed` says the place of.

    Raises:
        ValueError: the value is not a known name; the message has the nearest one.
    """
    names = tuple(known)
    if isinstance(value, str) and value in names:
        return str(value)
    raise unknown_name(name, value, names, listed)


def device(name: str, value: object) -> torch.device:
    """A device that tensors can be put on.

    Raises:
        ValueError: the value is not a device, or it is not one of this machine.
    """
    try:
        if not isinstance(value, str | torch.device):
            raise RuntimeError("no device")
        usable = torch.device(value)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        expected = "expected one that this machine has, such as 'cpu'"
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name} {shown(value)} cannot be used here, {expected}: {reason}") from error
    return usable


def options(name: str, value: object) -> dict[str, Any]:
    """The value, a mapping of names to values, as a dict of its own.

    Raises:
        ValueError: the value is not a mapping from texts.
    """
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: copied(each) for key, each in value.items()}
    raise _wrong(name, "a dict of options by their names", value)


def copied(value: Any) -> Any:
    """The value with lists, tuples, dicts, sets and arrays of its own, which nobody else changes."""
    if isinstance(value, list):
        return [copied(each) for each in value]
    if type(value) is tuple:
        return tuple(copied(each) for each in value)
    if isinstance(value, Mapping):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, set):
        return set(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    return value.clone() if type(value) is torch.Tensor else value


def known_options(where: str, given: Iterable[str], known: Iterable[str], listed: str = "") -> None:
    """Refuses an option that is not known.

    Args:
        where: what the options are of.
        given: their names.
        known: the names that there are.
        listed: where these are listed, for the message if there are many.

    Raises:
        UnknownOption: the first such, with the nearest known one.
    """
    names = tuple(known)
    for option in given:
        if not names:
            raise UnknownOption(f"{where} takes no options, found {option!r}")
        if option not in names:
            raise unexpected_argument(where, option, names, listed)


def options_of(kind: Callable[..., Any], until: type | None = None) -> set[str]:
    """Names of the arguments that a class or a function takes, those of the classes that it is derived from as well.

    Args:
        kind: the class, whose bases count as far as it hands arguments on; or the function.
        until: the first class of those that it is derived from whose options are left out.
    """
    names: set[str] = set()
    for each in kind.__mro__ if isinstance(kind, type) else [kind]:
        if each is until:
            break
        if not isinstance(each, type) or "__init__" in vars(each):
            parameters = inspect.signature(each.__init__ if isinstance(each, type) else each).parameters.values()  # type: ignore[misc]
            names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break  # it hands nothing on
    return {name for name in names if name != "self" and not name.startswith("_")}


@contextmanager
def suggesting(where: str, options: Iterable[str], known: Iterable[str], listed: str) -> Iterator[None]:
    """Python's error for an argument that is not taken, raised inside of the block, gets the nearest that is.

    Args:
        where: what the arguments are, for the message.
        options: the arguments that are given.
        known: those that are taken.
        listed: where these are listed.

    Raises:
        UnknownOption: one is given that is not taken.
    """
    try:
        yield
    except TypeError as error:
        wrong = [name for name in options if f"unexpected keyword argument {name!r}" in str(error)]
        if not wrong or wrong[0] in known:
            raise
        raise unexpected_argument(where, wrong[0], known, listed) from error


def _plain(value: object) -> object:
    """A scalar of NumPy, or what an array or tensor without dimensions holds, as Python has it."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0):
        return value.item()
    return value


def _real(plain: object) -> float | None:
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        return None
    try:
        real = float(plain)
    except OverflowError:
        return None
    return real if math.isfinite(real) else None


def _within(real: float, least: float | None, above: float | None, most: float | None, below: float | None) -> bool:
    low = (least is None or real >= least) and (above is None or real > above)
    return low and (most is None or real <= most) and (below is None or real < below)


def _range(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    lower = "" if least is None and above is None else f"[{least:g}" if above is None else f"({above:g}"
    upper = "" if most is None and below is None else f"{most:g}]" if below is None else f"{below:g})"
    if lower and upper:
        return f" in {lower}, {upper}"
    if lower:
        return f" of at least {least:g}" if above is None else f" above {above:g}"
    if upper:
        return f" of at most {most:g}" if below is None else f" below {below:g}"
    return ""


def _wrong(name: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{name} must be {expected}, found {shown(value)}")
