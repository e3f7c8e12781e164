"""How a student's outputs are read as classifications, one or many a sample, for losses that a teacher weighs.

A loss family is of classifications: logits of C classes and a label. A student that labels every pixel, or every box of
a grid, makes many of them for each sample. A `Decisions` reads them off its outputs, so that every family teaches such
students as it teaches classifiers, and a new task needs no loss of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from teachenv.students.prediction import Prediction
from teachenv.tasks.measures import ClassificationMeasure, Measure

Objective = Literal["accuracy", "likelihood", "margin", "token-accuracy", "expected-bleu"]
"""What J is; the last two are of translation alone."""


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

        By default `measure`, whose own objective `"likelihood"` replaces by minus the cross-entropy, and `"margin"` by
        minus the margin error.

        Raises:
            ValueError: the objective is of other tasks.
        """
        if objective not in ("accuracy", "likelihood", "margin"):
            known = "'accuracy', 'likelihood' or 'margin'"
            raise ValueError(f"objective={objective!r} is of translation; expected {known} here")
        measure = self.measure(num_classes, temperature)
        if objective == "margin":
            return MarginMeasure(measure, self, temperature)
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


class OtherObjective(Measure):
    """A measure with another objective, of the decisions that are read off the outputs.

    Args:
        measure: what all but the objective is taken from.
        decisions: how outputs are read.
    """

    def __init__(self, measure: Measure, decisions: Decisions) -> None:
        """Keeps the measure and its name for the score."""
        self.judged, self.decisions, self.score_name = measure, decisions, measure.score_name

    @abstractmethod
    def error(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The error of each decision, (decisions,), from logits (decisions, C) and labels (decisions,)."""

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Minus the mean error of the decisions, less the rest of the loss."""
        decided = self.decisions(Prediction(outputs), targets)
        error = decided.prediction.mean(self.error(decided.prediction.outputs, decided.labels))
        return -error if decided.rest is None else -error - decided.rest

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the measure's features."""
        return self.judged.feature_names

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The measure's score."""
        return self.judged.score(outputs, targets)

    def features(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The measure's features."""
        return self.judged.features(outputs, targets)

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


class LikelihoodMeasure(OtherObjective):
    """A measure whose objective is minus the mean cross-entropy, as in L2T-DLN: at most 0, and unbounded below."""

    def error(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The cross-entropy of each decision."""
        return F.cross_entropy(outputs, labels, reduction="none")


class MarginMeasure(OtherObjective):
    """A measure whose objective is minus the margin error of L2T-DLF's released code: from −1 to 0.

    The error of a decision is 2σ((max_j p_j − p_y)/τ) − 1: 0 if the label's class is the likeliest, else between 0
    and 1. The code calls k what is 1/τ here, and has k = 50.

    Args:
        measure: what all but the objective is taken from.
        decisions: how outputs are read.
        temperature: τ > 0.
    """

    def __init__(self, measure: Measure, decisions: Decisions, temperature: float) -> None:
        super().__init__(measure, decisions)
        self.temperature = temperature

    def error(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The margin error of each decision."""
        p = outputs.softmax(1)
        lead = p.amax(1) - p.gather(1, labels.unsqueeze(1)).squeeze(1)
        return 2 * torch.sigmoid(lead / self.temperature) - 1
