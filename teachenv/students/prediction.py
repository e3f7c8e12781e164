"""What a student's forward pass gives to a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Prediction:
    """What a student says about a minibatch, as a loss family sees it.

    Attributes:
        outputs: (batch, outputs) logits; as a network gives them, perhaps with further dimensions.
        features: (batch, d) input of the student's last linear layer; only for families with `needs_head`.
        head_weight: (outputs, d) weight of that layer; only for families with `needs_head`.
        weights: (batch,) how much each counts in the minibatch's mean; None: all the same.
    """

    outputs: torch.Tensor
    features: torch.Tensor | None = None
    head_weight: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        """The minibatch's mean of (batch,) losses, a scalar."""
        if self.weights is None:
            return losses.mean()
        # A minibatch in which nothing counts has no loss, rather than 0 / 0.
        return (self.weights * losses).sum() / self.weights.sum().clamp(min=1e-12)


def logits_of(outputs: Any, name: str, training: bool) -> torch.Tensor:
    """What a network returned, if it is a tensor; else its `logits`, as of the models of transformers.

    Args:
        outputs: what its forward pass returned.
        name: the network's name, for errors.
        training: the mode of the pass, for errors.

    Raises:
        ValueError: there is neither.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    content = ""
    if isinstance(outputs, Mapping):
        content = f" with keys {', '.join(map(repr, outputs))}"
    elif isinstance(outputs, tuple | list):
        content = f" of {', '.join(type(part).__name__ for part in outputs)}"
    raise ValueError(
        f"the student {name} returns {type(outputs).__name__}{content} in "
        f"{'training' if training else 'evaluation'} mode, expected a tensor of logits, or something with a tensor "
        "as .logits or ['logits']; wrap it in a module that returns its logits"
    )
