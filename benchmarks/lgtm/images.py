"""Distillation of small images with wrong labels, and few right ones for feedback: perceptrons, in seconds."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.lgtm.setting import Parts, Setting
from meta.distillation import Batch
from teachenv.experiment.precision import MatmulPrecision
from teachenv.randomness import Purpose, generator
from teachenv.tasks import make_task

IMAGES = "mnist", "digits"
"""Names of the tasks: MNIST at half of its resolution (14×14), and the digits that come with the library (8×8)."""


@dataclass(frozen=True, kw_only=True)
class ImageSetting(Setting):
    """Images, and perceptrons with one hidden layer; the samples are drawn anew for each seed.

    Attributes:
        width: hidden units of students.
        teacher_width: hidden units of teachers.
        noise_kind: how labels are wrong, `"symmetric"` or `"pair"`; see `teachenv.tasks.noise`.
        train_size: samples to train on.
        feedback_size: samples of feedback.
        dev_size: samples of dev.
        data_root: where the files are.
    """

    width: int = 100
    teacher_width: int = 200
    noise_kind: str = "symmetric"
    train_size: int = 2_000
    feedback_size: int = 200
    dev_size: int = 2_000
    data_root: str | None = None

    precision: ClassVar[MatmulPrecision] = "highest"

    @property
    def name(self) -> str:
        """Data, kind of noise, and its share."""
        return f"{self.task}-{self.noise_kind}-{100 * self.label_noise:g}"

    @property
    def title(self) -> str:
        """The widths of teacher and student."""
        return f"perceptrons, {self.teacher_width} to {self.width}"

    @property
    def size(self) -> int:
        """The students' width."""
        return self.width

    def parts(self, seed: int) -> Parts:
        """The images, which the seed draws from the pool."""
        dataset, pool, test, classes = _images(self.task, self.data_root)
        order = torch.from_numpy(generator(seed, Purpose.SPLIT).permutation(len(pool.labels)))
        sizes = [self.feedback_size, self.dev_size, self.train_size]
        feedback, dev, train = map(pool.at, torch.split(order[: sum(sizes)], sizes))
        parts = Parts(dataset, classes, _scores, train, feedback, dev, dev, test)
        return parts.corrupted(self.label_noise, self.noise_kind, seed)

    def network(self, size: int | None, classes: int) -> nn.Module:
        """Makes a perceptron whose classifier begins at zero, as in ProKT and LGTM."""
        pixels, width = _images(self.task, self.data_root).test.inputs.shape[1], size or self.teacher_width
        classifier = nn.Linear(width, classes)
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        return nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), classifier)

    def between(self, teacher: nn.Module) -> int:
        """Half of the way from the student's width to the teacher's."""
        return (self.width + self.teacher_width) // 2

    @property
    def config(self) -> Mapping[str, Any]:
        """The setting without the folder."""
        return {key: value for key, value in asdict(self).items() if key != "data_root"}


def noisy_images(task: str, label_noise: float | None, data_root: str | None, *, small: bool) -> list[ImageSetting]:
    """A task with each kind of wrong labels.

    Args:
        task: a name in `IMAGES`.
        label_noise: share of labels that are any other class; None: 0.3 of those, and 0.4 that are the next class.
        data_root: where the files are.
        small: whether training runs are so short that they only prove the wiring.
    """
    noises = {"symmetric": 0.3, "pair": 0.4} if label_noise is None else {"symmetric": label_noise}
    sizes = (2_000, 200, 2_000) if task == "mnist" else (600, 60, 300)
    drawn: dict[str, Any] = dict(zip(("train_size", "feedback_size", "dev_size"), sizes, strict=True))
    lengths: dict[str, Any] = {"epochs": 2, "evaluations": 2} if small else {"epochs": 20, "evaluations": 8}
    plain = ImageSetting(task=task, batch_size=50, watched=0, data_root=data_root, **lengths, **drawn)
    return [replace(plain, noise_kind=kind, label_noise=share) for kind, share in noises.items()]


class _Images(NamedTuple):
    dataset: str
    pool: Batch
    test: Batch
    classes: int


@functools.lru_cache(maxsize=2)
def _images(name: str, data_root: str | None) -> _Images:
    """A task's images as vectors, read once in a process; large ones with means of four pixels each."""
    task = make_task(name, data_root=data_root)
    large = task.test[0].ndim == 4
    halved = partial(F.avg_pool2d, kernel_size=2) if large else nn.Identity()
    pool, test = (Batch(halved(images).flatten(1), labels) for images, labels in (task.pool, task.test))
    return _Images(f"{task.dataset}-14x14" if large else task.dataset, pool, test, task.num_outputs)


def _scores(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {"accuracy": float(np.mean(predictions == labels))}
