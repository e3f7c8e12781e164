"""Object detection: which objects an image shows, and where; on default boxes (`teachenv.tasks.boxes`).

Data: `"shapes"`, drawn from a seed (`teachenv.tasks.shapes`), 64×64 pixels; `"coco"`, anything in COCO's layout
(`train2017`, `val2017`, `annotations/instances_{train,val}2017.json`), and `"coco128"`, its excerpt of 128 images, in
the same layout, 96×96; `"voc2012"`, PASCAL VOC 2012, 96×96.
Photographs are resized without regard to their proportions, as in SSD.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from teachenv.data import FileDataset, find_dataset
from teachenv.data.reading import honest_name
from teachenv.errors import unknown_name
from teachenv.tasks.annotations import Photograph, read_coco, read_voc, resized_objects
from teachenv.tasks.average_precision import Rules
from teachenv.tasks.base import Task
from teachenv.tasks.boxes import BoxDecisions, Objects, packed
from teachenv.tasks.photographs import read_splits, voc
from teachenv.tasks.shapes import CLASSES, draw_scenes
from teachenv.tasks.splits import Split

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_SIZES = {"shapes": 64, "coco": 96, "coco128": 96, "voc2012": 96}
_OFFICIAL = {
    "coco": {"train images": 118_287, "val images": 5_000, "train objects": 860_001, "val objects": 36_781},
    "coco128": {"train images": 128},
    "voc2012": {"train images": 5_717, "val images": 5_823},
}


def detection(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
    image_size: int | None = None,
) -> Task:
    """Makes a detection task: inputs `(n, 3, side, side)` float32, targets as `packed` makes them.

    The pool is the training images, what is tested on the validation images. Regions of several objects (COCO's crowds)
    and objects marked as difficult (VOC) are void for detections of their class, each by the rules of its data: see
    `teachenv.tasks.average_precision`.

    Args:
        data_root: where the files are; None for the usual places (see `teachenv.data.root`).
        dataset: `"shapes"` (the default), `"coco"`, `"coco128"` or `"voc2012"`.
        pool_size: number of labelled images, drawn at random; None for all, of shapes for 600.
        split_seed: seed of that draw, and of the shapes.
        image_size: side of the images in pixels, a multiple of 32; None: see the module.

    Raises:
        DatasetUnavailable: the files are not on this machine and cannot be downloaded, or one is damaged.
        ValueError: an argument is not as above.

    Warns:
        UserWarning: there are other images than in the official release; `Task.dataset` then says
            `"coco-subset-<number of images>"`. Also where objects lie outside of their images.
    """
    dataset = "shapes" if dataset is None else dataset
    if dataset not in _SIZES:
        raise unknown_name("dataset for task 'detection'", dataset, list(_SIZES))
    size = _SIZES[dataset] if image_size is None else image_size
    if size < 32 or size % 32:
        raise ValueError(f"image_size is {size}: expected a multiple of 32")
    if dataset == "shapes":
        streams = (np.random.default_rng(part) for part in np.random.SeedSequence(split_seed).spawn(2))
        counts = (600 if pool_size is None else pool_size, 200)
        pool, test = (_scenes(n, size, rng) for n, rng in zip(counts, streams, strict=True))
        return _task(dataset, dataset, pool, test, BoxDecisions(len(CLASSES) + 1, size))
    rules: Rules = "voc" if dataset == "voc2012" else "coco"
    train, val, classes, data_name = _voc(data_root) if dataset == "voc2012" else _coco(dataset, data_root)
    pool, test = read_splits(
        train,
        val,
        lambda photograph: photograph.path,
        lambda part: packed(resized_objects(part, size), size, rules),
        size=(size, size),
        pool_size=pool_size,
        split_seed=split_seed,
    )
    return _task(dataset, data_name, pool, test, BoxDecisions(classes, size, rules))


def _task(dataset: str, data_name: str, pool: Split, test: Split, decisions: BoxDecisions) -> Task:
    most = max(pool[1].shape[1], test[1].shape[1])
    pool, test = ((images, F.pad(t, (0, 0, 0, most - t.shape[1]))) for images, t in (pool, test))
    return Task(
        name=f"detection-{dataset}",
        dataset=data_name,
        pool=pool,
        test=test,
        num_outputs=decisions.num_classes,
        decisions=decisions,
    )


def _scenes(count: int, size: int, rng: np.random.Generator) -> Split:
    scenes = draw_scenes(count, size, rng)
    objects = (
        Objects(torch.from_numpy(boxes[labels > 0]), torch.from_numpy(labels[labels > 0]))
        for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True)
    )
    return torch.from_numpy(scenes.images), packed(objects, size)


def _coco(
    dataset: str, data_root: str | os.PathLike[str] | None
) -> tuple[list[Photograph], list[Photograph], int, str]:
    """(pool, test, number of classes, name) in COCO's layout."""
    names = {part: f"annotations/instances_{part}2017.json" for part in ("train", "val")}
    files = FileDataset(
        title={"coco": "COCO", "coco128": "COCO128"}[dataset],
        folder=dataset,
        files={**dict.fromkeys(names.values(), ""), "train2017": "", "val2017": ""},
        hint="cocodataset.org has the images and annotations of 2017.",
    )
    root = find_dataset(files, data_root)
    pool, categories = read_coco(root / names["train"], root / "train2017")
    test, _ = read_coco(root / names["val"], root / "val2017", categories)
    sizes = {"train images": len(pool), "val images": len(test)}
    for part, photographs in (("train", pool), ("val", test)):
        sizes[f"{part} objects"] = sum(len(photograph.labels) for photograph in photographs)
    return pool, test, len(categories) + 1, honest_name(dataset, root, sizes, _OFFICIAL[dataset])


def _voc(data_root: str | os.PathLike[str] | None) -> tuple[list[Photograph], list[Photograph], int, str]:
    """(pool, test, number of classes, name) by the lists of torchvision's reader."""
    from torchvision.datasets import VOCDetection

    parts, name = voc(VOCDetection, "Main", data_root, _OFFICIAL["voc2012"])
    pool, test = (
        [read_voc(Path(xml), Path(i), VOC_CLASSES) for xml, i in zip(part.annotations, part.images, strict=True)]
        for part in parts
    )
    return pool, test, len(VOC_CLASSES) + 1, name
