"""Tasks: what students are trained on. The table below is the list; nothing is read before `make_task` is called."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.tasks.augmentation import FlipAndCrop
from teachenv.tasks.base import Augmentation, Task
from teachenv.tasks.measures import ClassificationMeasure, Measure
from teachenv.tasks.noise import NOISE_KINDS, corrupt_labels
from teachenv.tasks.splits import Split

__all__ = [
    "NOISE_KINDS",
    "TASKS",
    "Augmentation",
    "ClassificationMeasure",
    "FlipAndCrop",
    "Measure",
    "Split",
    "Task",
    "corrupt_labels",
    "make_task",
]

TASKS: dict[str, str] = {
    "detection": "teachenv.tasks.detection:detection",  # boxes of objects: shapes, COCO or VOC 2012
    "digits": "teachenv.tasks.digits:digits",  # 8x8 handwritten digits: 1,000 pool, 797 test
    "image-folder": "teachenv.tasks.image_folder:image_folder",  # photographs in folders of classes, as ImageNet
    "language": "teachenv.tasks.language:language",  # next tokens: Markov chains, Penn Treebank, WikiText-2, Multi30k
    "mnist": "teachenv.tasks.mnist:mnist",  # 28x28 handwritten digits: 60,000 pool, 10,000 test
    "cifar10": "teachenv.tasks.cifar:cifar10",  # 32x32 photographs, 10 classes: 50,000 pool, 10,000 test
    "cifar100": "teachenv.tasks.cifar:cifar100",  # 32x32 photographs, 100 classes: 50,000 pool, 10,000 test
    "segmentation": "teachenv.tasks.segmentation:segmentation",  # labels of pixels: shapes, CamVid or VOC 2012
    "translation": "teachenv.tasks.translation:translation",  # German to English: number words, Multi30k, IWSLT-14
    "synthetic": "teachenv.tasks.synthetic:synthetic",  # 32x32 procedural images, 10 classes: 5,000 pool, 1,000 test
    "wine": "teachenv.tasks.wine:wine",  # 13 measurements of wines of three growers: 128 pool, 50 test
}


OPTIONS_OF_ALL = ("data_root", "dataset", "pool_size", "split_seed")
"""What every named task takes."""


def make_task(
    name: str,
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
    **options: Any,
) -> Task:
    """Loads or makes a task by its name in `TASKS`.

    Args:
        name: a key of `TASKS`.
        data_root: directory of the task's files; None for `TEACHENV_DATA`, then the user cache. Tasks without
            files do not use it.
        dataset: data to use in place of the task's own: the CIFAR tasks accept `"synthetic"`. None for the own.
        pool_size: number of labelled samples in the pool; None for the task's default.
        split_seed: seed of the random part of that choice (see each task).
        **options: options of the named task alone: `image_size` of `"segmentation"`, `"detection"` and
            `"image-folder"`.

    Raises:
        TypeError: the task has no such option.
        ValueError: the name, the dataset or the pool size is not one that the task knows.
        DatasetUnavailable: the task's files are neither here nor downloadable, or damaged.
    """
    checks.known_options(f"task {name!r}", options, task_options(name))
    return _builder(name)(data_root=data_root, dataset=dataset, pool_size=pool_size, split_seed=split_seed, **options)


def task_options(name: str) -> dict[str, Any]:
    """A named task's own options, with their defaults.

    Raises:
        ValueError: an unknown name.
    """
    parameters = inspect.signature(_builder(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in OPTIONS_OF_ALL}


def _builder(name: str) -> Callable[..., Task]:
    if name not in TASKS:
        raise unknown_name("task", name, TASKS, "teachenv.TASKS")
    module, function = TASKS[name].split(":")
    build: Callable[..., Task] = getattr(importlib.import_module(module), function)
    return build
