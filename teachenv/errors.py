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


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Builds the error for a name that is in no table, with the closest known name as a suggestion.

    The error is returned rather than raised, so that the caller's `raise` ends the control flow where a reader (and
    a type checker) sees it.

    Args:
        kind: what the name is a name of, in the singular ("student", "loss family").
        name: what was given; anything, because a wrong type is one of the ways to be unknown.
        known: every name that would have been accepted.

    Returns:
        A `ValueError` such as `unknown student 'mpl', did you mean 'mlp'? Expected one of 'lenet', 'mlp'`
    """
    names = sorted(set(known))
    expected = f"xpected one of {', '.join(map(repr, names)) or '(nothing is registered)'}"
    if isinstance(name, str):
        # Capitals are a frequent slip ("MNIST") and would otherwise count as so many wrong letters.
        by_folded = {candidate.casefold(): candidate for candidate in names}
        close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
        if close:
            # The guess comes before the list: of some kinds there are forty names.
            return ValueError(f"unknown {kind} {name!r}, did you mean {by_folded[close[0]]!r}? E{expected}")
    return ValueError(f"unknown {kind} {name!r}: e{expected}")
