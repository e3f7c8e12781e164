"""Update rules: what moves a vector of weights by its gradients, one coordinate like the other.

Learned rules (L2T-DLN's LSTM, and what the paper leaves open whether it would do as well) and the optimisers that the
paper compares with. Each sees gradients as `meta.hypergradients.window_gradient` encodes them, two numbers a
coordinate, and gives one number, along which the weight is moved down. The number is in (−1, 1) for learned rules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from meta.hypergradients.window_gradient import decoded

Memory = tuple[torch.Tensor, ...]
"""What a rule remembers: tensors whose first dimension is that of the coordinates."""

INPUTS = 2
"""Numbers in which a gradient's coordinate is encoded."""


class UpdateRule(nn.Module, ABC):
    """A rule for each coordinate, the same for all."""

    @abstractmethod
    def initial(self, like: torch.Tensor) -> Memory:
        """Returns what the rule remembers before the first gradient.

        Args:
            like: encoded gradients, (coordinates, 2), of which only the number, dtype and device are read.
        """

    @abstractmethod
    def forward(self, inputs: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Computes one update.

        Args:
            inputs: encoded gradients, (coordinates, 2).
            memory: what the rule remembers before it.

        Returns:
            (the update, (coordinates,); the memory after it).
        """


class LSTMRule(UpdateRule):
    """Four stacked LSTM cells, 2-64-64-64-1, whose last hidden state is the update: 84,236 parameters (released code).

    Args:
        hidden: units of the first three cells.
    """

    def __init__(self, hidden: int = 64) -> None:
        """Builds the cells with PyTorch's own initialisation, as in the released code."""
        super().__init__()
        self.sizes = [hidden, hidden, hidden, 1]
        self.cells = nn.ModuleList(
            nn.LSTMCell(of, size) for of, size in zip([INPUTS, *self.sizes], self.sizes, strict=False)
        )

    def initial(self, like: torch.Tensor) -> Memory:
        """Returns zeros: the hidden state and the cell state of each cell."""
        return tuple(like.new_zeros(len(like), size) for size in self.sizes for _ in range(2))

    def forward(self, inputs: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Computes the update, the last cell's hidden state; the memory is the states of all cells."""
        after: list[torch.Tensor] = []
        for i, cell in enumerate(self.cells):
            inputs, state = cell(inputs, (memory[2 * i], memory[2 * i + 1]))
            after += [inputs, state]
        return inputs.squeeze(-1), tuple(after)


class GRURule(UpdateRule):
    """Four stacked GRU cells, 2-74-74-74-1: 84,147 parameters, about as many as the LSTM (ours).

    Args:
        hidden: units of the first three cells.
    """

    def __init__(self, hidden: int = 74) -> None:
        """Builds the network with PyTorch's own initialisation."""
        super().__init__()
        self.sizes = [hidden, hidden, hidden, 1]
        self.cells = nn.ModuleList(
            nn.GRUCell(of, size) for of, size in zip([INPUTS, *self.sizes], self.sizes, strict=False)
        )

    def initial(self, like: torch.Tensor) -> Memory:
        """Returns zeros: the hidden state of each cell."""
        return tuple(like.new_zeros(len(like), size) for size in self.sizes)

    def forward(self, inputs: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Computes the update, the last cell's hidden state; the memory is the states of all cells."""
        after: list[torch.Tensor] = []
        for cell, state in zip(self.cells, memory, strict=True):
            inputs = cell(inputs, state)
            after.append(inputs)
        return inputs.squeeze(-1), tuple(after)


class MlpRule(UpdateRule):
    """A perceptron 2-204-204-204-1 with tanh, which remembers nothing: 84,457 parameters, about as many as the LSTM.

    Args:
        hidden: units of the hidden layers.
    """

    def __init__(self, hidden: int = 204) -> None:
        """Builds the network with PyTorch's own initialisation."""
        super().__init__()
        layers = [m for of in (INPUTS, hidden, hidden) for m in (nn.Linear(of, hidden), nn.Tanh())]
        self.network = nn.Sequential(*layers, nn.Linear(hidden, 1), nn.Tanh())

    def initial(self, like: torch.Tensor) -> Memory:
        """Returns an empty memory: the rule remembers nothing."""
        return ()

    def forward(self, inputs: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Computes the update from this gradient alone."""
        update: torch.Tensor = self.network(inputs).squeeze(-1)
        return update, memory


class TransformerRule(UpdateRule):
    """A small transformer that reads the last gradients of a coordinate and answers at the latest of them (ours).

    Before the first gradient there were zeros. Two layers of width 32 have 17,473 parameters; the LSTM's budget would
    cost eight times its time, since every gradient is read again at each update.

    Args:
        history: how many of the last gradients it reads.
        width: the width of a token, the embedding of a gradient.
        heads: the number of heads of attention.
        layers: the number of layers.
    """

    def __init__(self, history: int = 8, width: int = 32, heads: int = 2, layers: int = 2) -> None:
        """Builds the transformer with PyTorch's own initialisation and learned positions."""
        super().__init__()
        if history < 1:
            raise ValueError(f"history={history}, expected at least 1")
        self.history = history
        self.embed = nn.Linear(INPUTS, width)
        self.positions = nn.Parameter(0.02 * torch.randn(history, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.answer = nn.Linear(width, 1)

    def initial(self, like: torch.Tensor) -> Memory:
        """Returns as many encoded zeros as the transformer reads gradients."""
        return (like.new_tensor([-1.0, 0.0]).expand(len(like), self.history, INPUTS),)

    def forward(self, inputs: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Computes the update, the answer at the last position; the memory is the gradients that were read."""
        read = torch.cat([memory[0][:, 1:], inputs.unsqueeze(1)], 1)
        update = torch.tanh(self.answer(self.encoder(self.embed(read) + self.positions)[:, -1])).squeeze(-1)
        return update, (read,)


class SGDRule(UpdateRule):
    """The gradient itself: with step size γ, gradient descent on the loss's weights (the paper's "SGD teacher")."""

    def initial(self, like: torch.Tensor) -> Memory:
        """Returns an empty memory: the rule remembers nothing."""
        return ()

    def forward(self, inputs: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Returns the gradient, decoded, as the update."""
        return decoded(inputs).squeeze(-1), memory


class RMSPropRule(UpdateRule):
    """The gradient over the root of its mean square (PyTorch's RMSprop).

    Args:
        decay: the decay of the mean square.
        epsilon: a number that is added to the root.
    """

    def __init__(self, decay: float = 0.99, epsilon: float = 1e-8) -> None:
        """Keeps the options; the rule has no parameters."""
        super().__init__()
        self.decay, self.epsilon = decay, epsilon

    def initial(self, like: torch.Tensor) -> Memory:
        """Returns a mean square of zero."""
        return (like.new_zeros(len(like)),)

    def forward(self, inputs: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Returns the gradient over the root of its mean square."""
        gradient = decoded(inputs).squeeze(-1)
        square = self.decay * memory[0] + (1 - self.decay) * gradient.square()
        return gradient / (square.sqrt() + self.epsilon), (square,)


class AdamRule(UpdateRule):
    """Adam's direction (PyTorch's, bias corrected).

    Args:
        betas: the decays of the mean and of the mean square.
        epsilon: a number that is added to the root.
    """

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8) -> None:
        """Keeps the options; the rule has no parameters."""
        super().__init__()
        self.betas, self.epsilon = betas, epsilon

    def initial(self, like: torch.Tensor) -> Memory:
        """Returns zeros: mean, mean square, and how many gradients there were."""
        return tuple(like.new_zeros(len(like)) for _ in range(3))

    def forward(self, inputs: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Returns the corrected mean over the root of the corrected mean square."""
        gradient, (first, second) = decoded(inputs).squeeze(-1), self.betas
        mean, square, count = memory
        mean, square = first * mean + (1 - first) * gradient, second * square + (1 - second) * gradient.square()
        count = count + 1
        root = (square / (1 - second**count)).sqrt()
        return mean / (1 - first**count) / (root + self.epsilon), (mean, square, count)
