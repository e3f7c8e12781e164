"""One reader of words with two heads: it foretells the next word, or says of which class a sentence is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from teachenv.students.language import TransformerXL


class WordModel(nn.Module):
    """A language model: called with pieces of a text, (B, T), returns the logits of each next word, (B, words, T).

    Args:
        words: size of the vocabulary.
        options: options of `TransformerXL`, whose memory is not used; its classifier is the table of words.
    """

    def __init__(self, words: int, **options: Any) -> None:
        super().__init__()
        self.reader = TransformerXL(words, memory=0, **options)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Computes the logits of each next word."""
        # The trainer wants them by piece: it is the smaller states that are copied into that order.
        states = self.reader.read(tokens.t())[0].transpose(0, 1)
        logits: torch.Tensor = self.reader.head(states)
        return logits.transpose(1, 2)


class SentenceModel(nn.Module):
    """A classifier: called with `{"tokens": (B, T), "lengths": (B,)}`, returns logits, (B, classes).

    It pools the mean of the reader's last states. What fills a sentence up comes after its words, so that no state of
    these knows of it. The classifier begins with zeros, as in ProKT and LGTM.

    Args:
        words: size of the vocabulary.
        classes: number of classes.
        options: options of `TransformerXL`; its classifier of words is kept, and not trained.
    """

    def __init__(self, words: int, classes: int, **options: Any) -> None:
        super().__init__()
        self.reader = TransformerXL(words, memory=0, **options)
        # Nothing here depends on it; the rest of the words' classifier is the embedding.
        self.reader.head.bias.requires_grad_(False)
        self.head = nn.Linear(self.reader.embedding.embedding_dim, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Computes the logits of sentences."""
        states, lengths = self.reader.read(inputs["tokens"].t())[0], inputs["lengths"]
        read = (torch.arange(len(states), device=lengths.device)[:, None] < lengths).to(states.dtype)[..., None]
        logits: torch.Tensor = self.head((states * read).sum(0) / read.sum(0))
        return logits
