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
from typing import get_args

import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_area, box_iou

from teachenv.students.detection import RATIOS, grids
from teachenv.students.prediction import Prediction
from teachenv.tasks.average_precision import MOST, Detections, Rules, Truth, average_precisions
from teachenv.tasks.base import VOID
from teachenv.tasks.decisions import Decided, Decisions
from teachenv.tasks.measures import Measure

_SCALES = [0.15, 0.3, 0.6, 0.95]  # of default boxes on the three grids, and beyond the last, as parts of the image
_OVERLAP = 0.5
_NEGATIVES = 3  # for each box with an object, as in SSD
_CODE = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))  # SSD's


@dataclass(frozen=True)
class Objects:
    """The objects of one image, and its void regions, in which nothing that is found counts as right or wrong.

    What a void region is depends on the data, and so does what lies in one (`Rules`): a crowd of COCO, by the share of
    a box that it covers; a difficult object of VOC, by intersection over union.

    Attributes:
        boxes: (objects, 4), left, top, right, bottom in pixels.
        labels: (objects,), 1 to C − 1; `VOID` for a region that is void for every class.
        void: (objects,), which are void regions, for detections of their class alone, besides those labelled `VOID`;
            None: no others.

    Raises:
        ValueError: the parts do not fit together, a box has no area, or a label is no class.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    void: torch.Tensor | None = None

    def __post_init__(self) -> None:
        shapes = [tuple(part.shape) for part in (self.boxes, self.labels, self.void) if part is not None]
        if shapes[0][1:] != (4,) or any(shape != shapes[0][:1] for shape in shapes[1:]):
            raise ValueError(
                f"boxes, labels and void are {', '.join(map(str, shapes))}: expected (objects, 4) and (objects,)"
            )
        flat = ~(self.boxes[:, 2:] > self.boxes[:, :2]).all(1)
        if flat.any():
            raise ValueError(
                f"the box {self.boxes[flat][0].tolist()} has no area: expected left < right and top < bottom"
            )
        unknown = (self.labels < 1) & (self.labels != VOID)
        if unknown.any():
            raise ValueError(
                f"found the label {self.labels[unknown][0].item()}: expected 1, 2, … or {VOID}, a void region"
            )

    def is_void(self) -> torch.Tensor:
        """(objects,), which are void regions, for one class or for all."""
        void = self.labels == VOID
        return void if self.void is None else void | self.void.bool()

    def rows(self) -> torch.Tensor:
        """(objects, 5): label and box; the label of a region that is void for class c is `VOID` − c, for all `VOID`."""
        labels = torch.where(self.is_void(), VOID - self.labels.clamp(min=0), self.labels)
        return torch.cat([labels.unsqueeze(1).to(torch.float32), self.boxes.to(torch.float32)], 1)


def truth(rows: torch.Tensor) -> Truth:
    """The objects behind `Objects.rows`; rows of label 0 are none."""
    rows = rows[rows[:, 0] != 0]
    labels = rows[:, 0].long()
    return Truth(rows[:, 1:], torch.where(labels > 0, labels, VOID - labels), labels < 0)


@functools.cache
def default_boxes(size: int) -> torch.Tensor:
    """SSD's default boxes for square images, (boxes, 4) in pixels."""
    maps = [torch.zeros(1, 1, side, side) for side in grids(size)]
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    boxes: torch.Tensor = DefaultBoxGenerator(RATIOS, scales=_SCALES)(images, maps)[0]
    return boxes


def matched(objects: Objects, size: int, rules: Rules = "coco") -> torch.Tensor:
    """What each default box is to predict, (boxes, 5): its label, and the code of the way to its object.

    As in SSD each object first takes a box, the pair that overlaps most before all others, so that two objects never
    share one: an object is without a box only where all that it overlaps are taken. A box that is left belongs to the
    object that it overlaps most if that is by at least a half. One that belongs to no object is void if it lies in a
    void region by at least a half: of its own area for a crowd (`rules="coco"`), of the area of both together for a
    difficult object (`"voc"`).
    """
    boxes, void = default_boxes(size), objects.is_void()
    target = torch.zeros(len(boxes), 5)
    if void.any():
        share = (_covered if rules == "coco" else box_iou)(objects.boxes[void], boxes)
        target[(share >= _OVERLAP).any(0), 0] = VOID
    truths, labels = objects.boxes[~void], objects.labels[~void]
    if len(truths):
        owner = _owners(box_iou(truths, boxes))
        mine = owner >= 0
        target[mine, 0] = labels[owner[mine]].to(target.dtype)
        target[mine, 1:] = _CODE.encode_single(truths[owner[mine]], boxes[mine])
    return target


def _owners(overlap: torch.Tensor) -> torch.Tensor:
    """The object that each box belongs to, −1 for none, from overlaps (objects, boxes)."""
    most, owner = overlap.max(0)
    owner = owner.where(most >= _OVERLAP, -1)
    left = overlap.clone()
    for _ in range(len(overlap)):
        best = int(left.argmax())
        mine, box = divmod(best, overlap.shape[1])
        if left[mine, box] <= 0:
            break
        owner[box] = mine
        left[mine], left[:, box] = 0, 0
    return owner


