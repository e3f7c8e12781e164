"""What figures are drawn from: arrays of the right shape, or an error that names both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teachenv import checks

Array = NDArray[np.float64]


def numbers(name: str, value: Any, *shapes: Sequence[int | str]) -> Array:
    """The value as an array of floating-point numbers.

    Args:
        name: the argument's name, for messages.
        value: what the user gave: an array, a tensor on the CPU, a list.
        shapes: one of them it must have; a word stands for any size of at least 1.

    Raises:
        ValueError: it holds no numbers, or has another shape.
    """
    expected = " or ".join(f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})" for shape in shapes)
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        given = checks.shown(value)
        raise ValueError(f"{name} must be an array of numbers of shape {expected}, found {given}") from error
    if not any(_fits(array.shape, shape) for shape in shapes):
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    return array


def texts(name: str, value: Sequence[Any], count: int, of: str) -> list[str]:
    """The value, a name for each of `count` things, as texts.

    Raises:
        ValueError: there is another number of names.
    """
    return [str(each) for each in checks.listed(name, value, of, count)]


def images(name: str, value: Any, shape: Sequence[int] | None) -> Array:
    """Samples as images, (n, height, width) or (n, height, width, 3), from 0 to 1.

    Args:
        name: the argument's name, for messages.
        value: (n, ...) the samples.
        shape: height and width of a sample, (height, width) or (height, width, channels), where samples are rows of
            numbers. None: samples are images, (height, width) or (channels, height, width).

    Raises:
        ValueError: samples are no images, or do not fit the shape.
    """
    inputs = np.asarray(value, dtype=np.float64)
    each = inputs.shape[1:]
    if shape is not None:
        wanted = checks.integers("shape", shape, least=1)
        if len(wanted) not in (2, 3) or int(np.prod(wanted)) != int(np.prod(each)):
            raise ValueError(f"shape={wanted} does not fit samples of shape {each}; expected their height and width")
        pictures = inputs.reshape(-1, *wanted)
    elif len(each) == 2:
        pictures = inputs
    elif len(each) == 3 and each[0] in (1, 3):
        pictures = np.moveaxis(inputs, 1, -1)
    else:
        raise ValueError(
            f"{name} of shape {inputs.shape} are no images, which are (samples, channels, height, width) or (samples, "
            "height, width); give the height and width of a sample, as in shape=(8, 8). Rows of a table are read "
            "better than drawn: table.iloc[numbers], with the numbers of samples that ranked() or suspects() returns"
        )
    if len(pictures) == 0:
        raise ValueError(f"{name} has shape {inputs.shape}, expected at least one sample")
    if pictures.ndim == 4 and pictures.shape[-1] == 1:
        pictures = pictures[..., 0]
    low, high = pictures.min(), pictures.max()
    scaled: Array = (pictures - low) / max(high - low, 1e-12)
    return scaled


def _fits(sizes: tuple[int, ...], shape: Sequence[int | str]) -> bool:
    pairs = zip(sizes, shape, strict=False)
    return len(sizes) == len(shape) and all(size > 0 if isinstance(of, str) else size == of for size, of in pairs)
