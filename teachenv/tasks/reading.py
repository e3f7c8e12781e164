"""Labelled data as a user has it: pairs of arrays or tables, Datasets and DataLoaders.

What is read here becomes tensors, and is checked, in `teachenv.tasks.splits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from teachenv import checks
from teachenv.tasks.labels import check_unmasked

_ASKED_TWICE = 16
"""Samples of a Dataset that are read twice, to see whether it answers the same."""
_LABELS = ("label", "labels", "target", "targets")
"""What the label is called in samples that are dictionaries."""


def pair_of(data: Any, where: str) -> tuple[Any, Any]:
    """(Inputs, targets) of what a user gives: a pair of them as it is, or all samples of a Dataset or a DataLoader.

    Of a DataLoader the samples are taken in its order, whatever its batches are: training runs draw minibatches of
    their own. Samples that are dictionaries have their label as `"label"`, `"labels"`, `"target"` or `"targets"`; what
    is left is the input, or a dictionary of several.

    Raises:
        TypeError: it is none of these, it has no length, or its samples are no pairs of numbers.
        ValueError: it has no samples, or it answers differently each time.
    """
    if isinstance(data, tuple | list):
        if len(data) != 2:
            raise TypeError(f"{where}: expected a pair (inputs, targets), found a {type(data).__name__} of {len(data)}")
        return data[0], data[1]
    if isinstance(data, DataLoader):
        return _of_loader(data, where)
    readable = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | Mapping)
    if not readable or hasattr(data, "__array__"):
        apart = readable or isinstance(data, Mapping)
        kind = f"a {type(data).__name__}" if apart or isinstance(data, Dataset) else checks.shown(data)
        raise TypeError(
            f"{where}: expected a pair (inputs, targets) or a Dataset with a length and samples by number, found "
            f"{kind}; give {'its inputs and its targets apart' if apart else 'its samples as arrays'}"
        )
    samples = [_sample(data[i], f"sample {i} of the Dataset", where) for i in range(len(data))]
    for i in map(int, np.linspace(0, len(samples) - 1, min(len(samples), _ASKED_TWICE))):
        again = _sample(data[i], f"sample {i} of the Dataset", where)
        if not _same(samples[i], again):
            raise ValueError(
                f"{where}: the Dataset answers differently each time: its sample {i} changed between two readings; "
                "leave random augmentation out of it, since it is read once, and give it as Task(augment=...)"
            )
    return _stacked(samples, where)


def _of_loader(loader: DataLoader[Any], where: str) -> tuple[Any, Any]:
    """The samples of a loader, in its order.

    Raises:
        TypeError: it has no length, or its batches are no pairs.
        ValueError: it shuffles, leaves samples out, or answers differently each time.
    """
    try:
        batches = len(loader)
    except TypeError as error:
        raise TypeError(
            f"{where}: the DataLoader has no length, as one of an IterableDataset has none; give its samples as arrays"
        ) from error
    read = [_sample(batch, f"batch {i} of the DataLoader", where) for i, batch in enumerate(loader)]
    again = [_sample(batch, "batch", where) for _, batch in zip(range(2), loader, strict=False)]
    if not all(_same(a, b) for a, b in zip(read, again, strict=False)):
        raise ValueError(
            f"{where}: the DataLoader answers differently each time; make it with shuffle=False and leave random "
            "augmentation out of its Dataset: training runs draw their own minibatches, and augment by "
            "Task(augment=...)"
        )
    samples = len(loader.dataset)  # type: ignore[arg-type] # it has a length, since the loader has one
    inputs, targets = (_joined(parts, where) for parts in zip(*read, strict=True)) if read else ((), ())
    if not batches or (loader.drop_last and len(targets) < samples):
        raise ValueError(
            f"{where}: the DataLoader gives {len(targets)} of the {samples} samples of its Dataset, expected all of "
            "them and at least one; make it with drop_last=False"
        )
    return inputs, targets


def _joined(parts: Sequence[Any], where: str) -> Any:
    """The batches' parts one after the other."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts], where) for name in first}
    if isinstance(first, tuple | list):  # texts
        return [each for part in parts for each in part]
    if len({tuple(part.shape[1:]) for part in parts}) > 1:
        raise ValueError(
            f"{where}: samples of the batches have different shapes, {tuple(first.shape[1:])} first; pad them to one "
            "length in the DataLoader's collate_fn"
        )
    return torch.cat([torch.as_tensor(part) for part in parts])


