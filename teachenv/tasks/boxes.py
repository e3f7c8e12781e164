"""Default boxes: what each is to predict, how predictions are read by losses, and how they are judged.

As SSD (Liu et al. 2016) puts detection: a fixed set of default boxes covers the image; each is classified, as one of
the classes or as ground (class 0), and moved towards the object that it belongs to. Which box belongs to which object
is fixed by their overlap, so it is worked out once, and a target is a plain tensor. Boxes, matching and coding are
torchvision's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou

from teachenv.students.detection import RATIOS, grids
from teachenv.students.functional import Prediction
from teachenv.tasks.base import VOID, Measure
from teachenv.tasks.decisions import Decided, Decisions

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
