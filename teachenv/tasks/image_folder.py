"""Photographs in folders, one for each class, as ImageNet has them: `train/<class>/*` and `val/<class>/*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from teachenv.data import FileDataset, find_dataset
from teachenv.data.reading import honest_name
from teachenv.errors import DatasetUnavailable
from teachenv.tasks.augmentation import FlipAndCrop
from teachenv.tasks.base import Task
from teachenv.tasks.photographs import read_splits

_OFFICIAL = {
    "imagenet": {"training images": 1_281_167, "validation images": 50_000},
    "tiny-imagenet": {"training images": 100_000, "validation images": 10_000},
}


def image_folder(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
    image_size: int = 64,
) -> Task:
    """A classification task made of a folder: inputs `(n, 3, side, side)` float32, a class for each folder in it.

    Images are resized without regard to their proportions, and channels centred and scaled by mean and deviation of
    the pool. All of them are held in memory: `image_size` and `pool_size` bound it (12 kB for an image of 32×32).

    Args:
        data_root: where the folder is; None: the usual places (see `teachenv.data.root`).
        dataset: name of the folder in the data root, and of the data in results; None: `"imagenet"`.
        pool_size: number of training images, drawn at random; None: all.
        split_seed: seed of that draw.
        image_size: side of the images in pixels.

    Raises:
        DatasetUnavailable: there is no such folder, its two parts have other classes, or an image is damaged.
        ValueError: `image_size` or `pool_size` is out of range.

    Warns:
        UserWarning: `"imagenet"` or `"tiny-imagenet"` has other numbers of images than the official one; `Task.dataset`
            then says `"imagenet-subset-<number of training images>"`.
    """
    dataset = "imagenet" if dataset is None else dataset
    if image_size < 16:
        raise ValueError(f"image_size is {image_size}: expected at least 16 pixels")
    root, train, val = _folders(dataset, data_root)
    sizes = {"training images": len(train), "validation images": len(val)}
    named = honest_name(dataset, root, sizes, _OFFICIAL.get(dataset, {}))
    pool, test = read_splits(
        train.samples,
        val.samples,
        lambda sample: Path(sample[0]),
        lambda part: torch.tensor([label for _, label in part]),
        size=(image_size, image_size),
        pool_size=pool_size,
        split_seed=split_seed,
    )
    return Task(
        name=dataset,
        dataset=named,
        pool=pool,
        test=test,
        num_outputs=len(train.classes),
        augment=FlipAndCrop(padding=image_size // 8),
    )


def _folders(dataset: str, data_root: str | os.PathLike[str] | None) -> tuple[Path, Any, Any]:
    """(Where the data is, torchvision's `ImageFolder` of its training images, that of its validation images)."""
    from torchvision.datasets import ImageFolder

    root = find_dataset(FileDataset(dataset, dataset, {"train": "", "val": ""}), data_root)
    try:
        train, val = (ImageFolder(str(root / part)) for part in ("train", "val"))
    except (FileNotFoundError, OSError) as error:
        raise DatasetUnavailable(f"{root} cannot be read as folders of classes: {error}") from error
    if train.classes != val.classes:
        differing = sorted(set(train.classes) ^ set(val.classes))
        raise DatasetUnavailable(
            f"train and val in {root} have other classes: {', '.join(differing[:5])} are in one of them only"
        )
    return root, train, val