def _covered(regions: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The part of each box that lies in each region, (regions, boxes)."""
    inner = torch.minimum(regions[:, None, 2:], boxes[:, 2:]) - torch.maximum(regions[:, None, :2], boxes[:, :2])
    share: torch.Tensor = inner.clamp(min=0).prod(2) / box_area(boxes)
    return share


def packed(scenes: Iterable[Objects], size: int, rules: Rules = "coco") -> torch.Tensor:
    """Targets of images, (n, boxes + most objects, 5): what `matched` gives, and then the objects themselves.

    An object's row is one of `Objects.rows`; rows of label 0 are none. The objects are there for the evaluation.
    """
    rows = [(matched(scene, size, rules), scene.rows()) for scene in scenes]
    most = max(len(objects) for _, objects in rows)
    return torch.stack(
        [torch.cat([target, F.pad(objects, (0, 0, 0, most - len(objects)))]) for target, objects in rows]
    )


class BoxDecisions(Decisions):
    """Each default box is classified; the rest of the loss moves the boxes of objects, by smooth L1 on their codes.

    SSD takes, of the boxes of ground, the three times as many that are hardest. Here all of them count, together as
    much as three times the boxes of objects: which ones are hardest would depend on the loss that the teacher changes.

    Args:
        num_classes: number of classes C, with the ground.
        size: side of the images in pixels.
        rules: those of the data, by which `DetectionMeasure` reports average precision.
    """

    def __init__(self, num_classes: int, size: int, rules: Rules = "coco") -> None:
        if rules not in get_args(Rules):
            raise ValueError(f"rules are {rules!r}: expected one of {', '.join(map(repr, get_args(Rules)))}")
        self.num_classes, self.size, self.rules = num_classes, size, rules
        self.boxes = len(default_boxes(size))

    def output_shape(self, num_classes: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample's outputs, (C + 4, boxes)."""
        return (num_classes + 4, self.boxes)

    def measure(self, num_classes: int, temperature: float) -> Measure:
        """The measure of detectors, a `DetectionMeasure`."""
        return DetectionMeasure(self, temperature)

    def __call__(self, prediction: Prediction, targets: torch.Tensor) -> Decided:
        """The boxes as decisions, image by image."""
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
    gradient. The score is the same with p_y = 1 for the most probable class and IoU = 1 from one half on. Void boxes
    are in neither mean.

    Args:
        decisions: how outputs are read.
        temperature: temperature τ of the softmax.
    """

    feature_names = ("dev_found", "dev_ground")
    score_name = "box_accuracy"

    def __init__(self, decisions: BoxDecisions, temperature: float = 0.2) -> None:
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
        return DetectionMeasure.assess(self, outputs, targets)[0]

    def features(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Fractions of boxes that are right, among those of objects and among the others."""
        return DetectionMeasure.assess(self, outputs, targets)[1]

    def assess(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean of the features, and the features."""
        logits, codes, labels, wanted = self.decisions.read(outputs, targets)
        right = (logits.argmax(1) == labels).to(logits.dtype)
        near = (self._overlap(codes, wanted) >= _OVERLAP).to(logits.dtype)
        both = torch.stack(self._halves(right, near, labels))
        return both.mean(), both

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of what `report` gives: `map` and `map_50`."""
        return ("map", "map_50")

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Mean average precision over overlaps of 0.5, 0.55, … 0.95, and at 0.5, by the rules of the data.

        See `teachenv.tasks.average_precision`. Of each image at most 100 detections count (`detections`).
        """
        truths = [truth(rows.cpu()) for rows in targets[:, self.decisions.boxes :]]
        detected = [detections(self.decisions, each) for each in outputs.cpu()]
        each = average_precisions(self.decisions.rules, detected, truths, self.decisions.num_classes)
        return {"map": float(each.mean()), "map_50": float(each[0])}

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
    decisions: BoxDecisions, outputs: torch.Tensor, least: float = 0.01, overlap: float = 0.45, most: int = MOST
) -> Detections:
    """What one image's outputs say: boxes in pixels, scores and labels, the most certain first.

    Args:
        decisions: how outputs are read.
        outputs: the image's outputs, (C + 4, boxes).
        least: boxes of lower probability are no detections (SSD's value).
        overlap: where two detections of one class overlap more, the less certain one is dropped (SSD's value).
        most: how many detections are kept.
    """
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    codes = outputs[decisions.num_classes :].t()
    probabilities = torch.softmax(outputs[: decisions.num_classes], 0)[1:]
    moved = _CODE.decode_single(codes, default_boxes(decisions.size).to(outputs)).clamp(0, decisions.size)
    labels, places = torch.nonzero(probabilities > least, as_tuple=True)
    scores, boxes = probabilities[labels, places], moved[places]
    chosen = batched_nms(boxes, scores, labels, overlap)[:most]
    return {"boxes": boxes[chosen], "scores": scores[chosen], "labels": labels[chosen] + 1}
