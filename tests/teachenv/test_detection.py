"""Boxes of objects: what each default box is to predict, how that is judged, and where the data come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, nms

import teachenv
from teachenv import TeachEnv
from teachenv.losses import make_loss
from teachenv.students import Prediction, make_student
from teachenv.tasks import make_task
from teachenv.tasks.average_precision import Rules
from teachenv.tasks.base import VOID
from teachenv.tasks.boxes import (
    BoxDecisions,
    DetectionMeasure,
    Objects,
    default_boxes,
    detections,
    matched,
    packed,
)
from teachenv.tasks.detection import VOC_CLASSES

SIZE = 64
SMALL = {"pool_size": 30, "dev_size": 10, "batch_size": 4, "horizon": 3, "task_kwargs": {"image_size": 32}}


def made(**settings: Any) -> TeachEnv:
    env = gym.make("TeachDetection-v0", **{**SMALL, "learning_rate": 0.02, **settings}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


def scene(seed: int = 0, objects: int = 3) -> Objects:
    rng = torch.Generator().manual_seed(seed)
    corner = 36 * torch.rand(objects, 2, generator=rng)
    side = 10 + 18 * torch.rand(objects, 2, generator=rng)
    return Objects(torch.cat([corner, corner + side], 1), torch.randint(1, 4, (objects,), generator=rng))


def in_a_crowd(objects: Objects) -> Objects:
    """The same objects, the first of them twice, and a void region over a part of the image."""
    boxes = torch.cat([objects.boxes, objects.boxes[:1], torch.tensor([[20.0, 20.0, 60.0, 60.0]])])
    labels = torch.cat([objects.labels, objects.labels[:1]])
    return Objects(boxes, torch.cat([labels, torch.tensor([VOID])]))


def outputs_of(targets: torch.Tensor, classes: int = 4, certain: float = 20.0) -> torch.Tensor:
    """What a student that knows the targets says."""
    boxes = len(default_boxes(SIZE))
    labels = targets[:, :boxes, 0].long().clamp(min=0)
    logits = certain * F.one_hot(labels, classes).movedim(2, 1).to(targets.dtype)
    return torch.cat([logits, targets[:, :boxes, 1:].movedim(2, 1)], 1)


# --- targets ---------------------------------------------------------------------------------------------------------


def test_default_boxes_cover_the_image_on_three_grids() -> None:
    boxes = default_boxes(SIZE)
    assert len(boxes) == 4 * (8**2 + 4**2 + 2**2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres.min() >= 0
    assert centres.max() <= SIZE


def owners(overlap: torch.Tensor) -> dict[int, int]:
    """Which object's each box is: the pairs that overlap most first, each object once; then by at least a half."""
    taken: dict[int, int] = {}
    pairs = [(float(overlap[k, i]), k, i) for k in range(len(overlap)) for i in range(overlap.shape[1])]
    for share, k, i in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if share > 0 and i not in taken and k not in taken.values():
            taken[i] = k
    rest = {i: int(overlap[:, i].argmax()) for i in range(overlap.shape[1]) if i not in taken}
    return taken | {i: k for i, k in rest.items() if overlap[k, i] >= 0.5}


def of_two(*boxes: list[float]) -> Objects:
    return Objects(torch.tensor(boxes), torch.arange(1, len(boxes) + 1))


