"""The training runs whose samples are attributed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.options import Preset
from teachenv import TeachEnv
from teachenv.tasks.splits import Split

ENSEMBLE = 10
"""How many networks TRAK is averaged over, each of another half of the samples, and how many checkpoints TracIn has."""


def _perceptron() -> nn.Module:
    """The network of dattri's benchmark of MNIST, with its dropout."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1)),
        nn.Linear(64, 10),
    )


def _convolutional() -> nn.Module:
    """Two convolutions and a linear layer, 6,000 parameters."""
    convolutions = nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 10))


STUDENTS: Mapping[str, str | Callable[[], nn.Module]] = {
    "mlp": "mlp",
    "mlp-128-64": _perceptron,
    "cnn": _convolutional,
}


@dataclass(frozen=True)
class Setting:
    """A training run, and how it is measured.

    Attributes:
        student: a name in `STUDENTS`.
        options: the environment's.
        tests: how many of the test split's samples.
        retrainings: how many training runs there are for each share of samples left out.
        averaged: over how many training runs of other seeds our values are averaged in the second of our lines.
        seeds: repetitions.
        turns: how often times are measured.
        methods: names in `benchmarks.attribution.methods.METHODS`.
    """

    student: str
    options: Mapping[str, Any]
    tests: int
    retrainings: int
    averaged: int
    seeds: int
    turns: int
    methods: tuple[str, ...] = (
        *("attribute", "attribute:averaged", "dattri:tracin", "dattri:trak", "traker", "kronfluence:ekfac"),
    )

    def env_options(self, data_root: str | None) -> dict[str, Any]:
        """The options of an environment whose action is one weight for each sample, for the whole training run."""
        held = {"loss": "data-weights", "train_on": "pool", "dev_size": 50, "steps_per_action": self.options["horizon"]}
        return {"student": STUDENTS[self.student], "data_root": data_root, **held, **self.options}

    def make(self, data_root: str | None) -> TeachEnv:
        """The environment."""
        return TeachEnv(**self.env_options(data_root))

    def tests_of(self, env: Any) -> Split:
        """Inputs and targets of the tests, for an environment of this setting, single or vector."""
        inputs, targets = env.task.test
        return inputs[: self.tests], targets[: self.tests]

    @property
    def config(self) -> dict[str, Any]:
        """What shapes the numbers, for the rows."""
        return {**self.options, "tests": self.tests, "retrainings": self.retrainings, "turns": self.turns}


def _digits(**changes: Any) -> dict[str, Any]:
    return {"task": "digits", "horizon": 300, "batch_size": 32, "learning_rate": 0.1, "momentum": 0.0, **changes}


def _mnist(samples: int, epochs: int, **changes: Any) -> dict[str, Any]:
    """Minibatches of 64, rate 0.01 and momentum 0.9 as in dattri's benchmark, which has 5,000 samples, 50 epochs."""
    horizon = epochs * -(-samples // 64)
    sgd = {"batch_size": 64, "learning_rate": 0.01, "momentum": 0.9}
    return {"task": "mnist", "pool_size": samples, "horizon": horizon, **sgd, **changes}


_CG = (*Setting.methods, "dattri:if-cg")
_QUICK = "attribute", "attribute:averaged", "dattri:tracin", "kronfluence:ekfac"

SETTINGS: dict[Preset, dict[str, Setting]] = {
    "smoke": {"digits": Setting("mlp", _digits(pool_size=600, horizon=20), 3, 5, 2, 1, 1, _CG)},
    "laptop": {
        "digits": Setting("mlp", _digits(), 100, 60, 5, 3, 1, _CG),
        "mnist": Setting("mlp-128-64", _mnist(5000, 5), 20, 20, 2, 1, 1),
        "digits-momentum": Setting("mlp", _digits(momentum=0.9), 100, 60, 5, 1, 1, _CG),
        "mnist-cnn": Setting("cnn", _mnist(1000, 10), 10, 20, 2, 1, 1),
        # What momentum does; TRAK takes half an hour there.
        "mnist-no-momentum": Setting(
            "mlp-128-64", _mnist(5000, 5, momentum=0.0, learning_rate=0.05), 20, 20, 2, 1, 1, _QUICK
        ),
    },
    "paper": {
        "digits": Setting("mlp", _digits(), 100, 100, 10, 10, 5, _CG),
        "digits-momentum": Setting("mlp", _digits(momentum=0.9), 100, 100, 10, 10, 5, _CG),
        "mnist": Setting("mlp-128-64", _mnist(5000, 50), 500, 50, 10, 3, 1, _CG),
        "mnist-cnn": Setting("cnn", _mnist(5000, 20), 100, 50, 10, 3, 1, _CG),
    },
}


def loss_of_each(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each test under each student: outputs (students, tests, classes) to (students, tests)."""
    return nn.functional.cross_entropy(outputs.transpose(1, 2), targets.expand(len(outputs), -1), reduction="none")
