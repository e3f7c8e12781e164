"""What methods of distillation are compared on: data by what they are for, networks, and how long training runs are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from meta.distillation import Batch
from meta.distillation.learner import outputs_of
from teachenv.experiment.precision import MatmulPrecision
from teachenv.modes import evaluating
from teachenv.tasks.noise import corrupt_labels

SHOWN = 4
"""Samples of dev whose predictions are kept at each evaluation."""

_EVALUATION_BATCH = 128


class Measured(NamedTuple):
    """What a network says of dev or test.

    Attributes:
        scores: the task's metrics.
        loss: the cross-entropy of the right labels.
        entropy: the mean entropy of the predictions, in nats.
        predictions: probabilities of the right labels of the first decisions, (SHOWN,).
    """

    scores: dict[str, float]
    loss: float
    entropy: float
    predictions: list[float]


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
        epochs: how many every training run has, that of fixed teachers perhaps apart (`fine_tuning_epochs`).
        batch_size: samples in a minibatch, of training and of feedback alike.
        student_rate: learning rate of students.
        teacher_rate: learning rate of teachers, fine-tuned or learning beside the student.
        evaluations: how often a training run is measured on dev.
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
    def fine_tuning_epochs(self) -> float:
        """How many epochs the fine-tuning of a teacher has: as many as a student's training."""
        return self.epochs

    @property
    def versions(self) -> Mapping[str, str]:
        """What shapes the numbers beside libraries."""
        return {"matmul_precision": self.precision}

    def lengths(self, batch: Batch) -> np.ndarray | None:
        """The length of each sample, (n,), so that minibatches are of about one; None: samples have none."""
        return None

    def trimmed(self, batch: Batch) -> Batch:
        """A minibatch without what it does not need."""
        return batch

    def evaluate(self, model: nn.Module, batch: Batch, right: torch.Tensor, parts: Parts) -> Measured:
        """Measures a network on a split.

        Args:
            model: the network, measured in evaluation mode.
            batch: inputs and labels, (n,), of which scores are.
            right: the samples' right labels, (n,).
            parts: says what the scores are.
        """
        with torch.no_grad(), evaluating(model):
            places = range(0, len(batch.labels), _EVALUATION_BATCH)
            logits = torch.cat([outputs_of(model, batch.at(slice(i, i + _EVALUATION_BATCH))).logits for i in places])
            logs = F.log_softmax(logits, -1)
            return Measured(
                parts.scores(logits.argmax(-1).numpy(), batch.labels.numpy()),
                float(F.nll_loss(logs, right)),
                float(-(logs.exp() * logs).sum(-1).mean()),
                [round(float(p), 4) for p in logs[:SHOWN].exp().gather(-1, right[:SHOWN, None])[:, 0]],
            )

    def selecting(self, scores: Mapping[str, float]) -> float:
        """What checkpoints are selected by: F1 where the task has it, else accuracy, as the released code does."""
        return scores.get("f1", scores["accuracy"])

    @property
    def config(self) -> Mapping[str, Any]:
        """What rows are known by; where data and encoder lie on this machine is not part of it."""
        return asdict(self)
