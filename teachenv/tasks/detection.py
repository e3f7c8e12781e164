"""Object detection: which objects an image shows, and where; as SSD (Liu et al. 2016) puts it, on default boxes.

A fixed set of default boxes covers the image; each is classified, as one of the classes or as ground (class 0), and
moved towards the object that it belongs to. Which box belongs to which object is fixed by their overlap, so it is
worked out once, and a target is a plain tensor. Boxes, matching and coding are torchvision's.

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
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou

from teachenv.data import FileDataset, find_dataset
from teachenv.errors import DatasetUnavailable, unknown_name
from teachenv.students.detection import RATIOS, grids
from teachenv.students.functional import Prediction
from teachenv.tasks.base import VOID, Measure, Split, Task, subset_indices
from teachenv.tasks.decisions import Decided, Decisions
from teachenv.tasks.photographs import named, read_images, standardized, voc_root
from teachenv.tasks.shapes import CLASSES, draw_scenes

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_SIZES = {"shapes": 64, "coco": 96, "coco128": 96, "voc2012": 96}
_OFFICIAL = {"coco": 118_287, "coco128": 128, "voc2012": 5_717}  # images of the pool
_SCALES = [0.15, 0.3, 0.6, 0.95]  # of default boxes on the three grids, and beyond the last, as parts of the image
_OVERLAP = 0.5
_NEGATIVES = 3  # for each box with an object, as in SSD
_CODE = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))  # SSD's


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: (objects, 4), left, top, right, bottom in pixels.
        labels: (objects,), 1 to C − 1; `VOID` for a region whose objects are not told apart.
    """

    boxes: torch.Tensor
    labels: torch.Tensor


@functools.cache
def default_boxes(size: int) -> torch.Tensor:
    """SSD's default boxes for square images, (boxes, 4) in pixels."""
    maps = [torch.zeros(1, 1, side, side) for side in grids(size)]
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    made: torch.Tensor = DefaultBoxGenerator(RATIOS, scales=_SCALES)(images, maps)[0]
    return made


def matched(objects: Objects, size: int) -> torch.Tensor:
    """What each default box is to predict, (boxes, 5): its label, and the code of the way to its object.

    A box belongs to the object that it overlaps most if that is by at least a half, and each object has at least the
    box that overlaps it most. Boxes that lie in a void region by half, and belong to no object, are void.
    """
    boxes = default_boxes(size)
    target = torch.zeros(len(boxes), 5)
    void = objects.labels == VOID
    if void.any():
        target[(box_iou(objects.boxes[void], boxes) >= _OVERLAP).any(0), 0] = VOID
    truths, labels = objects.boxes[~void], objects.labels[~void]
    if len(truths):
        owner = SSDMatcher(_OVERLAP)(box_iou(truths, boxes))
        mine = owner >= 0
        target[mine, 0] = labels[owner[mine]].to(target.dtype)
        target[mine, 1:] = _CODE.encode_single(truths[owner[mine]], boxes[mine])
    return target


def packed(scenes: Iterable[Objects], size: int) -> torch.Tensor:
    """Targets of images, (n, boxes + most objects, 5): what `matched` gives, and then the objects themselves.

    A row of an object is its label and its box; rows of label 0 are none. The objects are there for the evaluation.
    """
    rows = [
        (matched(scene, size), torch.cat([scene.labels.unsqueeze(1).to(torch.float32), scene.boxes], 1))
        for scene in scenes
    ]
    most = max(len(objects) for _, objects in rows)
    return torch.stack([torch.cat([target, F.pad(own, (0, 0, 0, most - len(own)))]) for target, own in rows])


class BoxDecisions(Decisions):
    """Each default box is classified; the rest of the loss moves the boxes of objects, by smooth L1 on their codes.

    SSD takes, of the boxes of ground, the three times as many that are hardest. Here all of them count, together as
    much as three times the boxes of objects: which ones are hardest would depend on the loss that the teacher changes.

    Args:
        num_classes: C, with the ground.
        size: side of the images in pixels.
    """

    def __init__(self, num_classes: int, size: int) -> None:
        """Makes the default boxes."""
        self.num_classes, self.size = num_classes, size
        self.boxes = len(default_boxes(size))

    def output_shape(self, num_classes: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C + 4, boxes)."""
        return (num_classes + 4, self.boxes)

    def measure(self, num_classes: int, temperature: float) -> Measure:
        """See `DetectionMeasure`."""
        return DetectionMeasure(self, temperature)

    def __call__(self, prediction: Prediction, targets: torch.Tensor) -> Decided:
        """The boxes, image by image."""
        logits, codes, labels, wanted = self.read(prediction.outputs, targets)
        mine, ground = (labels > 0).to(logits.dtype), (labels == 0).to(logits.dtype)
        count = mine.sum().clamp(min=1)
        weights = mine + ground * _NEGATIVES * count / ground.sum().clamp(min=1)
        distance = F.smooth_l1_loss(codes, wanted, reduction="none").sum(1)
        rest = (mine * distance).sum() / weights.sum().clamp(min=1e-12)
        return Decided(replace(prediction, outputs=logits, weights=weights), labels.clamp(min=0), rest)

    def read(
        self, outputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(logits, codes, labels, codes that are right) of all boxes of all images, the boxes of an image together."""
        each = outputs.movedim(1, 2).reshape(-1, self.num_classes + 4)
        wanted = targets[:, : self.boxes].reshape(-1, 5)
        return each[:, : self.num_classes], each[:, self.num_classes :], wanted[:, 0].long(), wanted[:, 1:]


