"""AWD-LSTM (Merity et al. 2018): an LSTM that drops weights, with the paper's other regularisers.

Its optimiser, SGD that begins to average when validation stalls, belongs to the training: `lot_language` has it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.students.language.base import LanguageModel, LockedDropout, Spoken, dropped_rows

State = list[tuple[torch.Tensor, torch.Tensor]]


class WeightDropLSTM(nn.Module):
    """One layer of LSTM whose hidden-to-hidden weights are dropped, one mask for a piece of text (section 2).

    Args:
        inputs: width of the inputs.
        width: units of the layer.
        p: fraction of the weights that are dropped.
    """

    def __init__(self, inputs: int, width: int, p: float) -> None:
        super().__init__()
        # A module only for its parameters and their initialisation: it has no place for a dropped weight.
        self.cell = nn.LSTM(inputs, width)
        self.p = p

    def forward(
        self, states: torch.Tensor, before: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """(T, B, inputs) and (hidden, cell), (1, B, width) each, to (T, B, width) and the like."""
        cell = self.cell
        if before is None:
            zero = states.new_zeros(1, states.shape[1], cell.hidden_size)
            before = (zero, zero)
        parameters: dict[str, torch.Tensor] = dict(cell.named_parameters())
        parameters["weight_hh_l0"] = F.dropout(parameters["weight_hh_l0"], self.p, self.training)
        weights = [parameters[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        outputs, h, c = torch.lstm(states, before, weights, True, 1, 0.0, self.training, False, False)
        return outputs, (h, c)


class AWDLSTM(LanguageModel):
    """AWD-LSTM; the defaults are the paper's for the Penn Treebank.

    `penalty` is α mean(dropped outputs²) + β mean((h_{t+1} − h_t)²) of the last layer (section 4.6), in training mode.

    Args:
        words: size of the vocabulary.
        embedding: width of the embedding, and of the last layer, whose classifier is the embedding.
        width: units of each other layer.
        layers: number of layers.
        dropout: fraction dropped of the last layer's outputs; likewise the four that follow.
        hidden_dropout: what is dropped between layers.
        input_dropout: what is dropped of the embedded words.
        word_dropout: what is dropped of the words, each wherever it occurs.
        weight_dropout: what is dropped of the hidden-to-hidden weights.
        activation: factor α of the outputs' squares in the penalty.
        temporal_activation: factor β of the squared changes from word to word in the penalty.
    """

    def __init__(
        self,
        words: int,
        embedding: int = 400,
        width: int = 1150,
        layers: int = 3,
        dropout: float = 0.4,
        hidden_dropout: float = 0.25,
        input_dropout: float = 0.4,
        word_dropout: float = 0.1,
        weight_dropout: float = 0.5,
        activation: float = 2.0,
        temporal_activation: float = 1.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        widths = [embedding, *[width] * (layers - 1), embedding]
        self.layers = nn.ModuleList(WeightDropLSTM(i, o, weight_dropout) for i, o in pairwise(widths))
        self.bias = nn.Parameter(torch.zeros(words))
        self.input_dropout, self.hidden_dropout = LockedDropout(input_dropout), LockedDropout(hidden_dropout)
        self.dropout, self.word_dropout = LockedDropout(dropout), word_dropout
        self.activation, self.temporal_activation = activation, temporal_activation

    def forward(self, tokens: torch.Tensor, state: State | None = None) -> Spoken:
        """Predicts each next word, as `LanguageModel` says; the state is (hidden, cell) of each layer."""
        table = dropped_rows(self.embedding.weight, self.word_dropout, self.training)
        states, after = self.input_dropout(F.embedding(tokens, table)), []
        for number, layer in enumerate(self.layers):
            if number:
                states = self.hidden_dropout(states)
            states, (h, c) = layer(states, None if state is None else state[number])
            after.append((h.detach(), c.detach()))
        dropped = self.dropout(states)
        penalty = None
        if self.training:
            penalty = self.activation * dropped.square().mean()
            if len(states) > 1:
                penalty = penalty + self.temporal_activation * (states[1:] - states[:-1]).square().mean()
        return Spoken(F.linear(dropped, self.embedding.weight, self.bias), after, penalty)
