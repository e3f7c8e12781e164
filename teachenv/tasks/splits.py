"""Checks of the data that a task is made of, which bring arrays of all kinds to tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from teachenv.tasks.packing import Packing
from teachenv.tasks.reading import pair_of

Split = tuple[torch.Tensor, torch.Tensor]
"""Inputs `(n, ...)` and targets `(n, ...)` of the same samples."""


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


def checked_split(split: Any, where: str, packing: Packing | None = None) -> Split:
    """The split as tensors.

    Args:
        split: what `teachenv.tasks.reading.pair_of` takes.
        where: what it is, for messages.
        packing: how inputs that are a dictionary lie in one tensor, as in the pool; None: the pool's are one array.

    Raises:
        TypeError: it is no pair of arrays of numbers.
        ValueError: inputs and targets of different numbers of samples, or of none, or inputs that are not finite.
    """
    given, labels = pair_of(split, where)
    inputs, targets = inputs_of(given, packing, where), _tensor(labels, f"{where}: targets")
    if inputs.ndim < 1 or targets.ndim < 1 or len(inputs) != len(targets):
        raise ValueError(
            f"{where}: inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} must have the same number of "
            f"samples as their first dimension"
        )
    if len(inputs) == 0:
        raise ValueError(f"{where}: no samples; expected at least one")
    return inputs, targets


def inputs_of(given: Any, packing: Packing | None, where: str) -> torch.Tensor:
    """Inputs of samples as one tensor, (n, ...).

    Args:
        given: an array, or arrays by their names.
        packing: how named ones lie in one tensor, as in the pool; None: the pool's inputs are one array.
        where: what they are, for messages.

    Raises:
        TypeError: no numbers, or numbers that no network reads.
        ValueError: they are not finite, or named where the pool's are not, or otherwise than there.
    """
    if isinstance(given, Mapping):
        if packing is None:
            raise ValueError(
                f"{where}: inputs are a dictionary of {', '.join(map(repr, given))}, but the pool's are one array; "
                "give one array here, or a dictionary there"
            )
        named = {name: _tensor(part, f"{where}: {name!r}") for name, part in given.items()}
        for name, tensor in named.items():
            _check_finite(tensor, f"{where}: {name!r}")
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
    _check_finite(inputs, f"{where}: inputs")
    return inputs


def _check_finite(inputs: torch.Tensor, what: str) -> None:
    if inputs.ndim and inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        sample = int((~torch.isfinite(inputs)).reshape(len(inputs), -1).any(1).nonzero()[0])
        raise ValueError(
            f"{what} contain NaN or infinity, first in sample {sample}; expected finite numbers: clean "
            f"the data, and do not divide by the deviation of a channel that is constant"
        )


def _tensor(part: Any, where: str) -> torch.Tensor:
    """What can be read as an array, as a tensor without a graph; of NumPy's arrays a copy in this machine's byte order.

    NumPy says nothing of it when an array changes, and the task would have other data from then on. A tensor is shared:
    PyTorch counts its changes.
    """
    if isinstance(part, torch.Tensor):
        if part.layout != torch.strided:
            raise TypeError(f"{where} are a sparse tensor; expected a dense one: call to_dense() first")
        return part.detach()
    if hasattr(part, "toarray"):  # SciPy's, as scikit-learn's vectorizers of texts return
        raise TypeError(f"{where} are a sparse matrix; expected a dense array: call toarray() first")
    try:
        array = np.asarray(part)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{where} make no array ({error}); expected rows of one length") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{where} are of dtype {array.dtype}; expected numbers: {_as_numbers(array)}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # PyTorch has none so long
        array = array.astype(np.float64)
    # A list's array is nobody else's.
    array = array.astype(array.dtype.newbyteorder("="), copy=not isinstance(part, list | tuple))
    return torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array)


def _as_numbers(array: np.ndarray) -> str:
    """How to make numbers of what is none, for a message."""
    if array.dtype.kind not in "US" and not any(isinstance(each, str) for each in array.ravel()[:1000]):
        return "np.asarray(data, dtype=np.float32)"
    sentences = "of sentences, scikit-learn's TfidfVectorizer().fit_transform(texts).toarray() makes columns of numbers"
    if array.ndim < 2 or array.size == len(array):
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
