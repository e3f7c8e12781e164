"""A small language model: a transformer that predicts each next word of a piece of text from the words before it."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.students.attention import TransformerLayer, hidden_scores, place_codes


class CausalTransformer(nn.Module):
    """Layers of causal attention over (n, L) token numbers; gives (n, words, L) logits of each next word.

    The embedding is the classifier as well. Sines and cosines tell places apart. Second derivatives and
    `torch.func.vmap` work.

    Args:
        length: number L of words of a piece of text, at most.
        words: size of the vocabulary.
        width: numbers in a state.
        layers: number of layers.
        heads: number of attention's heads.
        inner: width of the feed-forward layers.
        dropout: fraction dropped of the embeddings and of what layers add.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(
        self,
        length: int,
        words: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        inner: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width that {heads} heads divide, found {width}")
        self.width = width
        self.embedding, self.dropout = nn.Embedding(words, width), nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(words))
        self.layers = nn.ModuleList(TransformerLayer(width, heads, inner, dropout, False) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.places: torch.Tensor
        self.hidden: torch.Tensor
        self.register_buffer("places", place_codes(length, width), persistent=False)
        # What is added to the score of word j for word i: 0 if j ≤ i.
        self.register_buffer("hidden", hidden_scores(torch.ones(length, length).tril()), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, L') to (n, words, L'), for any L' up to L; place i has the logits of the word after word i."""
        return F.linear(self.read(tokens), self.embedding.weight, self.bias).movedim(-1, 1)

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, L') to the last layer's states, normalised, (n, L', width)."""
        length = tokens.shape[1]
        states = self.dropout(self.embedding(tokens) * math.sqrt(self.width) + self.places[:length])
        for layer in self.layers:
            states, _ = layer(states, self.hidden[:length, :length])
        normed: torch.Tensor = self.norm(states)
        return normed
