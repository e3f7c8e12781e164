"""How a student's outputs are read as classifications, one or many a sample, for losses that a teacher weighs.

A loss family is of classifications: logits of C classes and a label. A student that labels every pixel, or every box of
a grid, makes many of them for each sample. A `Decisions` reads them off its outputs, so that every family teaches such
students as it teaches classifiers, and a new task needs no loss of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from teachenv.students.prediction import Prediction
from teachenv.tasks.measures import ClassificationMeasure, Measure


@dataclass(frozen=True)
class Decided:
    """The decisions of a minibatch, those of a sample side by side.

    Attributes:
        prediction: logits (decisions, C), and how much each decision counts.
        labels: class of each decision, (decisions,).
        rest: what is added to the taught loss, a scalar; None: nothing.
    """

    prediction: Prediction
    labels: torch.Tensor
    rest: torch.Tensor | None


class Decisions(ABC):
    """How the outputs of a task's students are read. Pure functions that work under `torch.func.vmap`.

    Attributes:
        classes: what the classes are, where their number does not say it: a teacher of others would not fit.
    """

    classes: str | None = None

    @abstractmethod
    def output_shape(self, num_classes: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a sample's outputs, channels first, for targets of the given shape."""

    @abstractmethod
    def measure(self, num_classes: int, temperature: float) -> Measure:
        """What such students are judged by; `temperature` is that of the smoothed objective."""

    def judged_by(self, num_classes: int, temperature: float, objective: str) -> Measure:
        """What such students are judged by, with an objective of `teachenv.Settings`.

        By default `measure`, whose own objective `"likelihood"` replaces by minus the cross-entropy.

        Raises:
            ValueError: the objective is of other tasks.
        """
        if objective not in ("accuracy", "likelihood"):
            raise ValueError(f"objective={objective!r} is of translation; expected 'accuracy' or 'likelihood' here")
        measure = self.measure(num_classes, temperature)
        return LikelihoodMeasure(measure, self) if objective == "likelihood" else measure

    @abstractmethod
    def __call__(self, prediction: Prediction, targets: torch.Tensor) -> Decided:
        """The decisions behind outputs (batch, *output_shape) and the task's targets (batch, ...)."""


class SingleDecisions(Decisions):
    """One decision a sample: ordinary classification, from outputs (batch, C) and labels (batch,)."""

    def output_shape(self, num_classes: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample's outputs, (C,)."""
        return (num_classes,)

    def measure(self, num_classes: int, temperature: float) -> Measure:
        """The measure of ordinary classification, a `ClassificationMeasure`."""
        return ClassificationMeasure(num_classes, temperature)

    def __call__(self, prediction: Prediction, targets: torch.Tensor) -> Decided:
        """The minibatch as it is: a decision for each sample."""
        return Decided(prediction, targets, None)


class LikelihoodMeasure(Measure):
    """A measure with another objective: minus the mean cross-entropy of the decisions, as in L2T-DLN, less the rest.

    Args:
        measure: what all but the objective is taken from.
        decisions: how outputs are read.
    """

    def __init__(self, measure: Measure, decisions: Decisions) -> None:
        """Keeps the measure and its name for the score."""
        self.judged, self.decisions, self.score_name = measure, decisions, measure.score_name

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the measure's features."""
        return self.judged.feature_names

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Minus the mean cross-entropy, less the rest of the loss: at most 0, and unbounded below."""
        decided = self.decisions(Prediction(outputs), targets)
        losses = F.cross_entropy(decided.prediction.outputs, decided.labels, reduction="none")
        error = decided.prediction.mean(losses)
        return -error if decided.rest is None else -error - decided.rest

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The measure's score."""
        return self.judged.score(outputs, targets)

    def assess(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The measure's score and features."""
        return self.judged.assess(outputs, targets)

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of what the measure reports."""
        return self.judged.reported

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """What the measure reports."""
        return self.judged.report(outputs, targets)
