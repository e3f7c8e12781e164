"""The columns of tables that samples come in: data frames of pandas, polars and the like.

A student knows inputs by their places alone, and a user a table's columns by their names. The pool's names stay with
its task, so that other tables of samples (test, dev, tests, samples to predict) are refused if theirs differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from teachenv import checks

Columns = Mapping[str, tuple[Any, ...]]
"""The names of columns, by what the table is called in messages; what is no table has none."""

_MOST_SHOWN = 10


def names_in(table: Any) -> tuple[Any, ...]:
    """The names of a table's columns; none of what is no table."""
    names = getattr(table, "columns", None)
    return tuple(names) if names is not None and hasattr(table, "__array__") else ()


def columns_of(inputs: Any, targets: Any = None) -> Columns:
    """The columns of samples as a user gives them.

    Args:
        inputs: those of the samples, or several by their names.
        targets: theirs; None: they have none, or these do not count.
    """
    named = inputs if isinstance(inputs, Mapping) else {}
    tables = {"targets": targets, "inputs": inputs} | {repr(name): part for name, part in named.items()}
    return {what: names for what, table in tables.items() if (names := names_in(table))}


def check_columns(columns: Columns, expected: Columns, where: str) -> None:
    """Refuses tables whose columns are others than the pool's, or stand in another order.

    Columns that are merely numbered, as those of a data frame made of an array, have no names that could differ.

    Args:
        columns: those of the samples.
        expected: those of the pool.
        where: what the samples are, for messages.

    Raises:
        ValueError: the first table that differs.
    """
    for what, names in columns.items():
        of_pool = expected.get(what, names)
        if names == of_pool:
            continue
        reordered = set(names) == set(of_pool) and len(names) == len(of_pool)
        if not reordered and (_numbered(names) or _numbered(of_pool)):
            continue
        pairs = enumerate(zip_longest(names, of_pool))
        first = next(place for place, (name, other) in pairs if name != other)
        begin = 0 if max(len(names), len(of_pool)) <= _MOST_SHOWN else first
        here, there = (checks.shown(list(each[begin : begin + _MOST_SHOWN])) for each in (names, of_pool))
        remedy = "bring them into one order" if reordered else "give the same ones in one order"
        raise ValueError(
            f"{where}: columns of {what} are {here}, those of the pool {there}"
            f"{f' (from column {begin} on)' if begin else ''}; {remedy}: table[pool_table.columns]"
        )


def _numbered(names: tuple[Any, ...]) -> bool:
    return names == tuple(range(len(names)))