def _sample(sample: Any, what: str, where: str) -> tuple[Any, Any]:
    """(Input, label) of a Dataset's sample, or of a loader's batch."""
    if isinstance(sample, Mapping):
        label_keys = [name for name in _LABELS if name in sample]
        rest = {name: part for name, part in sample.items() if name not in label_keys}
        if len(label_keys) != 1 or not rest:
            raise TypeError(
                f"{where}: {what} has the keys {', '.join(map(repr, sample))}, expected inputs and one label, named "
                f"{' or '.join(map(repr, _LABELS))}"
            )
        for name, part in rest.items():
            rest[name] = _numbers(part, f"{name!r} of {what}", where)
        return (next(iter(rest.values())) if len(rest) == 1 else rest), _label(sample[label_keys[0]], what, where)
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        several = isinstance(sample, tuple | list) and len(sample) > 2
        remedy = "; give several inputs as a dictionary, by the names that the network has for them" if several else ""
        raise TypeError(f"{where}: {what} is {checks.shown(sample)}, expected a pair (input, label){remedy}")
    given, label = sample
    if isinstance(given, Mapping):
        given = {name: _numbers(part, f"{name!r} of {what}", where) for name, part in given.items()}
    else:
        given = _numbers(given, f"the input of {what}", where)
    return given, _label(label, what, where)


def _numbers(part: Any, what: str, where: str) -> Any:
    """An input; of an image of PIL its pixels, uint8 (channels, height, width)."""
    if type(part).__module__.startswith("PIL.") and hasattr(part, "getbands"):
        pixels = np.array(part if part.mode in ("L", "RGB") else part.convert("RGB"))
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    check_unmasked(part, f"{where}: {what}")
    array = part if isinstance(part, torch.Tensor) else np.asarray(part)
    if not isinstance(array, torch.Tensor) and array.dtype.kind not in "biuf":
        raise TypeError(
            f"{where}: {what} is of type {type(part).__name__}, expected numbers: turn it into a tensor in the Dataset "
            "(images by torchvision.transforms, texts by a tokenizer)"
        )
    return array


def _label(label: Any, what: str, where: str) -> Any:
    check_unmasked(label, f"{where}: the label of {what}")
    if not isinstance(label, torch.Tensor) and np.asarray(label).dtype.kind not in "biufUS":
        raise TypeError(
            f"{where}: the label of {what} is of type {type(label).__name__}, expected a number, a text or an array"
        )
    return label


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return np.array_equal(np.asarray(one), np.asarray(other))


def _stacked(samples: Sequence[tuple[Any, Any]], where: str) -> tuple[Any, Any]:
    if not samples:
        raise ValueError(f"{where}: the Dataset has no samples, expected at least one")
    inputs, labels = zip(*samples, strict=True)

    def stack(parts: Sequence[Any]) -> Any:
        shapes = {tuple(np.shape(part)) for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"{where}: samples of the Dataset have different shapes, {' and '.join(map(str, sorted(shapes)[:2]))} "
                "among them; bring them to one (images: a transform that resizes; texts: padding)"
            )
        return torch.stack([torch.as_tensor(part) for part in parts])

    if isinstance(inputs[0], Mapping):
        return {name: stack([each[name] for each in inputs]) for name in inputs[0]}, _array_of(labels)
    return stack(inputs), _array_of(labels)


def _array_of(labels: Sequence[Any]) -> np.ndarray:
    return np.stack([np.asarray(label) for label in labels])
