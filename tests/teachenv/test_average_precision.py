"""Average precision of detections against pycocotools on COCO's files, and against VOC's devkit written down anew."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

from teachenv.tasks.average_precision import Rules
from teachenv.tasks.base import VOID
from teachenv.tasks.boxes import BoxDecisions, DetectionMeasure, Objects, default_boxes, detections, packed

SIZE = 64
BOXES = default_boxes(SIZE)


@dataclass(frozen=True)
class Scene:
    """Images with what is in them, and what a student says of them."""

    objects: list[Objects]
    outputs: torch.Tensor
    classes: int


@st.composite
def scenes(draw: st.DrawFn, most_classes: int = 4) -> Scene:
    """Objects near default boxes, some twice, some beyond the image; crowds of any extent; outputs that find some."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    classes, images = draw(st.integers(2, most_classes)), draw(st.integers(1, 3))
    void, twice, doubt = (draw(st.sampled_from(parts)) for parts in ((0, 0.4, 1), (0, 0.5), (0, 1, 3)))
    of_everything = draw(st.booleans())
    objects, outputs = [], torch.randn(images, classes + 4, len(BOXES), generator=rng) * 0.3
    outputs[:, 0] += draw(st.sampled_from((0, 4, 40)))  # how many detections there are
    for i in range(images):
        count = draw(st.integers(0, 5))
        chosen = torch.randint(len(BOXES), (count,), generator=rng)
        boxes = BOXES[chosen] + torch.randn(count, 4, generator=rng)
        labels = torch.randint(1, classes, (count,), generator=rng)
        wide = torch.rand(count, generator=rng) < 0.3
        boxes[wide] += torch.tensor([-9.0, -9.0, 9.0, 9.0])
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        again = torch.rand(count, generator=rng) < twice
        boxes, labels = torch.cat([boxes, boxes[again]]), torch.cat([labels, labels[again]])
        is_void = torch.rand(len(labels), generator=rng) < void
        said = torch.where(torch.rand(count, generator=rng) < 0.7, labels[:count], 1)
        outputs[i, said, chosen] += 44 - doubt * torch.rand(count, generator=rng) * 4
        if of_everything:
            labels = torch.where(is_void & (torch.rand(len(labels), generator=rng) < 0.5), VOID, labels)
        objects.append(Objects(boxes, labels, is_void))
    return Scene(objects, outputs, classes)


def reported(scene: Scene, rules: Rules = "coco") -> dict[str, float]:
    targets = packed(scene.objects, SIZE, rules)
    return DetectionMeasure(BoxDecisions(scene.classes, SIZE, rules)).report(scene.outputs, targets)


def record(annotations: list[dict[str, Any]], scene: Scene) -> COCO:
    made = COCO()
    made.dataset = {
        "images": [{"id": i} for i in range(len(scene.objects))],
        "categories": [{"id": c} for c in range(1, scene.classes)],
        "annotations": annotations,
    }
    made.createIndex()
    return made


