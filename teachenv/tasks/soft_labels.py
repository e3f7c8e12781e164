"""What a student is judged by whose samples have class probabilities in the place of labels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from teachenv import checks
from teachenv.tasks.measures import Measure


class SoftLabels(Measure):
    """The expected accuracy on labels drawn from each sample's distribution q over classes.

    The score, `expected_accuracy`, is the mean of q_c for the class c of the largest logit; the objective is the same
    for a student that samples its answer at temperature τ, J = mean_i Σ_c q_ic softmax(z_i / τ)_c. Of rows with a
    single 1 both are those of `ClassificationMeasure`.

    Targets are distributions, (n, classes). An evaluation also has `cross_entropy`, the mean of −Σ_c q_c log p_c.

    Args:
        temperature: temperature τ of the softmax, greater than 0.

    Raises:
        ValueError: the temperature is no positive number.
    """

    target_kind = "distributions"
    score_name = "expected_accuracy"

    def __init__(self, temperature: float = 0.2) -> None:
        self.temperature = checks.number("temperature", temperature, above=0)

    def __repr__(self) -> str:
        return f"SoftLabels(temperature={self.temperature})"

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Expected accuracy at temperature τ; logits and distributions (n, classes)."""
        return (targets * torch.softmax(outputs / self.temperature, -1)).sum(-1).mean()

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean probability of the class with the largest logit."""
        return targets.gather(-1, outputs.argmax(-1, keepdim=True)).to(outputs.dtype).mean()

    @property
    def reported(self) -> tuple[str, ...]:
        """`cross_entropy`."""
        return ("cross_entropy",)

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """The mean cross-entropy of the distributions."""
        return {"cross_entropy": float(F.cross_entropy(outputs.double(), targets.double()))}
