"""Classification of images, with the library's tasks and augmentation."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from benchmarks.lot.problem import Batch, Problem, Reader, Reading, Role, Split
from benchmarks.lot_images.networks import PLAIN, make_network, of_share
from teachenv.experiment.precision import has_bfloat16
from teachenv.randomness import Purpose, generator
from teachenv.tasks import Task, make_task

_EVALUATION_BATCH = 500


class Images:
    """A task's images by what they are for; `valid` is drawn from the pool, the same for all seeds."""

    def __init__(self, task: Task, valid_size: float) -> None:
        order = generator(0, Purpose.SPLIT).permutation(len(task.pool[1]))
        valid_count = max(1, round(valid_size * len(order)))
        self.task = task
        self.train = tuple(tensor[np.sort(order[valid_count:])] for tensor in task.pool)
        self.valid = tuple(tensor[np.sort(order[:valid_count])] for tensor in task.pool)
        self.test = task.test


@functools.lru_cache(maxsize=4)
def _images(name: str, valid_size: float, label_noise: float, options: tuple[tuple[str, Any], ...]) -> Images:
    task = make_task(name, **dict(options))
    return Images(task.with_label_noise(label_noise, "symmetric", seed=0) if label_noise else task, valid_size)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, for_students: bool, samples: int) -> np.ndarray:
    return generator(seed, Purpose.BATCHES, 2 * epoch + for_students).permutation(samples)


class ImageReader(Reader):
    """Calls image classifiers in a precision."""

    def __init__(self, precision: str) -> None:
        self.autocast = precision == "bfloat16"

    def __call__(self, network: nn.Module, inputs: torch.Tensor) -> Reading:
        """A classifier's logits, in float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = network(inputs.contiguous(memory_format=torch.channels_last))
        return Reading(logits.float())


@dataclass(frozen=True)
class ImageProblem(Problem):
    """A data set and how it is learned.

    Attributes:
        task: a name in `teachenv.tasks.TASKS`.
        model: the teacher, a name in `NETWORKS`.
        student: likewise the students' network; None: the teacher's.
        task_options: the task's options: `dataset`, `pool_size`, `image_size`.
        batch_size: images in a minibatch.
        augment: whether images are cropped and flipped.
        valid_size: which part of the pool the validation data are.
        dropout: share of the hidden units that networks drop; see `make_network` for which networks have it.
        label_noise: share of the pool's labels, validation data included, that are wrong: any other class.
        shuffled: part of the training images whose labels are shuffled among them.
    """

    task: str
    model: str
    student: str | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float = field(default=1e-4, kw_only=True)
    batch_size: int = 128
    augment: bool = True
    valid_size: float = 0.1
    dropout: float = 0.0
    label_noise: float = 0.0
    shuffled: float = 0.0

    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    nesterov: ClassVar[bool] = True

    @property
    def data(self) -> Images:
        """The images, read once in a process."""
        options = {**self.task_options, "data_root": self.data_root}
        return _images(self.task, self.valid_size, self.label_noise, tuple(sorted(options.items())))

    @property
    def dataset(self) -> str:
        """What the data really is."""
        return self.data.task.dataset

    @property
    def title(self) -> str:
        """The teacher's network in words."""
        return self.model if self.student is None else f"{self.model}, students {self.student}"

    @property
    def precision(self) -> str:
        """The precision in which networks are called: bfloat16 for deep ones where this machine is fast at it."""
        return "bfloat16" if has_bfloat16() and self.model not in PLAIN else "float32"

    def with_students(self, share: float) -> Problem:
        """The problem with students of the model's kind and a share of its parameters."""
        student = of_share(self.model, share, self.shape, self.data.task.num_outputs)
        return replace(self, student=None if student == self.model else student)

    def network(self, role: Role) -> nn.Module:
        """Makes a network, initialised from torch's global generator."""
        name = self.student if role == "student" and self.student is not None else self.model
        network = make_network(name, self.shape, self.data.task.num_outputs, self.dropout)
        return network.to(memory_format=torch.channels_last)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        return tuple(self.data.train[0].shape[1:])

    @property
    def steps(self) -> int:
        """The number of minibatches in an epoch."""
        return max(1, len(self.data.train[1]) // self.batch_size)

    def labels(self, seed: int) -> torch.Tensor:
        """The labels that are learned: the training images' own, but for the shuffled ones."""
        labels: torch.Tensor = self.data.train[1]
        if not self.shuffled:
            return labels
        rng = generator(seed, Purpose.SPLIT)
        chosen = rng.permutation(len(labels))[: round(self.shuffled * len(labels))]
        labels = labels.clone()
        labels[chosen] = labels[rng.permutation(chosen)]
        return labels

    def batch(self, seed: int, step: int, *, for_students: bool) -> Batch:
        """A minibatch of an epoch's order, each image once; the students' own has an order of its own."""
        images, labels, order = self.data.train[0], self.labels(seed), self.chosen(seed, step, for_students)
        chosen = images[order]
        if self.augment and self.data.task.augment is not None:
            chosen = self.data.task.augment(chosen, generator(seed, Purpose.AUGMENTATION, 2 * step + for_students))
        return chosen, labels[order]

    def chosen(self, seed: int, step: int, for_students: bool) -> np.ndarray:
        """The places of a minibatch's images among the training images."""
        epoch, place = divmod(step, self.steps)
        order = _order(seed, epoch, for_students, len(self.data.train[1]))
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def read(self, network: nn.Module, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The logits (n, classes) of a network on a split that is not augmented, and its labels (n,), part by part."""
        images, labels = getattr(self.data, split)
        for some, of_them in zip(*(torch.split(part, _EVALUATION_BATCH) for part in (images, labels)), strict=True):
            yield self.logits(network, some), of_them

    def evaluate(self, network: nn.Module, split: Literal["valid", "test"]) -> float:
        """Measures the accuracy."""
        images, labels = getattr(self.data, split)
        return float((self.logits(network, images).argmax(-1) == labels).double().mean())

    def logits(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """A network's logits of many images in evaluation mode, in which it is left."""
        network.eval()
        read = self.reader()
        with torch.no_grad():
            return torch.cat([read(network, part).logits for part in torch.split(images, _EVALUATION_BATCH)])

    def reader(self) -> Reader:
        """Makes the reader, which calls networks in the problem's precision."""
        return ImageReader(self.precision)
