"""Errors of the library: what was found, what was expected, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DatasetUnavailable(RuntimeError):
    """A dataset is neither on this machine nor downloadable, or a file of it is damaged.

    The message names what was looked for, every directory that was tried, and how to put the data there. The library
    never replaces a missing dataset by another one.
    """


class UnknownOption(TypeError):
    """A keyword argument that there is not; the message has the nearest one."""


MOST_SHOWN = 10
"""How many names an error shows; of more it shows the nearest, and says where all of them are."""


def unknown_name(kind: str, name: object, known: Iterable[str], listed: str = "") -> ValueError:
    """Builds the error for a name that is in no table, with the closest known name as a suggestion.

    The error is returned rather than raised, so that the caller's `raise` ends the control flow where a reader (and
    a type checker) sees it.

    Args:
        kind: what the name is a name of, in the singular ("student", "loss family").
        name: what was given; anything, because a wrong type is one of the ways to be unknown.
        known: every name that would have been accepted.
        listed: where the names are listed ("teachenv.STUDENTS"), for the message if there are many.

    Returns:
        A `ValueError` such as `unknown student 'mpl', did you mean 'mlp'? Expected one of 'lenet', 'mlp'`
    """
    return ValueError(f"unknown {kind} {shown(name)}{suggestion(name, known, listed)}")


def unexpected_argument(where: str, name: str, known: Iterable[str], listed: str = "") -> UnknownOption:
    """Builds the error for a keyword argument that there is not, in Python's words, which libraries look for.

    Args:
        where: what got it ("the environment").
        name: the argument.
        known: the arguments that there are.
        listed: where they are listed, for the message if there are many.

    Returns:
        An `UnknownOption` such as `RMD got an unexpected keyword argument 'las', did you mean 'last'? ...`
    """
    return UnknownOption(f"{where} got an unexpected keyword argument {name!r}{suggestion(name, known, listed)}")


def suggestion(name: object, known: Iterable[str], listed: str = "") -> str:
    """What a message says after a name that is not known: the nearest, then all or where they are listed."""
    names = sorted(set(known))
    # The guess comes before the list, which may be long.
    if len(names) > MOST_SHOWN and listed:
        near, expected = nearest(name, names), f"all {len(names)} are in {listed}"
    else:
        near, expected = nearest(name, names)[:1], f"expected one of {', '.join(map(repr, names))}"
    if not near:
        return f": {expected}"
    guess = " or ".join([", ".join(map(repr, near[:-1])), repr(near[-1])] if near[1:] else [repr(near[0])])
    return f", did you mean {guess}? {expected[0].upper()}{expected[1:]}"


def nearest(name: object, known: Iterable[str]) -> list[str]:
    """The known names that are spelled much like this one, the nearest first, three at most."""
    if not isinstance(name, str):
        return []
    # Capitals are a frequent slip ("MNIST") and would otherwise count as so many wrong letters.
    by_folded = {candidate.casefold(): candidate for candidate in known}
    return [by_folded[near] for near in difflib.get_close_matches(name.casefold(), by_folded, n=3)]


def shown(value: object) -> str:
    """A value as a message shows it: one line, not long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
