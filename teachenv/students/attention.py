"""The parts that transformers here share, written out so that they can be differentiated twice and batched by vmap.

Fused attention has no second derivative on the CPU, and `torch.func.vmap` does not batch it.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

Pair = tuple[torch.Tensor, torch.Tensor]


class TransformerLayer(nn.Module):
    """A pre-norm layer (Vaswani et al. 2017; the norms as in later practice), with or without attention to a source.

    Args:
        width: numbers in a state.
        heads: number of attention's heads.
        inner: width of the feed-forward layers.
        dropout: fraction dropped of what the layer adds.
        decodes: whether it attends to a source, too.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, decodes: bool) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width, heads), nn.LayerNorm(width)
        self.cross = Attention(width, heads) if decodes else None
        self.cross_norm = nn.LayerNorm(width) if decodes else None
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
        self.dropout = nn.Dropout(dropout)

    def read_source(self, states: torch.Tensor) -> Pair:
        """Keys and values of a source, of a layer that decodes."""
        assert self.cross is not None
        return self.cross.keys_and_values(states)

    def forward(
        self,
        states: torch.Tensor,
        hidden: torch.Tensor,
        before: Pair | None = None,
        source: Pair | None = None,
        hidden_source: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Pair]:
        """States, and keys and values of all up to here; `before` has those of earlier places."""
        normed = self.norm(states)
        pair = self.attention.keys_and_values(normed)
        if before is not None:
            pair = torch.cat([before[0], pair[0]], 2), torch.cat([before[1], pair[1]], 2)
        states = states + self.dropout(self.attention(normed, pair, hidden))
        if self.cross is not None:
            assert self.cross_norm is not None
            states = states + self.dropout(self.cross(self.cross_norm(states), source, hidden_source))
        return states + self.dropout(self.feed(states)), pair


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017).

    Args:
        width: numbers in a state.
        heads: number of heads; it divides the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def keys_and_values(self, states: torch.Tensor) -> Pair:
        """(n, L, d) to two of (n, heads, L, d / heads)."""
        return self._by_heads(self.key(states)), self._by_heads(self.value(states))

    def forward(self, states: torch.Tensor, pair: Pair, hidden: torch.Tensor) -> torch.Tensor:
        """States (n, L, d) that ask keys and values; `hidden` is added to the scores, (L, K) or (n, 1, K)."""
        q, (k, v) = self._by_heads(self.query(states)), pair
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        # (…, queries, keys) with a place for heads.
        weights = F.softmax(scores + (hidden if hidden.ndim == 2 else hidden[:, None]), -1)
        mixed: torch.Tensor = self.out((weights @ v).transpose(1, 2).flatten(-2))
        return mixed

    def _by_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)


def hidden_scores(there: torch.Tensor) -> torch.Tensor:
    """What is added to scores: 0 where something is, a large negative number where not.

    Not −∞, of which a row without any word would make NaN.
    """
    return (there - 1) * 1e9


def place_codes(length: int, width: int) -> torch.Tensor:
    """Sines and cosines, (length, width)."""
    rates = 10_000 ** -(torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width]