@pytest.mark.parametrize(
    "objects",
    [
        *(scene(seed) for seed in range(4)),
        scene(4, objects=40),
        of_two(
            [10.0, 10.0, 20.0, 20.0], [10.0, 10.0, 20.0, 20.0], [10.0, 10.0, 20.0, 20.0]
        ),  # one place, three objects
        of_two([8.0, 8.0, 12.0, 12.0], [8.0, 8.0, 11.0, 11.0]),  # small ones in one cell
        of_two([0.0, 0.0, 64.0, 64.0], [1.0, 1.0, 63.0, 63.0]),
    ],
)
def test_each_object_has_a_box_and_no_box_two_objects(objects: Objects) -> None:
    target, boxes = matched(objects, SIZE), default_boxes(SIZE)
    expected = owners(box_iou(objects.boxes, boxes))
    assert set(expected.values()) == set(range(len(objects.labels)))
    found = target[:, 0].nonzero().flatten().tolist()
    assert found == sorted(expected)
    for i in found:
        assert int(target[i, 0]) == int(objects.labels[expected[i]])
    mine = [expected[i] for i in found]
    moved = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(target[found, 1:], boxes[found])
    torch.testing.assert_close(moved, objects.boxes[mine], atol=1e-4, rtol=1e-4)


def test_more_objects_than_boxes_leave_no_box_alone() -> None:
    boxes = default_boxes(32)
    objects = Objects(torch.tensor([[0.0, 0.0, 32.0, 32.0]]).repeat(len(boxes) + 3, 1), torch.ones(len(boxes) + 3))
    assert (matched(objects, 32)[:, 0] == 1).all()


def test_an_object_beyond_all_boxes_has_none() -> None:
    assert not matched(Objects(torch.tensor([[400.0, 400.0, 420.0, 420.0]]), torch.tensor([1])), SIZE).any()


def test_an_image_without_objects_is_all_ground() -> None:
    assert not matched(Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)), SIZE).any()


@pytest.mark.parametrize("labels", [(VOID, 2), (1, 2)])
@pytest.mark.parametrize("region", [[0.0, 0.0, 40.0, 40.0], [-5.0, -5.0, 70.0, 70.0], [20.0, 3.0, 31.0, 60.0]])
@pytest.mark.parametrize("rules", ["coco", "voc"])
def test_boxes_within_a_void_region_are_void_unless_they_have_an_object(
    rules: Rules, region: list[float], labels: tuple[int, int]
) -> None:
    both = torch.tensor([region, [10.0, 10.0, 24.0, 24.0]])
    target = matched(Objects(both, torch.tensor(labels), torch.tensor([True, False])), SIZE, rules)
    object_alone = matched(Objects(both[1:], torch.tensor([2])), SIZE, rules)
    for box, row, expected in zip(default_boxes(SIZE), target, object_alone, strict=True):
        inner = (torch.minimum(box[2:], both[0, 2:]) - torch.maximum(box[:2], both[0, :2])).clamp(min=0).prod()
        area, other = ((each[2:] - each[:2]).prod() for each in (box, both[0]))
        is_void = inner / (area if rules == "coco" else area + other - inner) >= 0.5
        assert row.tolist() == (expected.tolist() if expected[0] > 0 or not is_void else [VOID, 0, 0, 0, 0])
    assert (target[:, 0] == VOID).any() == (rules == "coco" or region[2] == 40.0)


@pytest.mark.parametrize(
    ("boxes", "labels", "void", "message"),
    [
        ([[0, 0, 5, 5]], [1, 2], None, r"are \(1, 4\), \(2,\): expected \(objects, 4\)"),
        ([[0, 0, 5, 5]], [1], [False, True], r"are \(1, 4\), \(1,\), \(2,\): expected"),
        ([[0, 0, 5, 5], [3, 3, 3, 5]], [1, 1], None, r"\[3.0, 3.0, 3.0, 5.0\] has no area: expected left < right"),
        ([[0, 0, float("nan"), 5]], [1], None, "has no area"),
        ([[0, 0, 5, 5]], [0], None, "found the label 0: expected 1, 2, … or -1"),
        ([[0, 0, 5, 5]], [-2], None, "found the label -2"),
    ],
)
def test_objects_that_cannot_be_are_refused(
    boxes: list[list[float]], labels: list[int], void: list[bool] | None, message: str
) -> None:
    flags = None if void is None else torch.tensor(void)
    with pytest.raises(ValueError, match=message):
        Objects(torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels), flags)


