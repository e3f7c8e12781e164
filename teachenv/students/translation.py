"""Networks that translate: an LSTM with attention and a transformer, of parts that can be differentiated twice.

Both are called with (n, 2L) token numbers, source and beginning of the target side by side, and give (n, words, L)
logits of each next target word, as losses of PyTorch have classes. For decoding they read a source once (`encode`) and
then predict word after word (`start`, `advance`); see `teachenv.decoding`. Source and target share one embedding, which
is the classifier as well.

Fused attention has no second derivative on the CPU, cuDNN's LSTM none on GPUs, and `torch.func.vmap` batches neither:
recurrences and attention are written out here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.data.vocabulary import PAD
from teachenv.students.attention import TransformerLayer, hidden_scores, place_codes


class Memory(NamedTuple):
    """What a translator keeps of a source that it has read.

    Attributes:
        states: states of the source's words, (n, L, d).
        there: (n, L), 1 where there is a word.
        first: what else the decoder wants of it, from the beginning: states, or keys and values by layer.
    """

    states: torch.Tensor
    there: torch.Tensor
    first: Any


class Translator(nn.Module):
    """A network that translates: what an LSTM and a transformer have in common.

    Args:
        length: number L of words that a sentence has at most, its end included.
        words: size of the vocabulary.
        width: width of the embedding.
    """

    def __init__(self, length: int, words: int, width: int) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.embedding = nn.Embedding(words, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, 2L') to (n, words, L'), for any L' up to L."""
        source, target = tokens.chunk(2, 1)
        states = self.read(target, self.encode(source))
        return self.logits(states).movedim(-1, 1)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(…, d) to (…, words)."""
        return F.linear(states, self.embedding.weight, self.bias)

    def encode(self, source: torch.Tensor) -> Memory:
        """Reads (n, L') words of a source."""
        raise NotImplementedError

    def read(self, target: torch.Tensor, memory: Memory) -> torch.Tensor:
        """(n, L') words that stand before those to be predicted, to states (n, L', d)."""
        raise NotImplementedError

    def start(self, memory: Memory) -> Any:
        """The state before the first word: tensors with n first, in any nesting of tuples and lists."""
        raise NotImplementedError

    def advance(self, token: torch.Tensor, memory: Memory, state: Any) -> tuple[torch.Tensor, Any]:
        """The word before, (n,), to (logits of the next, (n, words); the state after it)."""
        raise NotImplementedError


class LSTMCell(nn.Module):
    """A layer of LSTM, written out so that it can be differentiated twice.

    Args:
        inputs: width of the inputs.
        width: units of the layer.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inputs, self.hidden = nn.Linear(inputs, 4 * width), nn.Linear(width, 4 * width, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def step(
        self, projected: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """One step in time, given what `inputs` makes of the input."""
        hidden, cell = state
        i, f, g, o = (projected + self.hidden(hidden)).chunk(4, -1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        return hidden, (hidden, cell)

    def forward(
        self,
        inputs: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor],
        there: torch.Tensor | None = None,
        backwards: bool = False,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """(n, L, inputs) to (n, L, width); where nothing is `there`, the state stays as it is."""
        projected, states = self.inputs(inputs).unbind(1), []
        for place in range(len(projected))[:: -1 if backwards else 1]:
            _, after = self.step(projected[place], state)
            if there is not None:
                mask = there[:, place, None]
                after = (mask * after[0] + (1 - mask) * state[0], mask * after[1] + (1 - mask) * state[1])
            state = after
            states.append(state[0])
        return torch.stack(states[:: -1 if backwards else 1], 1), state


class AttentiveLSTM(Translator):
    """LSTM-1 and LSTM-2: embedding and states of one width, a bidirectional encoder, attention over it.

    The decoder's states ask by a bilinear form (Luong et al. 2015, "general"), and the answer goes with them through
    a layer into the classifier. It is not fed back into the next step, which would take the decoder's words apart.
    Width and number of layers are L2T-DLF's (256; 1 or 2), the rest it does not say.

    Args:
        length: number L of words that a sentence has at most, its end included.
        words: size of the vocabulary.
        width: width of the embedding and of the states, an even number.
        layers: number of layers of the encoder, and of the decoder.
        dropout: fraction dropped of the embeddings and of the states before the classifier.

    Raises:
        ValueError: an odd width.
    """

    def __init__(self, length: int, words: int, width: int = 256, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__(length, words, width)
        if width % 2:
            raise ValueError(f"the encoder reads in two directions: expected an even width, found {width}")
        self.dropout = nn.Dropout(dropout)
        half = width // 2
        self.forwards, self.backwards = (nn.ModuleList(LSTMCell(width, half) for _ in range(layers)) for _ in range(2))
        self.decoder = nn.ModuleList(LSTMCell(width, width) for _ in range(layers))
        self.query = nn.Linear(width, width, bias=False)
        self.combined = nn.Linear(2 * width, width)

    def encode(self, source: torch.Tensor) -> Memory:
        """Reads (n, L') words of a source."""
        states = self.dropout(self.embedding(source) * math.sqrt(self.width))
        there = (source != PAD).to(states.dtype)
        nothing = states.new_zeros(len(source), self.width // 2)
        first = []
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            right, (h, c) = ahead(states, (nothing, nothing), there)
            left, (h2, c2) = back(states, (nothing, nothing), there, backwards=True)
            states = torch.cat([right, left], -1)
            first.append((torch.cat([h, h2], -1), torch.cat([c, c2], -1)))
        return Memory(states, there, first)

    def read(self, target: torch.Tensor, memory: Memory) -> torch.Tensor:
        """The states (n, L', d) at the words before those to be predicted."""
        states = self.dropout(self.embedding(target) * math.sqrt(self.width))
        for layer, begun in zip(self.decoder, memory.first, strict=True):
            states, _ = layer(states, begun)
        return self._attended(states, memory)

    def start(self, memory: Memory) -> Any:
        """The decoder's state before the first word."""
        return memory.first

    def advance(self, token: torch.Tensor, memory: Memory, state: Any) -> tuple[torch.Tensor, Any]:
        """One word further: (logits of the next word, the state after it)."""
        hidden, after = self.embedding(token) * math.sqrt(self.width), []
        for layer, layer_state in zip(self.decoder, state, strict=True):
            assert isinstance(layer, LSTMCell)
            hidden, layer_state = layer.step(layer.inputs(hidden), layer_state)
            after.append(layer_state)
        return self.logits(self._attended(hidden[:, None], memory)[:, 0]), after

    def _attended(self, states: torch.Tensor, memory: Memory) -> torch.Tensor:
        scores = self.query(states) @ memory.states.transpose(1, 2)
        weights = F.softmax(scores + hidden_scores(memory.there)[:, None], -1)
        combined = torch.tanh(self.combined(torch.cat([weights @ memory.states, states], -1)))
        dropped: torch.Tensor = self.dropout(combined)
        return dropped


class Transformer(Translator):
    """An encoder and a decoder of pre-norm layers (Vaswani et al. 2017; the norms as in later practice).

    Args:
        length: number L of words that a sentence has at most, its end included.
        words: size of the vocabulary.
        width: numbers in a state.
        layers: number of layers of the encoder, and of the decoder. L2T-DLF has 6, and says of the width only "small".
        heads: number of attention's heads.
        inner: width of the feed-forward layers.
        dropout: fraction dropped of the embeddings and of what layers add.
    """

    def __init__(
        self,
        length: int,
        words: int,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        inner: int = 1024,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(length, words, width)
        if width % heads:
            raise ValueError(f"expected a width that {heads} heads divide, found {width}")
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(TransformerLayer(width, heads, inner, dropout, False) for _ in range(layers))
        self.decoder: Sequence[TransformerLayer]
        self.decoder = nn.ModuleList(TransformerLayer(width, heads, inner, dropout, True) for _ in range(layers))  # type: ignore[assignment]
        self.encoded, self.decoded = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places: torch.Tensor
        self.register_buffer("places", place_codes(length, width), persistent=False)

    def encode(self, source: torch.Tensor) -> Memory:
        """Reads (n, L') words of a source."""
        there = (source != PAD).to(self.embedding.weight.dtype)
        states, hidden = self._embedded(source), hidden_scores(there)[:, None]
        for layer in self.encoder:
            states, _ = layer(states, hidden)
        states = self.encoded(states)
        return Memory(states, there, [layer.read_source(states) for layer in self.decoder])

    def read(self, target: torch.Tensor, memory: Memory) -> torch.Tensor:
        """The states (n, L', d) at the words before those to be predicted."""
        return self._read(target, memory, None)[0]

    def start(self, memory: Memory) -> Any:
        """The state before the first word: keys and values of what has been read, by layer."""
        return [tuple(part[:, :, :0] for part in pair) for pair in memory.first]

    def advance(self, token: torch.Tensor, memory: Memory, state: Any) -> tuple[torch.Tensor, Any]:
        """One word further: (logits of the next word, the state after it)."""
        states, state = self._read(token[:, None], memory, state)
        return self.logits(states[:, -1]), state

    def _read(self, target: torch.Tensor, memory: Memory, before: Any) -> tuple[torch.Tensor, Any]:
        begin, hidden, after = 0 if before is None else before[0][0].shape[2], hidden_scores(memory.there)[:, None], []
        states = self._embedded(target, begin)
        length = target.shape[1]
        visible = torch.ones(length, begin + length, dtype=states.dtype, device=states.device).tril(begin)
        for number, layer in enumerate(self.decoder):
            pair = None if before is None else before[number]
            states, pair = layer(states, hidden_scores(visible), pair, memory.first[number], hidden)
            after.append(pair)
        return self.decoded(states), after

    def _embedded(self, tokens: torch.Tensor, begin: int = 0) -> torch.Tensor:
        states = self.embedding(tokens) * math.sqrt(self.width)
        embedded: torch.Tensor = self.dropout(states + self.places[begin : begin + tokens.shape[1]])
        return embedded
