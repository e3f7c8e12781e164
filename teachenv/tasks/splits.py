"""Checks of the data that a task is made of, which bring arrays of all kinds to tensors."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from teachenv.tasks.columns import Columns, check_columns, columns_of, names_in
from teachenv.tasks.labels import check_unmasked, is_missing
from teachenv.tasks.packing import Packing
from teachenv.tasks.reading import pair_of

Split = tuple[torch.Tensor, torch.Tensor]
"""Inputs `(n, ...)` and targets `(n, ...)` of the same samples."""

_MOST_NAMED = 10
"""How many columns a message names."""
_NUMBERS = "biuf"
"""The kinds of NumPy's numbers that PyTorch has."""


def packing_of(inputs: Any, where: str) -> Packing | None:
    """How a pool's inputs lie in one tensor, if they are a dictionary of arrays; None of one array.

    Raises:
        TypeError: one of them is no array of numbers.
        ValueError: they have no names, or what one consists of cannot be told.
    """
    if not isinstance(inputs, Mapping):
        return None
    # One sample shows the form.
    first = {name: part[:1] if hasattr(part, "__len__") else part for name, part in inputs.items()}
    return Packing.of({name: _tensor(part, f"{where}: {name!r}") for name, part in first.items()}, where)


def checked_split(split: Any, where: str, packing: Packing | None = None, columns: Columns | None = None) -> Split:
    """The split as tensors.

    Args:
        split: what `teachenv.tasks.reading.pair_of` takes.
        where: what it is, for messages.
        packing: how inputs that are a dictionary lie in one tensor, as in the pool; None: the pool's are one array.
        columns: those of the pool's tables; None: there are none.

    Raises:
        TypeError: it is no pair of arrays of numbers.
        ValueError: inputs and targets of different numbers of samples, or of none, inputs that are not finite, or other
            columns than the pool's.
    """
    given, labels = pair_of(split, where)
    check_columns(columns_of(given, labels), columns or {}, where)
    inputs, targets = inputs_of(given, packing, where), _tensor(labels, f"{where}: targets")
    if inputs.ndim < 1 or targets.ndim < 1 or len(inputs) != len(targets):
        raise ValueError(
            f"{where}: inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} must have the same number of "
            f"samples as their first dimension"
        )
    if len(inputs) == 0:
        raise ValueError(f"{where}: no samples; expected at least one")
    return inputs, targets


def inputs_of(given: Any, packing: Packing | None, where: str, columns: Columns | None = None) -> torch.Tensor:
    """Inputs of samples as one tensor, (n, ...).

    Args:
        given: an array, or arrays by their names.
        packing: how named ones lie in one tensor, as in the pool; None: the pool's inputs are one array.
        where: what they are, for messages.
        columns: those of the pool's tables; None: there are none.

    Raises:
        TypeError: no numbers, or numbers that no network reads.
        ValueError: they are not finite, or named where the pool's are not, or otherwise than there.
    """
    check_columns(columns_of(given), columns or {}, where)
    if isinstance(given, Mapping):
        if packing is None:
            raise ValueError(
                f"{where}: inputs are a dictionary of {', '.join(map(repr, given))}, but the pool's are one array; "
                "give one array here, or a dictionary there"
            )
        named = {name: _tensor(part, f"{where}: {name!r}") for name, part in given.items()}
        for name, tensor in named.items():
            _check_finite(tensor, f"{where}: {name!r}", names_in(given[name]))
        return packing.pack(named, where)
    inputs = _tensor(given, f"{where}: inputs")
    if packing is not None and (inputs.ndim != 2 or inputs.shape[1] != packing.size):
        raise ValueError(
            f"{where}: inputs are an array of shape {tuple(inputs.shape)}, expected a dictionary of {packing.names}, "
            "as the pool has"
        )
    if inputs.is_complex():
        raise TypeError(
            f"{where}: inputs are {inputs.dtype}; expected floating-point numbers, integers for token indices, or "
            "uint8 for pixels: torch.view_as_real(inputs) has both parts"
        )
    if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
        inputs = inputs.to(torch.float32 if inputs.dtype == torch.bool else torch.int64)
    _check_finite(inputs, f"{where}: inputs", names_in(given))
    return inputs


def _check_finite(inputs: torch.Tensor, what: str, names: tuple[Any, ...]) -> None:
    """Refuses inputs that are not finite, with the columns where they are not.

    Args:
        inputs: (n, ...).
        what: what they are, for the message.
        names: those of the columns of a table.

    Raises:
        ValueError: some are not finite.
    """
    if not (inputs.ndim and inputs.is_floating_point()) or bool(torch.isfinite(inputs).all()):
        return
    broken = ~torch.isfinite(inputs)
    sample = int(broken.reshape(len(inputs), -1).any(1).nonzero()[0])
    columns = [names[place] for place in broken.any(0).nonzero()[:, 0].tolist()] if names else []
    where = f"first in sample {sample}{f', in {_named(columns)}' if columns else ''}"
    remedy = "fill or drop them, table.fillna(table.median()) or table.dropna()" if columns else "clean the data"
    raise ValueError(
        f"{what} contain NaN or infinity, {where}; expected finite numbers: {remedy}, and do not divide by the "
        "deviation of a channel that is constant"
    )


def _named(columns: Sequence[Any]) -> str:
    listed = ", ".join(map(repr, columns[:_MOST_NAMED])) + (", ..." if len(columns) > _MOST_NAMED else "")
    return f"column{'s' if len(columns) > 1 else ''} {listed}"


