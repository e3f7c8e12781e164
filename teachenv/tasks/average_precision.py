"""Mean average precision of detections, by the rules of the data that they are judged on.

Both rules take a class's detections of all images, the most certain first, and give each to an object of that class.
Both leave void regions out: a detection there is neither right nor wrong. They differ in what a void region is.

`"coco"` (Lin et al. 2014), by pycocotools: a void region is a crowd, whose objects are not told apart. A detection that
belongs to no object is left out if at least the threshold's share *of the detection* lies in the crowd (pycocotools'
`iscrowd`), however many others do. Precision is read at 101 values of recall.

`"voc"` (Everingham et al. 2010), as the devkit of PASCAL VOC 2012: a void region is one object, marked as difficult. A
detection is compared with the object that it overlaps most, by intersection over union, difficult or not; if that is a
difficult one it is left out, however many others are. Average precision is the area under the curve of the best
precision at each recall and beyond.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from teachenv.optional import needed_for

with needed_for("detection"):
    import pycocotools  # noqa: F401  whoever lacks it is told before a training run, not after it

Rules = Literal["coco", "voc"]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps from which on a detection is right; in float64, as pycocotools has them."""

MOST = 100
"""Detections of an image that count."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


Detections = dict[str, torch.Tensor]
"""The detections of one image, the most certain first: `boxes`, (detections, 4), left, top, right, bottom in pixels,
`scores`, (detections,) within [0, 1], and `labels`, (detections,), 1 to C − 1."""


@dataclass(frozen=True)
class Truth:
    """The objects and void regions of one image.

    Attributes:
        boxes: (objects, 4), left, top, right, bottom in pixels.
        labels: (objects,), 1 to C − 1; 0 for a void region that is one for detections of every class.
        void: (objects,), which are void regions.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    void: torch.Tensor

    def of(self, label: int) -> Truth:
        """The objects and void regions that count for detections of one class."""
        mine = (self.labels == label) | (self.void & (self.labels == 0))
        return Truth(self.boxes[mine], self.labels[mine], self.void[mine])


def average_precisions(
    rules: Rules, detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int
) -> Floats:
    """The mean over classes of average precision at each of `THRESHOLDS`, (10,).

    Classes without objects, void ones apart, are left out; where that leaves none, the precision is 0.

    Args:
        rules: whose rules count, `"coco"` or `"voc"`; the top of this file has both.
        detections: those of each image.
        truths: the objects of each image.
        num_classes: number of classes C, with the ground.
    """
    each = (_coco if rules == "coco" else _voc)(detections, truths, num_classes)
    return each.mean(0) if len(each) else np.zeros(len(THRESHOLDS))


def _coco(detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int) -> Floats:
    """Average precision of each class with objects, (classes, thresholds), by pycocotools."""
    # Imported here, since nobody should wait for it who only trains.
    from pycocotools.cocoeval import COCOeval

    objects = (
        {"category_id": category, **_rectangle(i, box), "iscrowd": int(void)}
        for i, one in enumerate(truths)
        for box, label, void in zip(one.boxes.tolist(), one.labels.tolist(), one.void.tolist(), strict=True)
        for category in ([label] if label else range(1, num_classes))
    )
    scored_boxes = (
        {"category_id": label, **_rectangle(i, box), "score": score}
        for i, one in enumerate(detections)
        for box, score, label in zip(*(one[part].tolist() for part in ("boxes", "scores", "labels")), strict=True)
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it says how it gets on
        evaluation = COCOeval(*(_indexed(rows, len(truths), num_classes) for rows in (objects, scored_boxes)), "bbox")
        evaluation.params.iouThrs = THRESHOLDS
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: Floats = evaluation.eval["precision"][..., 0, 0]  # (thresholds, recalls, classes), −1: no objects
    return np.asarray(precision.mean(1).T[(precision > -1).all((0, 1))])


def _rectangle(image: int, box: Sequence[float]) -> dict[str, Any]:
    left, top, right, bottom = box
    sides = right - left, bottom - top
    return {"image_id": image, "bbox": [left, top, *sides], "area": sides[0] * sides[1]}


def _indexed(annotations: Iterator[dict[str, Any]], images: int, num_classes: int) -> Any:
    """The annotations as pycocotools' record."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": c} for c in range(1, num_classes)],
        # Numbered from 1, since 0 is pycocotools' sign for no match.
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco


def _voc(detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int) -> Floats:
    """Average precision of each class with objects, (classes, thresholds), as VOC's devkit computes it."""
    each = []
    for label in range(1, num_classes):
        of_class = [truth.of(label) for truth in truths]
        objects = sum(int((~truth.void).sum()) for truth in of_class)
        if objects:
            boxes, scores = ([one[part][one["labels"] == label] for one in detections] for part in ("boxes", "scores"))
            judged = [_judged(*pair) for pair in zip(boxes, of_class, strict=True)]
            right, wrong = (np.concatenate(part, 1) for part in zip(*judged, strict=True))
            order = np.argsort(-torch.cat(scores).numpy(), kind="stable")
            each.append(_area(right[:, order], wrong[:, order], objects))
    return np.array(each)


def _judged(boxes: torch.Tensor, truth: Truth) -> tuple[Flags, Flags]:
    """Which detections of an image and a class are right and which wrong, each (thresholds, detections).

    The other ones are left out. Of several detections of one object the most certain one is right.
    """
    if not len(truth.boxes):
        wrong = np.ones((len(THRESHOLDS), len(boxes)), dtype=bool)
        return ~wrong, wrong
    overlap, nearest = (part.numpy() for part in box_iou(boxes.double(), truth.boxes.double()).max(1))
    near = overlap >= THRESHOLDS[:, None]
    void = truth.void.numpy()
    right = np.zeros_like(near)
    for i in np.flatnonzero(~void):
        mine = near & (nearest == i)
        right |= mine & (mine.cumsum(1) == 1)
    return right, ~right & ~(near & void[nearest])


def _area(right: Flags, wrong: Flags, objects: int) -> Floats:
    """Area under precision, made monotone, over recall, (thresholds,)."""
    hits, misses = right.cumsum(1), wrong.cumsum(1)
    precision = hits / np.maximum(hits + misses, 1)
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    return np.asarray((np.diff(hits, axis=1, prepend=0) / objects * best).sum(1))
