"""What data sets of photographs have in common: reading, resizing, scaling, and an honest name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from teachenv.data import FileDataset, find_dataset
from teachenv.errors import DatasetUnavailable

T = TypeVar("T")
Floats = npt.NDArray[np.float32]


def opened(path: Path) -> Image.Image:
    """The decoded image.

    Raises:
        DatasetUnavailable: It is missing or damaged.
    """
    try:
        image = Image.open(path)
        image.load()
    except OSError as error:
        raise DatasetUnavailable(f"{path} is missing or damaged ({error}); copy an intact one there") from error
    return image


def read_images(paths: Sequence[Path], size: tuple[int, int]) -> Floats:
    """Images resized bilinearly to (height, width), within [0, 1]: (n, 3, height, width)."""
    height, width = size
    resized = (opened(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR) for path in paths)
    return np.stack([np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255 for image in resized])


def standardized(pool: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Both with each channel centred and scaled by mean and deviation of the pool's."""
    mean, deviation = pool.mean((0, 2, 3), keepdims=True), pool.std((0, 2, 3), keepdims=True)
    return (pool - mean) / deviation, (test - mean) / deviation


def named(dataset: str, found: int, official: int) -> str:
    """The data set's name; with another number of images than the official one, a name of its own and a warning.

    Args:
        dataset: The name of the official one.
        found: Labelled images of the pool.
        official: How many there are in the official one.
    """
    if found == official:
        return dataset
    own = f"{dataset}-subset-{found}"
    warnings.warn(
        f"found {found} labelled images of {dataset!r}, the official release has {official}: they are named {own!r}, "
        f"and results are not comparable with published ones",
        UserWarning,
        stacklevel=4,
    )
    return own


def voc(reader: Callable[..., T], data_root: str | os.PathLike[str] | None) -> tuple[T, T]:
    """PASCAL VOC 2012's training and validation images, downloaded by torchvision if there are none.

    Args:
        reader: Torchvision's class of the task.
        data_root: See ``teachenv.data.root``.

    Raises:
        DatasetUnavailable: If the files are not there and cannot be downloaded, or some of them are missing.
    """

    def download(directory: Path) -> None:
        reader(str(directory), year="2012", image_set="train", download=True)

    root = find_dataset(FileDataset("PASCAL VOC 2012", "voc2012", {"VOCdevkit/VOC2012": ""}, download), data_root)
    try:
        train, val = (reader(str(root), year="2012", image_set=part) for part in ("train", "val"))
    except (OSError, RuntimeError) as error:
        raise DatasetUnavailable(f"PASCAL VOC 2012 in {root} cannot be read: {error}") from error
    return train, val
