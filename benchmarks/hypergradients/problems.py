"""The training runs that are differentiated: networks, minibatches, and the loss that actions weigh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.students import make_student

CLASSES, MOMENTUM = 10, 0.9


class Recurrent(nn.Module):
    """A two-layer LSTM over a sequence of vectors."""

    def __init__(self, size: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(size, hidden, num_layers=2, batch_first=True), nn.Linear(hidden, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, size) to logits."""
        outputs: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
        return outputs


class Transformer(nn.Module):
    """A transformer encoder, mean-pooled."""

    def __init__(self, size: int = 32, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(size, heads, 4 * size, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, size) to logits."""
        outputs: torch.Tensor = self.head(self.encoder(x).mean(1))
        return outputs


@dataclass(frozen=True)
class Student:
    """A kind of student and its usual training.

    Attributes:
        build: makes the network.
        shape: the shape of one input.
        batch: samples in a minibatch.
        steps: student steps in its training.
        learning_rate: the rate of SGD with momentum 0.9.
        blocks: whether it is a long sequence of blocks, of which one at a time can be differentiated.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    steps: int
    learning_rate: float
    blocks: bool = False


STUDENTS: dict[str, Student] = {
    "mlp": Student(lambda: make_student("mlp", (1, 28, 28), CLASSES)(), (1, 28, 28), 20, 200, 0.05),
    "lenet": Student(lambda: make_student("lenet", (1, 28, 28), CLASSES)(), (1, 28, 28), 64, 50, 0.02),
    "resnet8": Student(lambda: make_student("resnet8", (3, 32, 32), CLASSES)(), (3, 32, 32), 128, 10, 0.02),
    "lstm": Student(Recurrent, (16, 32), 20, 20, 0.05),
    "transformer": Student(Transformer, (16, 32), 20, 20, 0.02),
    "transformer-12": Student(partial(Transformer, 128, 12), (64, 128), 16, 2, 0.02, blocks=True),
}


class Problem:
    """One training run: everything that the contenders share.

    Attributes:
        name: the student's name in `STUDENTS`.
        student: what is trained.
        steps: number T of student steps.
        module: a network of the initial weights.
        inputs: (pool, *shape), the samples.
        targets: (pool,), their classes.
        order: (T, batch), the samples of each step's minibatch.
        actions: (T, classes), around 0; the weight of a sample of class c in step t is 1 + a[t, c].
    """

    def __init__(
        self,
        student: str,
        steps: int,
        seed: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int | None = None,
    ) -> None:
        """Draws it all from the seed, in float32 and on the CPU, and casts and moves it; `batch` is its size."""
        self.name, self.student, self.steps = student, STUDENTS[student], steps
        if batch is not None:
            self.student = replace(self.student, batch=batch)
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = self.student.build().to(device, dtype).train()
        pool = 4 * self.student.batch
        targets = torch.randint(CLASSES, (pool,), generator=generator)
        means = torch.randn(CLASSES, *self.student.shape, generator=generator)
        noise = torch.randn(pool, *self.student.shape, generator=generator)
        self.inputs, self.targets = (noise + 0.3 * means[targets]).to(device, dtype), targets.to(device)
        self.order = torch.randint(pool, (steps, self.student.batch), generator=generator).to(device)
        self.actions = (0.1 * torch.randn(steps, CLASSES, generator=generator)).to(device, dtype)

    def batch(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The minibatch of step t."""
        rows = self.order[t]
        return self.inputs[rows], self.targets[rows]

    def loss(self, outputs: torch.Tensor, action: torch.Tensor, t: int) -> torch.Tensor:
        """Cross-entropy of the step's minibatch, weighed by class."""
        targets = self.targets[self.order[t]]
        return ((1 + action[targets]) * F.cross_entropy(outputs, targets, reduction="none")).mean()

    def objective(self, network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Cross-entropy on the first samples, in training mode (batch statistics), for every contender alike."""
        size = self.student.batch
        return F.cross_entropy(network(self.inputs[:size]), self.targets[:size])