class DetectionMeasure(Measure):
    """How well default boxes are classified and placed; mean average precision in the evaluation.

    The objective is ½ mean over boxes of objects of p_y · IoU(moved box, object) + ½ mean over the others of p_0, p the
    probabilities at temperature τ: a stand-in, for mean average precision ranks whole images' boxes and has no
    gradient. The score is the same with p_y = 1 for the most probable class and IoU = 1 from one half on.

    Args:
        decisions: how outputs are read.
        temperature: τ.
    """

    feature_names = ("dev_found", "dev_ground")

    def __init__(self, decisions: BoxDecisions, temperature: float = 0.2) -> None:
        """Checks the temperature."""
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        self.decisions, self.temperature = decisions, temperature

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The smoothed measure; outputs (n, C + 4, boxes), targets as `packed` makes them."""
        logits, codes, labels, wanted = self.decisions.read(outputs, targets)
        p = torch.softmax(logits / self.temperature, 1).gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
        of_objects, of_ground = self._halves(p, self._overlap(codes, wanted), labels)
        return (of_objects + of_ground) / 2

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean of the features."""
        return self.assess(outputs, targets)[0]

    def features(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Fractions of boxes that are right, among those of objects and among the others."""
        return self.assess(outputs, targets)[1]

    def assess(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(score, features)."""
        logits, codes, labels, wanted = self.decisions.read(outputs, targets)
        right = (logits.argmax(1) == labels).to(logits.dtype)
        near = (self._overlap(codes, wanted) >= _OVERLAP).to(logits.dtype)
        both = torch.stack(self._halves(right, near, labels))
        return both.mean(), both

    @property
    def reported(self) -> tuple[str, ...]:
        """`map` and `map_50`."""
        return ("map", "map_50")

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """COCO's mean average precision, by torchmetrics and pycocotools, of at most 100 boxes an image."""
        # Imported here, since it takes seconds that nobody should wait for who only trains.
        from torchmetrics.detection import MeanAveragePrecision

        metric = MeanAveragePrecision(backend="pycocotools")
        metric.warn_on_many_detections = False
        truths = []
        for rows in targets[:, self.decisions.boxes :]:
            known = rows[rows[:, 0] > 0]
            truths.append({"boxes": known[:, 1:].float(), "labels": known[:, 0].long()})
        metric.update([detections(self.decisions, each) for each in outputs], truths)
        found = metric.compute()
        return {name: max(float(found[name]), 0.0) for name in self.reported}

    def _halves(
        self, p: torch.Tensor, overlap: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean over boxes of objects of p · overlap, mean over boxes of ground of p)."""
        mine, ground = (labels > 0).to(p.dtype), (labels == 0).to(p.dtype)
        return (mine * p * overlap).sum() / mine.sum().clamp(min=1), (ground * p).sum() / ground.sum().clamp(min=1)

    def _overlap(self, codes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Intersection over union of each moved box with where it should be."""
        boxes = default_boxes(self.decisions.size).to(codes)
        boxes = boxes.repeat(len(codes) // len(boxes), 1)
        (here, there) = (_CODE.decode_single(code, boxes) for code in (codes, wanted))
        inner = (torch.minimum(here[:, 2:], there[:, 2:]) - torch.maximum(here[:, :2], there[:, :2])).clamp(min=0)
        areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (here, there)]
        both: torch.Tensor = inner.prod(1)
        either: torch.Tensor = areas[0] + areas[1] - both
        return both / either.clamp(min=1e-6)


def detections(
    decisions: BoxDecisions, outputs: torch.Tensor, least: float = 0.01, overlap: float = 0.45, most: int = 100
) -> dict[str, torch.Tensor]:
    """What one image's outputs say: boxes in pixels, scores and labels, the most certain first.

    Args:
        decisions: how outputs are read.
        outputs: (C + 4, boxes).
        least: boxes of lower probability are no detections (SSD's value).
        overlap: of two detections of one class that overlap more, the less certain one is dropped (SSD's value).
        most: how many are kept.
    """
    codes = outputs[decisions.num_classes :].t()
    probabilities = torch.softmax(outputs[: decisions.num_classes], 0)[1:]
    moved = _CODE.decode_single(codes, default_boxes(decisions.size).to(outputs)).clamp(0, decisions.size)
    labels, places = torch.nonzero(probabilities > least, as_tuple=True)
    scores, boxes = probabilities[labels, places].float(), moved[places].float()
    kept = batched_nms(boxes, scores, labels, overlap)[:most]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept] + 1}


