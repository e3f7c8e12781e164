"""The classifier of sentences that a language model becomes; the language model is the package's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from teachenv.students.causal_transformer import CausalTransformer


class SentenceModel(CausalTransformer):
    """A classifier: called with `{"tokens": (B, T), "lengths": (B,)}`, returns logits, (B, classes).

    It pools the mean of the last layer's states. What fills a sentence up comes after its words, so that no state of
    these knows of it. The classifier begins with zeros, as in ProKT and LGTM. All other parameters have the names that
    they have in the language model.

    Args:
        length: number of words of a sentence, at most.
        words: size of the vocabulary.
        classes: number of classes.
        options: further options of `CausalTransformer`; its bias of words is kept, and not trained.
    """

    def __init__(self, length: int, words: int, classes: int, **options: Any) -> None:
        super().__init__(length, words, **options)
        # Nothing here depends on it; the rest of the words' classifier is the embedding.
        self.bias.requires_grad_(False)
        self.head = nn.Linear(self.width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """Computes the logits of sentences."""
        states, lengths = self.read(inputs["tokens"]), inputs["lengths"]
        places = torch.arange(states.shape[1], device=lengths.device)
        there = (places < lengths[:, None]).to(states.dtype)[..., None]
        logits: torch.Tensor = self.head((states * there).sum(1) / there.sum(1))
        return logits