def test_rules_are_those_of_a_data_set() -> None:
    with pytest.raises(ValueError, match="rules are 'lvis': expected one of 'coco', 'voc'"):
        BoxDecisions(4, SIZE, "lvis")  # type: ignore[arg-type]


# --- measure ---------------------------------------------------------------------------------------------------------


def test_a_student_that_knows_everything_is_perfect() -> None:
    targets = packed([scene(seed) for seed in range(4)], SIZE)
    measure = DetectionMeasure(BoxDecisions(4, SIZE))
    outputs = outputs_of(targets)
    score, features = measure.assess(outputs, targets)
    assert (float(score), features.tolist()) == (1.0, [1.0, 1.0])
    assert float(measure.objective(outputs, targets)) == pytest.approx(1.0, abs=1e-4)
    report = measure.report(outputs, targets)
    assert report["map_50"] == pytest.approx(1.0)
    assert report["map"] == pytest.approx(1.0)


def test_one_that_knows_nothing_finds_nothing() -> None:
    targets = packed([scene(seed) for seed in range(4)], SIZE)
    measure = DetectionMeasure(BoxDecisions(4, SIZE))
    ground = torch.zeros(4, 8, len(default_boxes(SIZE)))
    ground[:, 0] = 20.0
    assert measure.features(ground, targets).tolist() == [0.0, 1.0]
    assert measure.report(ground, targets) == {"map": 0.0, "map_50": 0.0}


def test_a_right_class_far_from_its_object_is_not_found() -> None:
    targets = packed([scene()], SIZE)
    outputs = outputs_of(targets)
    outputs[:, 4:6] += 30.0  # three widths away
    measure = DetectionMeasure(BoxDecisions(4, SIZE))
    assert measure.features(outputs, targets).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("crowded", [False, True])
def test_the_objective_has_right_derivatives(crowded: bool) -> None:
    targets = packed([in_a_crowd(scene()) if crowded else scene()], SIZE).double()
    measure = DetectionMeasure(BoxDecisions(4, SIZE), 1.0)
    rng = torch.Generator().manual_seed(0)
    outputs = torch.randn(1, 8, len(default_boxes(SIZE)), generator=rng, dtype=torch.float64).requires_grad_()
    direction = torch.randn(outputs.shape, generator=rng, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(measure.objective(outputs, targets), outputs)
    with torch.no_grad():
        ahead, behind = (measure.objective(outputs + step * direction, targets) for step in (1e-6, -1e-6))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-5)


def test_students_together_are_each_student() -> None:
    several = [packed([scene(2 * i), scene(2 * i + 1)], SIZE) for i in range(3)]
    outputs = torch.randn(3, 2, 8, len(default_boxes(SIZE)), generator=torch.Generator().manual_seed(0))
    measure, targets = DetectionMeasure(BoxDecisions(4, SIZE)), torch.stack(several)
    for method in ("objective", "score", "features"):
        together = torch.func.vmap(getattr(measure, method))(outputs, targets)
        alone = [getattr(measure, method)(*one) for one in zip(outputs, targets, strict=True)]
        torch.testing.assert_close(together, torch.stack(alone))


