"""What methods of distillation are compared on: data by what they are for, networks, and how long trainings are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from meta.distillation import Batch
from teachenv.experiment.precision import MatmulPrecision
from teachenv.tasks.noise import corrupt_labels


@dataclass(frozen=True)
class Parts:
    """A task's samples by what they are for.

    Attributes:
        dataset: what the data really is.
        classes: the number of classes.
        scores: takes predictions and labels to the task's metrics, fractions: `accuracy`, and `f1` where it has that.
        train: what is trained on.
        feedback: what a teacher learns from how well students do on it; its labels are right.
        dev: what checkpoints and rates are selected on; its labels are as wrong as those of `train`.
        true_dev: the same samples with their right labels, which are drawn and never selected by.
        test: what is reported.
    """

    dataset: str
    classes: int
    scores: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    train: Batch
    feedback: Batch
    dev: Batch
    true_dev: Batch
    test: Batch

    def corrupted(self, rate: float, kind: str, seed: int) -> Parts:
        """The same with a share of wrong labels in train and dev; see `teachenv.tasks.noise`."""
        if not rate:
            return self
        train, dev = (
            part._replace(labels=corrupt_labels(part.labels, rate, kind, self.classes, 2 * seed + place))
            for place, part in enumerate((self.train, self.true_dev))
        )
        return replace(self, train=train, dev=dev)


@dataclass(frozen=True, kw_only=True)
class Setting(ABC):
    """What is shared by the methods that are compared.

    Attributes:
        task: the name of the data.
        epochs: how many every training has.
        batch_size: samples in a minibatch, of training and of feedback alike.
        student_rate: learning rate of students.
        teacher_rate: learning rate of teachers, fine-tuned or learning beside the student.
        evaluations: how often a training is measured on dev.
        watched: training samples whose influence is followed, where there is any.
        label_noise: share of wrong labels in train and dev; feedback and test have none.
    """

    task: str
    epochs: float
    batch_size: int = 32
    student_rate: float = 1e-4
    teacher_rate: float = 5e-5
    evaluations: int = 4
    watched: int = 64
    label_noise: float = 0.0

    precision: ClassVar[MatmulPrecision]
    """Of products of float32 matrices."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The task's name in rows."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The networks in words."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The size of students, as `network` takes it."""

    @abstractmethod
    def parts(self, seed: int) -> Parts:
        """The data; the seed decides which labels are wrong, and where data are drawn, which."""

    @abstractmethod
    def network(self, size: int | None, classes: int) -> nn.Module:
        """Makes a network of a size, None: the teacher's, from torch's global generator where anything is drawn."""

    @abstractmethod
    def between(self, teacher: nn.Module) -> int:
        """The size of an assistant between a teacher and students."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What rows are known by; where data and encoder lie on this machine is not part of it."""
        return asdict(self)
