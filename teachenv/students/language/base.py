"""What the language models here have in common: how they are called, and the dropout that they share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn


class Spoken(NamedTuple):
    """A language model's outputs on a piece of text.

    Attributes:
        logits: (T, B, words) of each next word.
        state: what the next piece is read with, detached.
        penalty: a scalar to add to the loss, or None.
    """

    logits: torch.Tensor
    state: Any
    penalty: torch.Tensor | None = None


class LanguageModel(nn.Module):
    """Predicts each next word of B texts that are read side by side, piece by piece.

    Called as `model(tokens, state)` with (T, B) word numbers and the state after the piece before, None at the
    beginning of a text; returns `Spoken`. T and B may be any, T another one each time.
    """


class LockedDropout(nn.Module):
    """Dropout with one mask for all steps in time (Gal and Ghahramani 2016): (T, B, d) to the same."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Drops in training mode; else returns the states as they are."""
        if not self.training or not self.p:
            return states
        return states * nn.functional.dropout(torch.ones_like(states[:1]), self.p)


def dropped_rows(table: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """A table with whole rows dropped: of words, wherever they occur (Gal and Ghahramani 2016)."""
    if not training or not p:
        return table
    return table * nn.functional.dropout(torch.ones_like(table[:, :1]), p)
