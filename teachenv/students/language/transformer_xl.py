"""Transformer-XL (Dai et al. 2019): attention over the present piece of text and a memory of those before.

Query i of a piece with T words sees key j of the M remembered and the T present ones if j ≤ i + M, with the score

    (q_i + u)ᵀ k_j + (q_i + v)ᵀ r_{i+M−j}                                                  (section 3.3)

over √d, r_n the projected encoding of the distance n, u and v of each head. What is remembered of a layer are its
inputs, without a gradient. The full softmax is used; LoT's KL needs every logit.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.students.language.base import LanguageModel, Spoken

State = list[torch.Tensor]


class TransformerXL(LanguageModel):
    """Transformer-XL; the defaults are LoT's for the Penn Treebank.

    Args:
        words: size of the vocabulary.
        width: numbers in a state.
        layers: number of layers.
        heads: number of attention's heads.
        head_width: width of each head.
        inner: width of the feed-forward layers.
        dropout: fraction dropped of the states and of attention's weights.
        memory: words remembered, M at most.
        tied: whether embedding and classifier are one matrix.
    """

    def __init__(
        self,
        words: int,
        width: int = 200,
        layers: int = 4,
        heads: int = 8,
        head_width: int = 20,
        inner: int = 1000,
        dropout: float = 0.25,
        memory: int = 70,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.dropout, self.memory = nn.Dropout(dropout), memory
        # u and v are shared by the layers.
        self.content_bias, self.place_bias = (nn.Parameter(torch.zeros(heads, head_width)) for _ in range(2))
        self.layers = nn.ModuleList(_Layer(width, heads, head_width, inner, dropout) for _ in range(layers))
        self.head = nn.Linear(width, words)
        self.apply(_initialise)
        for bias in (self.content_bias, self.place_bias):
            nn.init.normal_(bias, std=0.02)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor, state: State | None = None) -> Spoken:
        """Predicts each next word, as `LanguageModel` says; the state is the memory, (M, B, width) of each layer."""
        states, after = self.read(tokens, state)
        return Spoken(self.head(states), after)

    def read(self, tokens: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Returns (what the classifier of words gets, (T, B, width), dropout included; the memory afterwards)."""
        states = self.dropout(self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim))
        past = 0 if state is None else len(state[0])
        places = self.dropout(_encoding(past + len(tokens), states))
        # Key j is hidden from query i if it comes after it.
        hidden = torch.ones(len(tokens), past + len(tokens), dtype=torch.bool, device=tokens.device).triu(1 + past)
        after = []
        for number, layer in enumerate(self.layers):
            context = states if state is None else torch.cat([state[number], states])
            after.append(context[len(context) - min(self.memory, len(context)) :].detach())
            states = layer(states, context, places, hidden, self.content_bias, self.place_bias)
        return self.dropout(states), after


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.shape = (heads, head_width)
        size = heads * head_width
        self.query, self.key, self.value, self.place = (nn.Linear(width, size, bias=False) for _ in range(4))
        self.out = nn.Linear(size, width, bias=False)
        self.feed = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width), nn.Dropout(dropout)
        )
        self.attended, self.fed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        states: torch.Tensor,
        context: torch.Tensor,
        places: torch.Tensor,
        hidden: torch.Tensor,
        content_bias: torch.Tensor,
        place_bias: torch.Tensor,
    ) -> torch.Tensor:
        q = self.query(states).unflatten(-1, self.shape)
        k, v = (project(context).unflatten(-1, self.shape) for project in (self.key, self.value))
        r = self.place(places).unflatten(-1, self.shape)
        content = torch.einsum("ibhd,jbhd->bhij", q + content_bias, k)
        place = shifted(torch.einsum("ibhd,jhd->bhij", q + place_bias, r))
        scores = ((content + place) / math.sqrt(self.shape[1])).masked_fill(hidden, -torch.inf)
        weights = self.dropout(F.softmax(scores, -1))
        values = torch.einsum("bhij,jbhd->ibhd", weights, v).flatten(-2)
        states = self.attended(states + self.dropout(self.out(values)))
        fed: torch.Tensor = self.fed(states + self.feed(states))
        return fed


def shifted(scores: torch.Tensor) -> torch.Tensor:
    """Scores by distance as scores by key: (…, T, K) to the same, entry (i, j) being what was at j + T − 1 − i.

    Column c of the argument belongs to the distance K − 1 − c. Entries of keys after the query (j > i + K − T) are
    arbitrary. By padding and reshaping, without an index (appendix B).
    """
    *batch, queries, keys = scores.shape
    padded = F.pad(scores, (1, 0)).reshape(*batch, keys + 1, queries)
    return padded[..., 1:, :].reshape(*batch, queries, keys)


def _encoding(length: int, like: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of the distances length − 1 … 0: (length, width)."""
    width = like.shape[-1]
    distances = torch.arange(length - 1, -1, -1, dtype=like.dtype, device=like.device)
    rates = 10_000 ** -(torch.arange(0, width, 2, dtype=like.dtype, device=like.device) / width)
    angles = distances[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
