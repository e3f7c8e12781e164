"""The LSTM language model of Zaremba et al. 2014, as PyTorch's examples have it: LoT's on the Penn Treebank."""

from __future__ import annotations

import torch
from torch import nn

from teachenv.students.language.base import LanguageModel, Spoken


class LSTMModel(LanguageModel):
    """Embedding, layers of LSTM, a linear classifier; dropout between them.

    Args:
        words: size of the vocabulary.
        width: width of the embedding and of the hidden layers.
        layers: number of layers of LSTM.
        dropout: fraction p that is dropped between layers.
        tied: whether embedding and classifier are one matrix.
    """

    def __init__(
        self, words: int, width: int = 650, layers: int = 2, dropout: float = 0.45, tied: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, width, layers, dropout=dropout if layers > 1 else 0.0)
        self.head = nn.Linear(width, words)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None) -> Spoken:
        """Predicts each next word, as `LanguageModel` says; the state is (hidden, cell), (layers, B, width) each."""
        hidden, (h, c) = self.lstm(self.dropout(self.embedding(tokens)), state)
        return Spoken(self.head(self.dropout(hidden)), (h.detach(), c.detach()))