def _tensor(part: Any, where: str) -> torch.Tensor:
    """What can be read as an array, as a tensor without a graph; of NumPy's arrays a copy in this machine's byte order.

    NumPy says nothing of it when an array changes, and the task would have other data from then on. A tensor is shared:
    PyTorch counts its changes.
    """
    if isinstance(part, torch.Tensor):
        if part.layout != torch.strided:
            raise TypeError(f"{where} are a sparse tensor; expected a dense one: call to_dense() first")
        if hasattr(part, "get_mask"):  # of torch.masked
            raise TypeError(f"{where} are a masked tensor; expected a plain one: call to_tensor(value) first")
        return part.detach()
    if hasattr(part, "toarray"):  # SciPy's, as scikit-learn's vectorizers of texts return
        raise TypeError(f"{where} are a sparse matrix; expected a dense array: call toarray() first")
    check_unmasked(part, where)
    try:
        array = np.asarray(part)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{where} make no array ({error}); expected rows of one length") from error
    if array.dtype.kind not in _NUMBERS:
        array = _by_columns(part, array, where)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # PyTorch has none so long
        array = array.astype(np.float64)
    # A list's array is nobody else's.
    array = array.astype(array.dtype.newbyteorder("="), copy=not isinstance(part, list | tuple))
    return torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array)


def _by_columns(part: Any, array: np.ndarray, where: str) -> np.ndarray:
    """A table whose columns are all numbers, though of kinds that have no common one to NumPy.

    Raises:
        TypeError: it is no table, or some columns are no numbers; says which.
    """
    columns = {name: np.asarray(part[name]) for name in names_in(part)}
    broken = {name: column for name, column in columns.items() if column.dtype.kind not in _NUMBERS}
    if columns and not broken and len(columns) == len(names_in(part)):  # of one name there may be two columns
        return np.column_stack(list(columns.values()))
    named, several = f" in {_named(list(broken))}" if broken else "", array.ndim > 1 and array.size > len(array)
    remedies = dict.fromkeys(_as_numbers(column, several) for column in (broken or {"": array}).values())
    raise TypeError(f"{where} are of dtype {array.dtype}{named}; expected numbers: {'; '.join(remedies)}")


def _as_numbers(array: np.ndarray, several: bool) -> str:
    """How to make numbers of what is none, for a message.

    Args:
        array: an array, or a column of a table.
        several: whether a sample has several numbers.
    """
    if array.dtype.kind not in "US" and not any(isinstance(each, str) for each in array.flat):
        if any(map(is_missing, array.flat)):
            return "of missing values, table.fillna(0) makes numbers and table.dropna() leaves their samples out"
        if array.dtype.kind == "O" and all(isinstance(each, numbers.Number | np.generic) for each in array.flat):
            return "np.asarray(data, dtype=np.float32)"
        return "leave out what is none, or make numbers of it: of dates, (dates - dates.min()).dt.days"
    sentences = "of sentences, scikit-learn's TfidfVectorizer().fit_transform(texts).toarray() makes columns of numbers"
    if not several:
        names = "of names of classes, np.unique(data, return_inverse=True)[1] has the number of each one's"
        return f"{sentences}; {names}; all splits together"
    columns = "of columns with a few different texts, pandas.get_dummies(data, dtype=float) makes columns of numbers"
    return f"{columns}; {sentences}; all splits together"


def in_form_of(pool: torch.Tensor, inputs: torch.Tensor, dtype: torch.dtype, where: str) -> torch.Tensor:
    """Inputs in the dtype of a pool's and on its device; of pixels floating-point ones lie in [0, 1] and stay so.

    Args:
        pool: the pool's inputs.
        inputs: others, for the same students.
        dtype: the students'.
        where: what they are, for messages.

    Raises:
        ValueError: where the pool has pixels, integers outside of [0, 255] or other numbers outside of [0, 1]; pixels
            where it has other numbers.
    """
    if pool.is_floating_point() and inputs.dtype == torch.uint8:
        raise ValueError(
            f"{where} are uint8, pixels from 0 to 255, and those of the pool {pool.dtype}, which are taken as they "
            "are: give both in one form, such as pixels / 255 in floating point"
        )
    if pool.dtype != torch.uint8 or inputs.dtype == torch.uint8:
        return inputs.to(pool)
    if inputs.is_floating_point():
        if inputs.numel() and not -0.01 <= float(inputs.min()) <= float(inputs.max()) <= 1.01:
            raise ValueError(
                f"{where} go from {float(inputs.min()):.4g} to {float(inputs.max()):.4g}, and those of the pool are "
                "uint8, which students see from 0 to 1: divide them by 255, or give them as uint8, too"
            )
        return inputs.to(pool.device, dtype)
    if inputs.numel() and not 0 <= int(inputs.min()) <= int(inputs.max()) <= 255:
        raise ValueError(
            f"{where} go from {int(inputs.min())} to {int(inputs.max())}, expected pixels, integers from 0 to 255 or "
            "floating-point numbers from 0 to 1"
        )
    return inputs.to(pool)


def shared_samples(inputs: torch.Tensor, others: torch.Tensor) -> list[int]:
    """The numbers of the samples whose inputs are, to the last bit, among the others' too.

    It reads 60,000 images of 28 by 28 pixels in a quarter of a second.
    """
    known = {*as_bytes(inputs)}
    met = {sample for sample in as_bytes(others) if sample in known}
    return [number for number, sample in enumerate(as_bytes(inputs)) if sample in met] if met else []


def as_bytes(inputs: torch.Tensor) -> Iterator[bytes]:
    """Each sample's inputs as bytes: equal numbers are equal bytes."""
    for piece in torch.split(inputs.reshape(len(inputs), -1), 4096):
        # A zero may have a sign.
        numbers = (piece + 0 if piece.is_floating_point() else piece).cpu().contiguous()
        yield from (row.tobytes() for row in numbers.view(torch.uint8).numpy())