def by_pycocotools(scene: Scene) -> tuple[float, float]:
    """COCO's own summary, with nothing set; as many detections as there are."""
    objects: list[dict[str, Any]] = []
    for i, one in enumerate(scene.objects):
        for box, label, void in zip(
            one.boxes.double().numpy(), one.labels.tolist(), one.is_void().tolist(), strict=True
        ):
            for category in range(1, scene.classes) if label == VOID else [label]:
                number = len(objects) + 1
                bbox = [*box[:2], *(box[2:] - box[:2])]
                entry = {"id": number, "image_id": i, "category_id": category, "bbox": bbox, "iscrowd": int(void)}
                objects.append({**entry, "area": bbox[2] * bbox[3]})
    found = []
    for i, outputs in enumerate(scene.outputs):
        said = detections(BoxDecisions(scene.classes, SIZE), outputs, most=10**6 if scene.classes == 2 else 100)
        for box, score, label in zip(*(said[k].double().numpy() for k in ("boxes", "scores", "labels")), strict=True):
            bbox = [*box[:2], *(box[2:] - box[:2])]
            found.append({"image_id": i, "category_id": int(label), "bbox": bbox, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = record(objects, scene)
        evaluation = COCOeval(truth, truth.loadRes(found) if found else record([], scene), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return max(evaluation.stats[0], 0.0), max(evaluation.stats[1], 0.0)


@settings(max_examples=30)
@given(scenes())
def test_the_report_is_that_of_pycocotools(scene: Scene) -> None:
    assert tuple(reported(scene).values()) == pytest.approx(by_pycocotools(scene), abs=1e-9)


def by_the_devkit(scene: Scene, threshold: float) -> float:
    """VOCevaldet.m and VOCap.m of the devkit of 2012, line by line; mean over classes with objects."""
    said = [detections(BoxDecisions(scene.classes, SIZE, "voc"), outputs) for outputs in scene.outputs]
    difficult = [one.is_void().tolist() for one in scene.objects]
    overlaps = [
        box_iou(one["boxes"].double(), objects.boxes.double()).tolist()
        for one, objects in zip(said, scene.objects, strict=True)
    ]
    each = []
    for label in range(1, scene.classes):
        of_class = [[one in (label, VOID) for one in objects.labels.tolist()] for objects in scene.objects]
        positive = sum(
            mine and not void for i in range(len(said)) for mine, void in zip(of_class[i], difficult[i], strict=True)
        )
        if not positive:
            continue
        taken = [[False] * len(one) for one in of_class]
        found = [
            (score, i, k)
            for i, one in enumerate(said)
            for k, (score, c) in enumerate(zip(one["scores"].tolist(), one["labels"].tolist(), strict=True))
            if c == label
        ]
        hits, misses, recalls, precisions = 0, 0, [0.0], [0.0]
        for _, i, k in sorted(found, key=lambda one: -one[0]):
            most, best = -1.0, -1
            for j, share in enumerate(overlaps[i][k]):
                if of_class[i][j] and share > most:
                    most, best = share, j
            if most < threshold:
                misses += 1
            elif not difficult[i][best]:
                hits, misses = (hits, misses + 1) if taken[i][best] else (hits + 1, misses)
                taken[i][best] = True
            recalls.append(hits / positive)
            precisions.append(hits / max(hits + misses, 1))
        recalls.append(1.0)
        precisions.append(0.0)
        for j in reversed(range(len(precisions) - 1)):
            precisions[j] = max(precisions[j], precisions[j + 1])
        steps = [j for j in range(1, len(recalls)) if recalls[j] != recalls[j - 1]]
        each.append(sum((recalls[j] - recalls[j - 1]) * precisions[j] for j in steps))
    return sum(each) / len(each) if each else 0.0


@settings(max_examples=30)
@given(scenes(most_classes=3))
def test_the_report_on_voc_is_that_of_its_devkit(scene: Scene) -> None:
    each = [by_the_devkit(scene, threshold) for threshold in np.linspace(0.5, 0.95, 10)]
    report = reported(scene, "voc")
    assert report["map_50"] == pytest.approx(each[0], abs=1e-9)
    assert report["map"] == pytest.approx(np.mean(each), abs=1e-9)


# --- scenes whose precision is known ---------------------------------------------------------------------------------


def scene_of(said: dict[int, tuple[int, float]], objects: Objects, classes: int = 3) -> Scene:
    """One image, of which a student says: at this box stands this class, so surely."""
    outputs = torch.zeros(1, classes + 4, len(BOXES))
    outputs[:, 0] = 40
    for place, (label, logit) in said.items():
        outputs[0, 0, place], outputs[0, label, place] = 0, logit
    return Scene([objects], outputs, classes)


def apart() -> tuple[int, int]:
    """Two default boxes in the image that do not overlap."""
    places = [i for i, box in enumerate(BOXES) if float(box.min()) >= 0 and float(box.max()) <= SIZE]
    return places[0], next(i for i in places if float(box_iou(BOXES[places[:1]], BOXES[[i]])) == 0)


@pytest.mark.parametrize("rules", ["coco", "voc"])
@pytest.mark.parametrize(
    ("label", "void", "precision"),
    [
        (1, True, 1.0),  # a void region of the class that was found there
        (VOID, True, 1.0),  # of every class
        (VOID, None, 1.0),
        (2, True, 0.5),  # of another class: a wrong detection
    ],
)
def test_what_is_found_in_a_void_region_counts_for_nothing(
    rules: Rules, label: int, void: bool | None, precision: float
) -> None:
    here, there = apart()
    flags = None if void is None else torch.tensor([False, void])
    objects = Objects(BOXES[[here, there]], torch.tensor([1, label]), flags)
    scene = scene_of({here: (1, 2.0), there: (1, 5.0)}, objects)
    assert reported(scene, rules) == pytest.approx({"map": precision, "map_50": precision})


def test_torchmetrics_agrees_on_a_crowd() -> None:
    from torchmetrics.detection import MeanAveragePrecision  # takes seconds, in every process that collects tests

    here, there = apart()
    boxes, crowd = BOXES[[here, there]], torch.tensor([False, True])
    metric = MeanAveragePrecision(backend="pycocotools")
    metric.update(
        [{"boxes": boxes, "scores": torch.tensor([0.88, 0.99]), "labels": torch.tensor([1, 1])}],
        [{"boxes": boxes, "labels": torch.tensor([1, 1]), "iscrowd": crowd.long()}],
    )
    scene = scene_of({here: (1, 42.0), there: (1, 45.0)}, Objects(boxes, torch.tensor([1, 1]), crowd))
    computed = metric.compute()
    assert reported(scene) == pytest.approx({name: float(computed[name]) for name in ("map", "map_50")}, abs=1e-6)


@pytest.mark.parametrize(("rules", "precision"), [("coco", 1.0), ("voc", 0.5)])
def test_a_small_box_lies_in_a_crowd_but_is_no_difficult_object(rules: Rules, precision: float) -> None:
    here, there = apart()
    around = BOXES[there] + torch.tensor([0.0, 0.0, 30.0, 30.0])
    objects = Objects(torch.stack([BOXES[here], around]), torch.tensor([1, 1]), torch.tensor([False, True]))
    scene = scene_of({here: (1, 2.0), there: (1, 5.0)}, objects)
    assert reported(scene, rules)["map_50"] == pytest.approx(precision)


@pytest.mark.parametrize("rules", ["coco", "voc"])
def test_a_class_with_void_regions_alone_is_left_out(rules: Rules) -> None:
    here, there = apart()
    objects = Objects(BOXES[[here, there]], torch.tensor([1, 2]), torch.tensor([False, True]))
    scene = scene_of({here: (1, 5.0), there: (2, 5.0)}, objects)
    assert reported(scene, rules) == pytest.approx({"map": 1.0, "map_50": 1.0})


@pytest.mark.parametrize("rules", ["coco", "voc"])
@pytest.mark.parametrize("objects", [Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)), None])
def test_without_objects_the_precision_is_zero(rules: Rules, objects: Objects | None) -> None:
    everything = Objects(torch.tensor([[0.0, 0.0, SIZE, SIZE]]), torch.tensor([VOID]))
    scene = scene_of({apart()[0]: (1, 5.0)}, everything if objects is None else objects)
    assert reported(scene, rules) == {"map": 0.0, "map_50": 0.0}


def test_of_many_detections_the_surest_hundred_count() -> None:
    upright_or_flat = [i for i in range(256) if i % 4 >= 2]  # those of the finest grid that overlap little
    scene = scene_of({i: (1, 6.0 - 0.01 * i) for i in upright_or_flat}, Objects(BOXES[:0], torch.zeros(0)))
    surest = detections(BoxDecisions(3, SIZE), scene.outputs[0], most=10**6)["boxes"]
    last, beyond = (
        reported(replace(scene, objects=[Objects(surest[[rank]], torch.tensor([1]))]))["map_50"] for rank in (99, 100)
    )
    assert last == pytest.approx(1 / 100)
    assert beyond == 0
