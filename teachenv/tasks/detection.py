"""Object detection: which objects an image shows, and where; on default boxes (`teachenv.tasks.boxes`).

Data: `"shapes"`, drawn from a seed (`teachenv.tasks.shapes`), 64×64 pixels; `"coco"`, anything in COCO's layout
(`train2017`, `val2017`, `annotations/instances_{train,val}2017.json`), and `"coco128"`, its excerpt of 128 images, in
the same layout, 96×96; `"voc2012"`, PASCAL VOC 2012, 96×96.
Photographs are resized without regard to their proportions, as in SSD.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from teachenv.data import FileDataset, find_dataset
from teachenv.errors import unknown_name
from teachenv.tasks.average_precision import Rules
from teachenv.tasks.base import Split, Task, subset_indices
from teachenv.tasks.boxes import BoxDecisions, Objects, packed
from teachenv.tasks.photographs import named, read_images, standardized, voc
from teachenv.tasks.shapes import CLASSES, draw_scenes

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_SIZES = {"shapes": 64, "coco": 96, "coco128": 96, "voc2012": 96}
_OFFICIAL = {"coco": 118_287, "coco128": 128, "voc2012": 5_717}  # images of the pool


def detection(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
    image_size: int | None = None,
) -> Task:
    """Make a detection task: inputs ``(n, 3, side, side)`` float32, targets as ``packed`` makes them.

    The pool is the training images, what is tested on the validation images. Regions of several objects (COCO's crowds)
    and objects marked as difficult (VOC) are void for detections of their class, each by the rules of its data: see
    ``teachenv.tasks.average_precision``.

    Args:
        data_root: Where the files are; None for the usual places (see ``teachenv.data.root``).
        dataset: ``"shapes"`` (the default), ``"coco"``, ``"coco128"`` or ``"voc2012"``.
        pool_size: Number of labelled images, drawn at random; None for all, of shapes for 600.
        split_seed: Seed of that draw, and of the shapes.
        image_size: Side of the images in pixels, a multiple of 32; None: see the module.

    Raises:
        DatasetUnavailable: If the files are not on this machine and cannot be downloaded, or one is damaged.
        ValueError: If an argument is not as above.

    Warns:
        UserWarning: If there are fewer images than in the official release; ``Task.dataset`` then says
            ``"coco-subset-<number of images>"``.
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
    read = _voc if dataset == "voc2012" else functools.partial(_coco, dataset)
    rules: Rules = "voc" if dataset == "voc2012" else "coco"
    (pool_paths, pool_objects), (test_paths, test_objects), classes = read(data_root, size)
    found = named(dataset, len(pool_paths), _OFFICIAL[dataset])
    if pool_size is not None:
        chosen = subset_indices(len(pool_paths), pool_size, split_seed)
        pool_paths, pool_objects = [pool_paths[i] for i in chosen], [pool_objects[i] for i in chosen]
    images = standardized(*(read_images(paths, (size, size)) for paths in (pool_paths, test_paths)))
    pool, test = (
        (torch.from_numpy(i), packed(o, size, rules)) for i, o in zip(images, (pool_objects, test_objects), strict=True)
    )
    return _task(dataset, found, pool, test, BoxDecisions(classes, size, rules))


def _task(dataset: str, found: str, pool: Split, test: Split, decisions: BoxDecisions) -> Task:
    most = max(pool[1].shape[1], test[1].shape[1])
    pool, test = ((images, F.pad(t, (0, 0, 0, most - t.shape[1]))) for images, t in (pool, test))
    return Task(
        name=f"detection-{dataset}",
        dataset=found,
        pool=pool,
        test=test,
        num_outputs=decisions.num_classes,
        decisions=decisions,
    )


def _scenes(count: int, size: int, rng: np.random.Generator) -> Split:
    scenes = draw_scenes(count, size, rng)
    seen = (
        Objects(torch.from_numpy(boxes[labels > 0]), torch.from_numpy(labels[labels > 0]))
        for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True)
    )
    return torch.from_numpy(scenes.images), packed(seen, size)


Labelled = tuple[list[Path], list[Objects]]


def _coco(dataset: str, data_root: str | os.PathLike[str] | None, size: int) -> tuple[Labelled, Labelled, int]:
    """(pool, test, number of classes) in COCO's layout; its category numbers have gaps, ours do not."""
    from torchvision.datasets import CocoDetection

    names = {part: f"annotations/instances_{part}2017.json" for part in ("train", "val")}
    files = FileDataset(
        title={"coco": "COCO", "coco128": "COCO128"}[dataset],
        folder=dataset,
        files={**dict.fromkeys(names.values(), ""), "train2017": "", "val2017": ""},
        hint="cocodataset.org has the images and annotations of 2017.",
    )
    root = find_dataset(files, data_root)
    sets = [_quietly(CocoDetection, str(root / f"{part}2017"), str(root / name)) for part, name in names.items()]
    numbers = {category: i for i, category in enumerate(sorted(sets[0].coco.cats), 1)}

    def labelled(found: CocoDetection) -> Labelled:
        paths, objects = [], []
        for image in found.ids:
            entry = found.coco.loadImgs(image)[0]
            own = found.coco.loadAnns(found.coco.getAnnIds(image))
            boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float32).view(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            labels = torch.tensor([numbers[a["category_id"]] for a in own])
            crowd = torch.tensor([bool(a.get("iscrowd")) for a in own])
            paths.append(Path(found.root) / entry["file_name"])
            objects.append(_resized(boxes, labels, crowd, entry["width"], entry["height"], size))
        return paths, objects

    return labelled(sets[0]), labelled(sets[1]), len(numbers) + 1


def _quietly(make: type, *arguments: str) -> Any:
    """Calls what prints how it gets on (pycocotools)."""
    with contextlib.redirect_stdout(io.StringIO()):
        return make(*arguments)


def _voc(data_root: str | os.PathLike[str] | None, size: int) -> tuple[Labelled, Labelled, int]:
    """(pool, test, number of classes) by torchvision's reader."""
    from torchvision.datasets import VOCDetection

    parts = voc(VOCDetection, data_root)
    numbers = {name: i for i, name in enumerate(VOC_CLASSES, 1)}

    def labelled(found: VOCDetection) -> Labelled:
        paths, objects = [Path(image) for image in found.images], []
        for i in range(len(paths)):
            annotation = found[i][1]["annotation"]
            own = annotation["object"]
            edges = [[float(o["bndbox"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax")] for o in own]
            boxes = torch.tensor(edges).view(-1, 4)
            boxes[:, :2] -= 1  # VOC counts pixels from 1, and the last one is inside
            labels = torch.tensor([numbers[o["name"]] for o in own])
            difficult = torch.tensor([o.get("difficult") == "1" for o in own])
            shape = annotation["size"]
            objects.append(_resized(boxes, labels, difficult, int(shape["width"]), int(shape["height"]), size))
        return paths, objects

    return labelled(parts[0]), labelled(parts[1]), len(numbers) + 1


def _resized(
    boxes: torch.Tensor, labels: torch.Tensor, void: torch.Tensor, width: int, height: int, size: int
) -> Objects:
    """Boxes in pixels of the resized image; those without area are no objects."""
    boxes = (boxes * torch.tensor([size / width, size / height]).repeat(2)).clamp(0, size)
    whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Objects(boxes[whole], labels[whole].long(), void[whole].bool())