def test_detections_are_those_that_suppression_leaves() -> None:
    decisions = BoxDecisions(4, SIZE)
    outputs = 3 * torch.randn(8, decisions.boxes, generator=torch.Generator().manual_seed(1))
    found = detections(decisions, outputs, least=0.3, most=1000)
    probabilities = torch.softmax(outputs[:4], 0)[1:]
    assert (found["scores"].diff() <= 0).all()
    for label in (1, 2, 3):
        own = found["labels"] == label
        assert int((probabilities[label - 1] > 0.3).sum()) >= int(own.sum())
        assert len(nms(found["boxes"][own], found["scores"][own], 0.45)) == int(own.sum())
    assert len(detections(decisions, outputs, least=0.3, most=5)["scores"]) == 5


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bilinear", "dynamic-network", "sample-weights"])
def test_the_loss_weighs_ground_three_times_and_moves_boxes_of_objects(family: str) -> None:
    targets = packed([scene(0), in_a_crowd(scene(1))], SIZE).double()
    decisions, loss = BoxDecisions(4, SIZE), make_loss(family)
    outputs = torch.randn(2, 8, decisions.boxes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    action = torch.zeros(loss.action_size(4, 2), dtype=torch.float64)
    decided = decisions(Prediction(outputs), targets)
    found = loss(action, decided.prediction, decided.labels) + decided.rest
    labels = targets[:, : decisions.boxes, 0].long().reshape(-1)
    logits = outputs[:, :4].movedim(1, 2).reshape(-1, 4)
    mine, ground = labels > 0, labels == 0
    assert (labels == VOID).sum() > 50
    one = action[:1] if family == "sample-weights" else action
    of_objects, of_ground = (loss(one, Prediction(logits[which]), labels[which]) for which in (mine, ground))
    codes = outputs[:, 4:].movedim(1, 2).reshape(-1, 4)
    wanted = targets[:, : decisions.boxes, 1:].reshape(-1, 4)
    distance = F.smooth_l1_loss(codes[mine], wanted[mine], reduction="sum") / mine.sum()
    torch.testing.assert_close(found, (of_objects + 3 * of_ground + distance) / 4)


def test_void_boxes_count_for_nothing() -> None:
    """Neither in the loss nor in what a student is judged by, and no gradient goes there."""
    targets = packed([in_a_crowd(scene())], SIZE)
    decisions = BoxDecisions(4, SIZE)
    outputs = torch.randn(1, 8, decisions.boxes, generator=torch.Generator().manual_seed(0)).requires_grad_()
    void = (targets[0, : decisions.boxes, 0] == VOID).nonzero().flatten()
    assert len(void) > 50
    changed = outputs.detach().clone()
    changed[:, :, void] = 5 * torch.randn(1, 8, len(void), generator=torch.Generator().manual_seed(1))
    loss, measure = make_loss("bilinear"), decisions.measure(4, 0.2)
    values = []
    for each in (outputs, changed):
        decided = decisions(Prediction(each), targets)
        value = loss(torch.zeros(16), decided.prediction, decided.labels) + decided.rest
        values.append(torch.stack([value, measure.objective(each, targets), measure.score(each, targets)]))
    assert torch.equal(*values)
    (gradient,) = torch.autograd.grad(values[0][:2].sum(), outputs)
    assert not gradient[..., void].any()
    assert gradient.isfinite().all()


def test_images_without_objects_have_a_loss_and_a_measure() -> None:
    empty = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    targets = packed([empty, empty], SIZE)
    decisions = BoxDecisions(4, SIZE)
    outputs = torch.randn(2, 8, decisions.boxes, requires_grad=True)
    decided = decisions(Prediction(outputs), targets)
    value = make_loss("bilinear")(torch.zeros(16), decided.prediction, decided.labels) + decided.rest
    value.backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    measure = decisions.measure(4, 0.2)
    assert measure.objective(outputs, targets).isfinite()
    assert measure.report(outputs.detach(), targets) == {"map": 0.0, "map_50": 0.0}


def test_a_student_learns_to_find_shapes() -> None:
    env = made(pool_size=150, horizon=120, batch_size=8, student_kwargs={"width": 8}, learning_rate=0.05)
    env.reset(seed=0)
    before = env.evaluate("test")
    ended = False
    while not ended:
        *_, ended, _, info = env.step(np.zeros(16, np.float32))
    after = env.evaluate("test")
    assert not info["diverged"]
    assert after["test_objective"] > before["test_objective"] + 0.05
    assert after["test_map_50"] > before["test_map_50"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": "lenet"}, r"outputs of shape \(8,\) for a sample, but task .* needs \(8, 84\)"),
        ({"dataset": "objects365"}, "unknown dataset for task 'detection' 'objects365'"),
        ({"task_kwargs": {"image_size": 40}}, "expected a multiple of 32"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_the_network_wants_whole_grids() -> None:
    assert make_student("ssd", (3, 64, 64), 8)()(torch.rand(2, 3, 64, 64)).shape == (2, 8, 336)
    with pytest.raises(ValueError, match="multiple of 32, found 48"):
        make_student("ssd", (3, 48, 48), 8)()


# --- photographs -----------------------------------------------------------------------------------------------------


def picture(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three images in COCO's layout, with a crowd, a box without area, and an image without objects."""
    (tmp_path / "annotations").mkdir()
    for part, count in (("train", 2), ("val", 1)):
        images, annotations = [], []
        for i in range(count):
            picture(tmp_path / f"{part}2017" / f"{i}.jpg", 80, 40)
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 40})
        boxes = [([10, 5, 40, 20], 7, 0), ([0, 0, 80, 40], 3, 1), ([3, 3, 0, 5], 3, 0)]
        for number, (box, category, crowd) in enumerate(boxes):
            annotations.append(
                {"id": number, "image_id": 0, "category_id": category, "bbox": box, "iscrowd": crowd, "area": 1}
            )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 3}, {"id": 7}]}
        (tmp_path / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
    return tmp_path


def test_coco_is_read_resized_and_renumbered(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="found 2 train images, official 118,287"):
        task = make_task("detection", dataset="coco", data_root=coco, image_size=64)
    assert (task.dataset, task.num_outputs) == ("coco-subset-2", 3)
    inputs, targets = task.pool
    assert inputs.shape == (2, 3, 64, 64)
    boxes = len(default_boxes(64))
    objects = targets[0, boxes:]
    assert [2.0, 8.0, 8.0, 40.0, 40.0] in objects.tolist()  # category 7 is class 2; pixels of the resized image
    assert [VOID - 1.0, 0.0, 0.0, 64.0, 64.0] in objects.tolist()  # a crowd of category 3, which is class 1
    assert (objects[:, 0] != 0).sum() == 2
    assert (targets[0, :boxes, 0] >= VOID).all()
    assert not targets[1].any()
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:the files in .* are not the official")
def test_an_environment_of_photographs_works(coco: Path) -> None:
    env = made(dataset="coco", data_root=str(coco), pool_size=None, dev_size=1, batch_size=1, task_kwargs={})
    observation, info = env.reset(seed=0)
    assert info["dataset"] == "coco-subset-2"
    assert observation.shape == (5,)
    env.step(np.zeros(9, np.float32))
    assert 0 <= env.evaluate("test")["test_map"] <= 1


def test_absent_data_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(teachenv.DatasetUnavailable, match=r"(?s)COCO was not found.*cocodataset\.org"):
        make_task("detection", dataset="coco", data_root=tmp_path)


def test_voc_is_read_by_torchvision(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for part in ("train", "val"):
        picture(root / "JPEGImages" / f"{part}0.jpg", 100, 50)
        objects = "".join(
            f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
            f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for name, hard, box in (("dog", 0, (1, 1, 50, 50)), ("sofa", 1, (51, 1, 100, 50)))
        )
        size = "<size><width>100</width><height>50</height><depth>3</depth></size>"
        (root / "Annotations" / f"{part}0.xml").write_text(f"<annotation>{size}{objects}</annotation>")
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{part}0\n")
    with pytest.warns(UserWarning, match="1 train images, official 5,717"):
        task = make_task("detection", dataset="voc2012", data_root=tmp_path, image_size=64)
    assert (task.dataset, task.num_outputs) == ("voc2012-subset-1", 21)
    objects = task.pool[1][0, len(default_boxes(64)) :].tolist()
    assert [VOC_CLASSES.index("dog") + 1, 0, 0, 32, 64] in objects
    assert [VOID - VOC_CLASSES.index("sofa") - 1, 32, 0, 64, 64] in objects
    decisions = task.decisions
    assert isinstance(decisions, BoxDecisions)
    assert decisions.rules == "voc"
