"""Checks of the data that a task is made of, which bring arrays of all kinds to tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

Split = tuple[torch.Tensor, torch.Tensor]
"""Inputs `(n, ...)` and targets `(n, ...)` of the same samples."""


def checked_split(split: Any, where: str) -> Split:
    """Returns the split as tensors, or raises an error that names `where` and what is wrong with it."""
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise TypeError(f"{where}: expected a pair (inputs, targets), found {type(split).__name__}")
    inputs, targets = (
        _tensor(part, f"{where}: {name}") for part, name in zip(split, ("inputs", "targets"), strict=True)
    )
    if inputs.ndim < 1 or targets.ndim < 1 or len(inputs) != len(targets):
        raise ValueError(
            f"{where}: inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} must have the same number of "
            f"samples as their first dimension"
        )
    if len(inputs) == 0:
        raise ValueError(f"{where}: no samples; expected at least one")
    if not inputs.is_floating_point() and inputs.dtype != torch.int64:
        raise TypeError(
            f"{where}: inputs are {inputs.dtype}; expected a floating-point dtype (int64 for token indices): scale "
            f"pixels to floats first"
        )
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        sample = int((~torch.isfinite(inputs)).reshape(len(inputs), -1).any(1).nonzero()[0])
        raise ValueError(
            f"{where}: inputs contain NaN or infinity, first in sample {sample}; expected finite numbers: clean "
            f"the data, and do not divide by the deviation of a channel that is constant"
        )
    return inputs, targets


def _tensor(part: Any, where: str) -> torch.Tensor:
    """What can be read as an array, as a tensor without a graph; of NumPy's arrays a copy in this machine's byte order.

    NumPy says nothing of it when an array changes, and the task would have other data from then on. A tensor is shared:
    PyTorch counts its changes.
    """
    if isinstance(part, torch.Tensor):
        if part.layout != torch.strided:
            raise TypeError(f"{where} are a sparse tensor; expected a dense one: call to_dense() first")
        return part.detach()
    try:
        array = np.asarray(part)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{where} make no array ({error}); expected rows of one length") from error
    if array.dtype.kind not in "biuf":
        remedy = "np.asarray(data, dtype=np.float32)"
        if array.dtype.kind in "US" or any(isinstance(each, str) for each in array.ravel()[:1000]):
            remedy = (
                "of texts, np.unique(data, return_inverse=True)[1] has the number of each one's class: number those of "
                "all splits together"
                if array.ndim < 2 or array.size == len(array)
                else "make columns of numbers of those of texts, as pandas.get_dummies(data, dtype=float) does, for "
                "all splits together"
            )
        raise TypeError(f"{where} are of dtype {array.dtype}; expected numbers: {remedy}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # PyTorch has none so long
        array = array.astype(np.float64)
    # A list's array is nobody else's.
    array = array.astype(array.dtype.newbyteorder("="), copy=not isinstance(part, list | tuple))
    return torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array)


def labels_of(targets: torch.Tensor, where: str) -> torch.Tensor:
    """Labels of ordinary classification: a column of them as a row, and whole floating-point numbers as integers."""
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        raise ValueError(
            f"{where}: targets have shape {tuple(targets.shape)}; expected one class index a sample, (n,): "
            "targets.argmax(1) makes them of one-hot rows; other targets need a measure of the task's own"
        )
    if not targets.is_floating_point():
        return targets
    broken = targets[~((targets == targets.round()) & (targets.abs() < 2**53))]  # NaN and infinity among them
    if len(broken):
        raise ValueError(
            f"{where}: targets such as {float(broken[0]):g} are no class indices; number them from 0, or give the "
            "task a measure of its own"
        )
    return targets.to(torch.int64)


def checked_targets(targets: torch.Tensor, where: str, num_outputs: int, least: int) -> torch.Tensor:
    """Returns class indices as int64, or floating-point targets as they are, or raises an error."""
    if targets.is_floating_point():
        if not bool(torch.isfinite(targets).all()):
            raise ValueError(f"{where}: targets contain NaN or infinity; expected finite numbers, clean the data first")
        return targets
    if targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(
            f"{where}: targets are {targets.dtype}; expected int64 class indices or floating point: convert them"
        )
    targets = targets.to(torch.int64)
    low, high = int(targets.min()), int(targets.max())
    if low < least or high >= num_outputs:
        raise ValueError(
            f"{where}: class indices lie in [{low}, {high}], expected [{least}, {num_outputs}); number the classes "
            f"from 0 or correct num_outputs"
        )
    return targets


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
