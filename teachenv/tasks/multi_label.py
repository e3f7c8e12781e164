"""What a student is judged by whose samples have any number of classes each."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from teachenv.tasks.measures import Measure


class MultiLabel(Measure):
    """Macro-averaged F1, and minus the binary cross-entropy as its smooth stand-in.

    A student has a logit for each class and says that the sample has the class where it is above 0. The score,
    `macro_f1`, is the mean of 2 TP / (2 TP + FP + FN) over the classes that a sample at hand has or is said to have; 1
    where there are none. The objective is J = −mean of the binary cross-entropy over samples and classes.

    Targets are indicators, (n, classes), 0 or 1. An evaluation also has `mean_average_precision`, the mean over the
    classes that occur of Σ_k (R_k − R_{k−1}) P_k, P and R precision and recall when the samples with the k largest
    logits are said to have the class; and `micro_f1`, F1 of all classes' answers together.
    """

    target_kind = "indicators"
    score_name = "macro_f1"

    def __repr__(self) -> str:
        return "MultiLabel()"

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Minus the mean binary cross-entropy; logits and indicators (n, classes)."""
        return -F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """F1, the mean over classes."""
        hits, wrong = _counts(outputs, targets.to(outputs.dtype))
        there = hits + wrong > 0
        f1 = torch.where(there, 2 * hits / (2 * hits + wrong).clamp(min=1), 0).sum() / there.sum().clamp(min=1)
        return torch.where(there.any(), f1, torch.ones_like(f1))

    @property
    def reported(self) -> tuple[str, ...]:
        """`mean_average_precision` and `micro_f1`."""
        return ("mean_average_precision", "micro_f1")

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Mean average precision over the classes that occur (0 if none does), and F1 of all answers together."""
        hits, wrong = (float(each.sum()) for each in _counts(outputs.double(), targets.double()))
        logits, given = outputs.detach().double().cpu().numpy(), targets.cpu().numpy() > 0.5
        precisions = [_average_precision(z, y) for z, y in zip(logits.T, given.T, strict=True) if y.any()]
        return {
            "mean_average_precision": float(np.mean(precisions)) if precisions else 0.0,
            "micro_f1": 2 * hits / (2 * hits + wrong) if hits + wrong else 1.0,
        }


def _counts(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(True positives, false positives and false negatives together) of each class, (classes,)."""
    said = (outputs > 0).to(targets.dtype)
    return (said * targets).sum(0), (said - targets).abs().sum(0)


def _average_precision(scores: np.ndarray, given: np.ndarray) -> float:
    """Σ_k (R_k − R_{k−1}) P_k; samples with one score are said to have the class together."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(given[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / given.sum())
