"""What data sets of photographs have in common: reading them in whatever format they have, resizing, and scaling."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from teachenv.data import FileDataset, find_dataset
from teachenv.data.reading import damaged, honest_name, text_lines, unreadable
from teachenv.errors import DatasetUnavailable
from teachenv.tasks.base import subset_indices
from teachenv.tasks.splits import Split

T = TypeVar("T")
P = TypeVar("P")
Floats = npt.NDArray[np.float32]

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# What Pillow gives as 16 bits, or as 32 bits that hold 16, with white at 65,535 whatever depth the file has.
_WHITE_IS_65535 = ("PNG", "PPM", "JPEG2000")
_TIFF_BITS, _TIFF_MEANING, _BLACK_IS_ZERO = 258, 262, 1
_ROUNDING = 1e-6  # 16 bits have steps of 1.5e-5
_ADVICE = "save it with 8 or 16 bits a channel, or as floats from 0 (black) to 1 (white)"


def opened(path: Path) -> Image.Image:
    """The decoded image; of several in one file the first. A rotation that its metadata asks for is left out.

    Raises:
        DatasetUnavailable: it is missing or damaged.
    """
    with _naming(path):
        image: Image.Image = Image.open(path)
        with image:  # which closes the file and keeps what was read
            image.load()
    return image


def size_of(path: Path) -> tuple[int, int]:
    """An image's (width, height) in pixels, without decoding it.

    Raises:
        DatasetUnavailable: it is missing or damaged.
    """
    with _naming(path), Image.open(path) as image:
        size: tuple[int, int] = image.size
    return size


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong with an image into an error that names it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise unreadable(path, error) from error
        raise damaged(path, f"it cannot be read as an image ({error})") from error
    except Exception as error:  # decoders fail in many ways on bytes that are not theirs
        raise damaged(path, f"it cannot be read as an image ({type(error).__name__}: {error})") from error


def read_images(paths: Sequence[Path], size: tuple[int, int]) -> Floats:
    """Images resized bilinearly to (height, width), within [0, 1]: (n, 3, height, width).

    Black is 0 and white is 1 in every format: of 1, 8 or 16 bits, of floats from 0 to 1; grey, in a palette or in
    colours. Transparency is left out.

    Raises:
        DatasetUnavailable: an image is missing or damaged, or does not say which number is white.
    """
    return np.stack([_resized(path, size) for path in paths])


def _resized(path: Path, size: tuple[int, int]) -> Floats:
    image, shape = opened(path), (size[1], size[0])
    if image.mode in _EIGHT_BIT:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # Pillow warns of the direct way
        image = image.convert("RGB").resize(shape, Image.Resampling.BILINEAR)
        return np.asarray(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255, dtype=np.float32)
    grey = Image.fromarray(_grey(path, image)).resize(shape, Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(grey, dtype=np.float32)[None], 3, 0)


def _grey(path: Path, image: Image.Image) -> Floats:
    """Numbers of a grey image of more than 8 bits, from black at 0 to white at 1: (height, width)."""
    pixels: Floats = np.asarray(image, dtype=np.float32)
    tags = getattr(image, "tag_v2", {})
    bits, meaning = tags.get(_TIFF_BITS, (16,)), tags.get(_TIFF_MEANING, _BLACK_IS_ZERO)
    sixteen = image.format in _WHITE_IS_65535 or (image.format == "TIFF" and image.mode != "I" and bits == (16,))
    if image.mode in _SIXTEEN_BIT and sixteen and meaning == _BLACK_IS_ZERO:
        return np.asarray(pixels / 65_535, dtype=np.float32)
    if image.mode == "F" and meaning == _BLACK_IS_ZERO:
        low, high = float(pixels.min()), float(pixels.max())
        if low >= 0 and high <= 1:  # neither is true of NaN
            return pixels
        raise DatasetUnavailable(
            f"{path} has floats from {low:g} to {high:g}, expected 0 (black) to 1 (white); {_ADVICE}"
        )
    raise DatasetUnavailable(
        f"{path} is a {image.format} image of mode {image.mode}, which does not say which number is white; {_ADVICE}"
    )


def same_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two sizes, (width, height), have the same proportions, but for the rounding of a resized image."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= 0.02 * one[0] * other[1]


def standardized(pool: Floats, test: Floats) -> tuple[Floats, Floats]:
    """The pool's and the test's images, each channel centred and scaled by mean and deviation of the pool's.

    A channel that is the same everywhere in the pool is only centred.

    Args:
        pool: (n, channels, height, width) within [0, 1].
        test: the same of the test split.
    """
    axes = (0, 2, 3)
    # In float64: images as they are read lie in memory pixel by pixel, so that NumPy adds them up one by one, and a sum
    # in float32 stands still at 2²⁴. Image by image, since all squares in float64 would take twice the images' memory.
    mean = pool.mean(axes, keepdims=True, dtype=np.float64)
    deviation = np.sqrt(np.mean([np.square(image - mean).mean(axes, keepdims=True) for image in pool], 0))
    # Rounding gives a constant channel a tiny deviation, by which test would be blown up.
    constant = pool.max(axes, keepdims=True) - pool.min(axes, keepdims=True) < _ROUNDING
    deviation[constant] = 1
    mean, deviation = mean.astype(np.float32), deviation.astype(np.float32)
    return (pool - mean) / deviation, (test - mean) / deviation


def read_splits(
    pool: Sequence[P],
    test: Sequence[P],
    image_of: Callable[[P], Path],
    labels_of: Callable[[Sequence[P]], torch.Tensor],
    *,
    size: tuple[int, int],
    pool_size: int | None,
    split_seed: int,
) -> tuple[Split, Split]:
    """Pool and test of a task of photographs: `standardized` images, (n, 3, height, width) float32, and labels.

    Args:
        pool: what is known of each of its photographs.
        test: the same of the test split.
        image_of: where a photograph is.
        labels_of: labels of photographs.
        size: (height, width) that they are resized to.
        pool_size: how many of the pool are drawn, at random; None: all.
        split_seed: seed of that draw.

    Raises:
        DatasetUnavailable: an image is missing or damaged.
        ValueError: there are fewer than `pool_size`, or it is below 1.
    """
    if pool_size is not None:
        pool = [pool[i] for i in subset_indices(len(pool), pool_size, split_seed)]
    images = standardized(*(read_images([image_of(one) for one in part], size) for part in (pool, test)))
    of_pool, of_test = (torch.from_numpy(part) for part in images)
    return (of_pool, labels_of(pool)), (of_test, labels_of(test))


def voc(
    reader: Callable[..., T], lists_in: str, data_root: str | os.PathLike[str] | None, official: Mapping[str, int]
) -> tuple[tuple[T, T], str]:
    """PASCAL VOC 2012's training and validation images and what they are called, downloaded if there are none.

    Args:
        reader: torchvision's class of the task.
        lists_in: folder of the task's lists, `"Main"` or `"Segmentation"`.
        data_root: where the files are; None for the usual places (see `teachenv.data.root`).
        official: how many `"train images"` and `"val images"` the official release has.

    Raises:
        DatasetUnavailable: the files are not there and cannot be downloaded, or some of them are missing.
    """

    def download(directory: Path) -> None:
        reader(str(directory), year="2012", image_set="train", download=True)

    root = find_dataset(FileDataset("PASCAL VOC 2012", "voc2012", {"VOCdevkit/VOC2012": ""}, download), data_root)
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / lists_in
    for path in (lists / "train.txt", lists / "val.txt"):
        if not any(line.strip() for line in text_lines(path)):
            raise damaged(path, "it names no image")
    train, val = (reader(str(root), year="2012", image_set=part) for part in ("train", "val"))
    sizes = {"train images": len(train), "val images": len(val)}  # type: ignore[arg-type]
    return (train, val), honest_name("voc2012", root, sizes, official)