def detection(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
    image_size: int | None = None,
) -> Task:
    """Make a detection task: inputs ``(n, 3, side, side)`` float32, targets as ``packed`` makes them.

    The pool is the training images, what is tested on the validation images; objects marked as difficult (VOC) and
    regions of several objects (COCO's crowds) are void.

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
        return _task(dataset, dataset, pool, test, len(CLASSES) + 1, size)
    read = _voc if dataset == "voc2012" else functools.partial(_coco, dataset)
    (pool_paths, pool_objects), (test_paths, test_objects), classes = read(data_root, size)
    found = named(dataset, len(pool_paths), _OFFICIAL[dataset])
    if pool_size is not None:
        chosen = subset_indices(len(pool_paths), pool_size, split_seed)
        pool_paths, pool_objects = [pool_paths[i] for i in chosen], [pool_objects[i] for i in chosen]
    images = standardized(*(read_images(paths, (size, size)) for paths in (pool_paths, test_paths)))
    pool, test = (
        (torch.from_numpy(i), packed(o, size)) for i, o in zip(images, (pool_objects, test_objects), strict=True)
    )
    return _task(dataset, found, pool, test, classes, size)


def _task(dataset: str, found: str, pool: Split, test: Split, classes: int, size: int) -> Task:
    most = max(pool[1].shape[1], test[1].shape[1])
    pool, test = ((images, F.pad(t, (0, 0, 0, most - t.shape[1]))) for images, t in (pool, test))
    return Task(
        name=f"detection-{dataset}",
        dataset=found,
        pool=pool,
        test=test,
        num_outputs=classes,
        decisions=BoxDecisions(classes, size),
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

    def refuse(directory: Path) -> None:
        raise OSError("teachenv does not download COCO")

    names = {part: f"annotations/instances_{part}2017.json" for part in ("train", "val")}
    files = FileDataset(
        title={"coco": "COCO", "coco128": "COCO128"}[dataset],
        folder=dataset,
        files={**dict.fromkeys(names.values(), ""), "train2017": "", "val2017": ""},
        download=refuse,
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
            labels = torch.tensor([VOID if a["iscrowd"] else numbers[a["category_id"]] for a in own])
            paths.append(Path(found.root) / entry["file_name"])
            objects.append(_resized(boxes, labels, entry["width"], entry["height"], size))
        return paths, objects

    return labelled(sets[0]), labelled(sets[1]), len(numbers) + 1


def _quietly(make: type, *arguments: str) -> Any:
    """Calls what prints how it gets on (pycocotools)."""
    with contextlib.redirect_stdout(io.StringIO()):
        return make(*arguments)


def _voc(data_root: str | os.PathLike[str] | None, size: int) -> tuple[Labelled, Labelled, int]:
    """(pool, test, number of classes) by torchvision's reader."""
    from torchvision.datasets import VOCDetection

    root = voc_root(data_root)
    try:
        parts = [VOCDetection(str(root), year="2012", image_set=part) for part in ("train", "val")]
    except (OSError, RuntimeError) as error:
        raise DatasetUnavailable(f"PASCAL VOC 2012 in {root} cannot be read: {error}") from error
    numbers = {name: i for i, name in enumerate(VOC_CLASSES, 1)}

    def labelled(found: VOCDetection) -> Labelled:
        paths, objects = [Path(image) for image in found.images], []
        for i in range(len(paths)):
            annotation = found[i][1]["annotation"]
            own = annotation["object"]
            edges = [[float(o["bndbox"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax")] for o in own]
            boxes = torch.tensor(edges).view(-1, 4)
            boxes[:, :2] -= 1  # VOC counts pixels from 1, and the last one is inside
            labels = torch.tensor([VOID if o.get("difficult") == "1" else numbers[o["name"]] for o in own])
            shape = annotation["size"]
            objects.append(_resized(boxes, labels, int(shape["width"]), int(shape["height"]), size))
        return paths, objects

    return labelled(parts[0]), labelled(parts[1]), len(numbers) + 1


def _resized(boxes: torch.Tensor, labels: torch.Tensor, width: int, height: int, size: int) -> Objects:
    """Boxes in pixels of the resized image; those without area are no objects."""
    boxes = (boxes * torch.tensor([size / width, size / height]).repeat(2)).clamp(0, size)
    whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Objects(boxes[whole], labels[whole].long())
