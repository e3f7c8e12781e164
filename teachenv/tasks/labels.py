"""Labels as a user has them, numbers or texts, and the names of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from teachenv import checks

_EXACT = 2**53
"""Below this, floating-point numbers have every whole number."""


def texts_of(labels: Any, where: str) -> np.ndarray | None:
    """Labels that are texts, as an array of them, (n,); None of labels that are something else.

    Raises:
        ValueError: some are missing, or they stand in several columns.
        TypeError: numbers are among them.
    """
    if isinstance(labels, torch.Tensor | Mapping):
        return None
    check_unmasked(labels, f"{where}: targets")
    try:
        array = np.asarray(labels)
    except ValueError:  # rows of different lengths, which is said elsewhere
        return None
    if array.dtype.kind not in "OUST" or not any(isinstance(each, str) for each in array.flat):
        return None
    array = _one_each(array, where)
    if others := [each for each in array if not isinstance(each, str)]:
        raise TypeError(
            f"{where}: targets are of dtype {array.dtype}, texts with {checks.shown(others[0])} among them; expected "
            "labels of one kind: np.asarray(labels).astype(str)"
        )
    return array.astype(str)


def names_of(labels: Any, where: str) -> np.ndarray:
    """Labels of classes as a user calls them, an array of whole numbers or of texts, (n,).

    Raises:
        ValueError: there are none, some are missing or are no whole numbers, or a sample has several.
        TypeError: texts and numbers, or something else.
    """
    if (texts := texts_of(labels, where)) is not None:
        return texts
    array = _one_each(labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels), where)
    if not len(array):
        raise ValueError(f"{where}: no samples; expected at least one")
    array = array.astype(float) if array.dtype.kind == "O" else array
    if array.dtype.kind == "f" and len(broken := array[~((array == np.round(array)) & (abs(array) < _EXACT))]):
        raise ValueError(f"{where}: labels such as {broken[0]:g} are no classes; expected whole numbers or texts")
    return array.astype(np.int64) if array.dtype.kind == "f" else array


def numbers_of(labels: np.ndarray, classes: np.ndarray, where: str) -> np.ndarray:
    """The place of each label, (n,), among the classes, which are in ascending order or in any other.

    Raises:
        ValueError: a label that is none of them.
    """
    order = np.argsort(classes, kind="stable")
    places = np.searchsorted(classes, labels, sorter=order).clip(max=len(classes) - 1)
    numbers = order[places]
    if (wrong := classes[numbers] != labels).any():
        raise ValueError(
            f"{where}: unknown label {labels[wrong][0].item()!r}, expected one of {checks.shown(classes.tolist())}"
        )
    return np.asarray(numbers)


Classes = tuple[str, ...] | None
Pairs = dict[str, tuple[Any, Any]]


def numbered(pairs: Pairs, classes: Any, where: str) -> tuple[Pairs, Classes]:
    """Splits with numbers in the place of labels that are texts, and the names of the classes.

    Args:
        pairs: (inputs, targets) of each split, the pool's among them as `"pool"`.
        classes: the names of the classes as a user gave them; None: texts of the pool in alphabetical order, if there
            are any.
        where: what the data is, for messages.

    Raises:
        ValueError: names that are no different texts, a label that is none of them, or texts in one split alone.
        TypeError: texts and numbers as labels of one split.
    """
    if classes is not None:
        names = checks.listed(f"{where}: classes", classes, "names")
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError(f"{where}: classes must be different texts, found {checks.shown(classes)}")
        classes = tuple(map(str, names))
    texts = {part: texts_of(targets, f"{where}, {part}") for part, (_, targets) in pairs.items()}
    if classes is None and texts["pool"] is not None:
        classes = tuple(np.unique(texts["pool"]).tolist())
    result = dict(pairs)
    for part, labels in texts.items():
        if labels is None:
            continue
        if classes is None:
            raise ValueError(
                f"{where}: labels are texts in {part} and numbers in pool; expected texts in both, or the names of "
                "the numbers: classes=(...)"
            )
        result[part] = pairs[part][0], numbers_of(labels, np.asarray(classes), f"{where}, {part}")
    return result, classes


def _one_each(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels, one a sample, (n,): a column of them as a row.

    Raises:
        ValueError: a sample has several, or none: None, NaN or pandas' NA.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 0:
        raise ValueError(
            f"{where}: labels are {checks.shown(labels.item())}, expected one a sample, (n,); of a table "
            'give the column itself, table["label"]'
        )
    if labels.ndim != 1:
        raise ValueError(
            f"{where}: labels have shape {labels.shape}, expected one a sample, (n,); labels.argmax(1) makes them of "
            "one-hot rows; for several labels a sample give a column of 0 and 1 for each class"
        )
    if labels.dtype.kind not in "Of":
        return labels
    missing = [i for i, label in enumerate(labels) if is_missing(label)]
    if missing:
        raise ValueError(f"{where}: {len(missing)} samples have no label, sample {missing[0]} first; leave them out")
    return labels


def check_unmasked(part: Any, what: str) -> None:
    """Refuses NumPy's masked arrays if something is masked: as plain arrays they have what lies under the mask.

    Args:
        part: anything; of lists and tuples each entry is looked at.
        what: what it is, for the message.

    Raises:
        ValueError: a value is masked.
    """
    if any(map(np.ma.is_masked, part if isinstance(part, list | tuple) else [part])):
        raise ValueError(
            f"{what}: found masked values, expected a value everywhere: fill them, array.filled(value), or leave their "
            "samples out"
        )


def is_missing(value: Any) -> bool:
    """Whether a table's value stands for none: None, NaN, pandas' NA or NaT."""
    if isinstance(value, float):
        return value != value
    return value is None or type(value).__name__ in ("NAType", "NaTType")
