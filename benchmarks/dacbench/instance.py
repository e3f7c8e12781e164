"""What is trained: networks, and an instance of DACBench's SGD environment as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from teachenv.students import StudentFactory
from teachenv.tasks.base import Task

WEIGHT_DECAY = 0.01
"""λ of DACBench's students: the default of `torch.optim.AdamW`, which all of them have."""

BASE_RATE = 0.005
"""η that our actions multiply by 10^a: with a in [−1, 1] they reach from 0.0005 to DACBench's largest rate, 0.05."""

LARGEST_RATE = 0.05
"""The upper end of DACBench's action space; the lower one is 0."""

TEST_BATCH = 64
"""Samples in a minibatch of the test set, in DACBench whatever the batch size."""


def mlp() -> nn.Module:
    """A perceptron 784-64-10 that ends in log-probabilities, as DACBench's loss (`nn.NLLLoss`) wants them."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10), nn.LogSoftmax(1))


def convolutions(dropout: bool = True) -> nn.Module:
    """DACBench's network for MNIST (`instance_sets/sgd/small_mnist_model.json`), with or without its dropout."""
    shares = (0.25, 0.5) if dropout else (0.0, 0.0)
    layers = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(shares[0])]
    head = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(shares[1]), nn.Linear(128, 10), nn.LogSoftmax(1)]
    return nn.Sequential(*(layer for layer in [*layers, *head] if dropout or not isinstance(layer, nn.Dropout)))


def convolutions_without_dropout() -> nn.Module:
    """The same without dropout, whose masks the two libraries draw differently."""
    return convolutions(dropout=False)


NETWORKS: dict[str, StudentFactory] = {
    "mlp": mlp,
    "dacbench-cnn": convolutions,
    "dacbench-cnn-without-dropout": convolutions_without_dropout,
}
"""The students by name."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A training run as DACBench's environment has it, with what of its configuration shapes the numbers.

    Attributes:
        network: makes the network, from torch's global generator.
        batch_size: samples in a minibatch.
        cutoff: actions in an episode.
        by_epoch: whether an action holds for an epoch (DACBench's default), or for one step.
        seed: what torch's global generator is seeded with when the environment is made.
        train_share: share of the training set that is trained on; the rest is for validation.
        crash_penalty: the reward of a training run that crashes.
    """

    network: StudentFactory
    batch_size: int
    cutoff: int
    by_epoch: bool
    seed: int = 0
    train_share: float = 0.8
    crash_penalty: float = -100.0

    def train_size(self, samples: int) -> int:
        """How many of the training set's samples are trained on: a multiple of the batch size."""
        size = int(samples * self.train_share)
        return size - size % self.batch_size

    def steps_per_action(self, samples: int) -> int:
        """Student steps under each action."""
        return self.train_size(samples) // self.batch_size if self.by_epoch else 1

    def validation_batches(self, samples: int, ended: bool) -> int:
        """How many minibatches of validation samples an action is followed by.

        All of them at the end of an episode, else a tenth, counted as DACBench counts: it means to take all at the end
        of each epoch, but asks so of the cutoff, which does not change.

        Args:
            samples: of the training set.
            ended: whether this was the episode's last action.
        """
        size = samples - self.train_size(samples)
        whole = ended or self.cutoff % (self.train_size(samples) // self.batch_size) == 0
        return _batches(size, self.batch_size, self.batch_size, 1.0 if whole else 0.1)

    def test_batches(self, tests: int) -> int:
        """How many minibatches of 64 test samples the final loss is taken on: all, for batch sizes up to 64.

        With larger ones DACBench takes fewer: as many as there would be minibatches of the batch size.
        """
        return _batches(tests, TEST_BATCH, self.batch_size, 1.0)

    def options(self, task: Task) -> Mapping[str, Any]:
        """The training as options of `TeachEnv` and `TeachVectorEnv`."""
        samples = len(task.pool[0])
        validation = samples - self.train_size(samples)
        steps = self.steps_per_action(samples)
        return {
            "task": task,
            "student": self.network,
            "optimizer": "adamw",
            "weight_decay": WEIGHT_DECAY,
            "learning_rate": BASE_RATE,
            "control": "learning-rate",
            "loss": "sample-weights",
            "objective": "likelihood",
            "batch_size": self.batch_size,
            "horizon": self.cutoff * steps,
            "steps_per_action": steps,
            "dev_size": validation,
            "dev_measured": min(validation, self.batch_size * self.validation_batches(samples, ended=False)),
        }


def _batches(samples: int, size: int, counted_as: int, share: float) -> int:
    """How many minibatches DACBench's evaluation goes through before it stops."""
    return min(math.ceil(samples / size), max(1, math.ceil(share * (samples / counted_as))))
