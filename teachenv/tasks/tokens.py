"""Texts whose next tokens are predicted: each token is a decision, and J is a mean over tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from teachenv.data.vocabulary import Vocabulary
from teachenv.students.prediction import Prediction
from teachenv.tasks.base import VOID
from teachenv.tasks.decisions import Decided, Decisions
from teachenv.tasks.measures import Measure


class TokenMeasure(Measure):
    """The means over tokens that language models and translators are judged by, given the tokens before each.

    Args:
        temperature: temperature τ of the softmax of the smoothed accuracy.
        likelihood: whether J is minus the mean cross-entropy, rather than the mean probability of the right token at
            temperature τ.

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(self, temperature: float, likelihood: bool) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        self.temperature, self.likelihood = temperature, likelihood

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The objective of given outputs (n, words, L): minus the cross-entropy, or the smoothed accuracy."""
        return self._sums(outputs, targets).sum() / (targets != VOID).sum().clamp(min=1)

    def _sums(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What each of the samples adds to the objective, (n,)."""
        known = targets != VOID
        labels = targets.clamp(min=0)
        if self.likelihood:
            each = -F.cross_entropy(outputs, labels, reduction="none")
        else:
            each = torch.softmax(outputs / self.temperature, 1).gather(1, labels.unsqueeze(1)).squeeze(1)
        return (each * known).sum(1)

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The fraction of tokens that are right in given outputs, those before each given."""
        return self._right(outputs, targets).sum().to(outputs.dtype) / (targets != VOID).sum().clamp(min=1)

    def _right(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return ((outputs.argmax(1) == targets) & (targets != VOID)).sum(1)


class TokenDecisions(Decisions):
    """Each token is classified, from outputs (batch, words, L) and targets (batch, L).

    Args:
        vocabulary: the words that outputs stand for.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.classes = f"a vocabulary of {len(vocabulary)} tokens ({vocabulary.digest})"

    def output_shape(self, num_classes: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample's outputs, (words, L)."""
        return (num_classes, *target_shape)

    def __call__(self, prediction: Prediction, targets: torch.Tensor) -> Decided:
        """The tokens as decisions, sample by sample."""
        outputs = prediction.outputs
        logits = outputs.movedim(1, -1).reshape(-1, outputs.shape[1])
        labels = targets.reshape(-1)
        weights = (labels != VOID).to(logits.dtype)
        return Decided(replace(prediction, outputs=logits, weights=weights), labels.clamp(min=0), None)
