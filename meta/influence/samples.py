"""Labelled samples as a user has them: arrays, tensors, data frames of numbers; labels as numbers or texts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from teachenv import checks
from teachenv.tasks.base import Task
from teachenv.tasks.columns import columns_of
from teachenv.tasks.labels import names_of, numbers_of
from teachenv.tasks.packing import Packing
from teachenv.tasks.reading import pair_of
from teachenv.tasks.splits import checked_split, packing_of

Inputs = np.ndarray | dict[str, np.ndarray]
"""Inputs of samples, or several by name."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples with one label each, those whose labels are trusted behind the others.

    Attributes:
        task: all of them as the pool of a task; one of them stands in the place of its test split.
        classes: what the labels were called, by their numbers.
        count: N, how many are not trusted.
        shown: inputs as they were given, (N, ...) each.
    """

    task: Task
    classes: tuple[Any, ...]
    count: int
    shown: Inputs

    @property
    def labels(self) -> torch.Tensor:
        """(N + trusted,) indices into `classes`."""
        return self.task.pool[1]


def samples_of(data: Task | tuple[Any, Any], trusted: tuple[Any, Any] | None) -> Samples:
    """Reads what a user has.

    Args:
        data: a task, whose pool is read and whose dev set is trusted, or (inputs, labels). Of a pair each column of a
            table is brought to mean 0 and variance 1, and arrays of more dimensions as a whole; inputs that are a
            dictionary stay as they are.
        trusted: (inputs, labels) in the same form, whose labels are known to be right; None: there are none.

    Raises:
        TypeError: something else, or inputs that are no numbers.
        ValueError: labels that are no classes, a single class, classes most of which have a single sample, or trusted
            samples that do not fit the others.
    """
    if isinstance(data, Task):
        parts: list[tuple[Any, Any]] = [_of_labels(data).pool]
        if data.dev is not None:
            if trusted is not None:
                raise ValueError(f"task {data.name!r} has a trusted dev set already; leave trusted out")
            trusted = data.dev
    else:
        parts = [pair_of(data, "data")]
    if trusted is not None:
        parts.append(pair_of(trusted, "trusted"))
    names = [names_of(targets, where) for (_, targets), where in zip(parts, ("data", "trusted"), strict=False)]
    classes, numbers = _numbered(names, data)
    _check_shared(torch.cat(numbers))
    packing = data.packing if isinstance(data, Task) else packing_of(parts[0][0], "data")
    columns = data.pool_columns if isinstance(data, Task) else columns_of(parts[0][0])
    as_given = isinstance(data, Task) or packing is not None
    inputs = [
        checked_split((given, of_class), where, packing, columns)[0]
        for (given, _), of_class, where in zip(parts, numbers, ("data", "trusted"), strict=False)
    ]
    inputs = inputs if as_given else [_floating(part) for part in inputs]
    if len({tuple(part.shape[1:]) for part in inputs}) > 1:
        raise ValueError(
            f"samples have the shape {tuple(inputs[0].shape[1:])} in data but {tuple(inputs[1].shape[1:])} in trusted; "
            "prepare both in the same way"
        )
    joined, count = torch.cat([part.to(inputs[0]) for part in inputs]), len(inputs[0])
    pool = joined if as_given else _standardised(joined, count), torch.cat(numbers)
    test = pool[0][:1], pool[1][:1]
    if isinstance(data, Task):
        task = dataclasses.replace(data, pool=pool, test=test, dev=None)
    else:
        task = Task("samples", "samples", pool, test, num_outputs=len(classes), packing=packing)
    return Samples(task, classes, count, _shown(inputs[0], packing))


def _shown(inputs: torch.Tensor, packing: Packing | None) -> Inputs:
    if packing is None:
        return _array(inputs)
    return {name: _array(part) for name, part in packing.unpack(inputs).items()}


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array


def _of_labels(task: Task) -> Task:
    """The task, if each of its samples has one label.

    Raises:
        ValueError: its samples have something else.
    """
    if task.target_kind != "labels":
        raise ValueError(f"samples of task {task.name!r} do not have one label each; expected classification")
    return task


def _floating(inputs: torch.Tensor) -> torch.Tensor:
    """Inputs whose whole numbers are floating-point ones: pixels, and counts, which may have more digits than float32.

    Args:
        inputs: from `checked_split`, whole numbers in uint8 or int64.
    """
    if inputs.is_floating_point():
        return inputs
    return inputs.to(torch.float32 if inputs.dtype == torch.uint8 else torch.float64)


def _numbered(labels: list[np.ndarray], data: Any) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
    """The classes' names and the labels' numbers; a task's labels are numbers already."""
    if len({array.dtype.kind in "US" for array in labels}) > 1:
        raise ValueError("labels are texts in one of data and trusted and numbers in the other; expected one kind")
    names = np.unique(labels[0])
    if len(names) < 2:
        raise ValueError(f"all samples have the label {checks.shown(names[0].item())}; expected at least two classes")
    called = tuple(names.tolist())
    if isinstance(data, Task):
        names = np.arange(data.num_outputs)
        called = tuple(names.tolist()) if data.classes is None else data.classes
    numbers = [numbers_of(each, names, where) for each, where in zip(labels, ("data", "trusted"), strict=False)]
    return called, [torch.from_numpy(each) for each in numbers]


def _check_shared(labels: torch.Tensor) -> None:
    """Refuses labels of which most occur once: no student learns a class of which it sees no other sample.

    Args:
        labels: numbers of classes, those of trusted samples among them.

    Raises:
        ValueError: they are such labels.
    """
    counts = torch.bincount(labels)
    classes, single = int((counts > 0).sum()), int((counts == 1).sum())
    if 2 * single > classes:
        raise ValueError(
            f"{single} of the {classes} classes have a single sample, expected classes that samples share: give the "
            "column of classes, not of identifiers or measurements, or leave rare classes out"
        )


def _standardised(inputs: torch.Tensor, count: int) -> torch.Tensor:
    """Inputs with mean 0 and variance 1 over the first samples, `count` of them; see `samples_of`."""
    among = (0,) if inputs.dim() == 2 else tuple(range(inputs.dim()))
    seen = inputs[:count].double()
    mean, deviation = seen.mean(among, keepdim=True), seen.std(among, correction=0, keepdim=True)
    # What is constant up to rounding says nothing, and would be blown up.
    informative = deviation > 16 * torch.finfo(inputs.dtype).eps * (mean.abs() + 1e-30)
    return torch.where(informative, (inputs - mean) / deviation.clamp(min=1e-30), 0.0).to(inputs.dtype)
