"""Results as tables: a file of comma-separated values, or a data frame."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

from teachenv.experiment.writing import write_atomically
from teachenv.optional import needed_for


def write_csv(path: Any, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a line for each row, below the header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def data_frame(*parts: Any, **options: Any) -> Any:
    """What `pandas.DataFrame` makes of its arguments.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    with needed_for("to_frame"):
        pandas = importlib.import_module("pandas")
    return pandas.DataFrame(*parts, **options)
