"""What is measured, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.dacbench.baselines import BASELINES
from benchmarks.dacbench.instance import NETWORKS, Instance
from benchmarks.options import Preset

BATCH_SIZE = 32
"""One of the two batch sizes in DACBench's sets of instances; with the other, 1,024, the reward is wrong there."""

Measurement = Literal["trajectory", "baseline", "speed"]


@dataclass(frozen=True)
class Size:
    """How much of everything a preset measures.

    Attributes:
        seeds: repetitions, unless `--seeds` says otherwise.
        train: training images, a fifth of which are for validation.
        whole: training images where the speed of single steps is measured too: validation after each of them takes a
            time that grows with the validation set.
        test: test images.
        trajectory: actions of a trajectory of steps, one of epochs, and one of steps of the convolutional network; 0:
            there is none.
        epochs: of a baseline's training.
        turns: that each contender takes.
        actions: one-step actions of a perceptron in a turn.
        students: perceptrons trained at once.
        convolutions: convolutional networks trained at once, which are trained one after the other in any case; 0:
            their speed is not measured.
    """

    seeds: int
    train: int
    whole: int
    test: int
    trajectory: tuple[int, int, int]
    epochs: int
    turns: int
    actions: int
    students: int
    convolutions: int


SIZES: dict[Preset, Size] = {
    "smoke": Size(1, 600, 700, 100, (5, 2, 0), 2, 1, 2, 4, 0),
    "laptop": Size(3, 3_000, 60_000, 1_000, (50, 3, 15), 5, 3, 5, 64, 4),
    "paper": Size(5, 60_000, 60_000, 10_000, (200, 5, 50), 100, 11, 20, 64, 64),
}


@dataclass(frozen=True)
class Measured:
    """One piece of work.

    Attributes:
        measurement: see `benchmarks.dacbench`.
        network: a name in `NETWORKS`.
        by_epoch: whether an action holds for an epoch, or for a step.
        actions: in an episode, or in a turn.
        train: training images.
        baseline: a name in `BASELINES`, of a baseline.
        students: how many are trained at once, where speed is measured.
    """

    measurement: Measurement
    network: str
    by_epoch: bool
    actions: int
    train: int
    baseline: str | None = None
    students: int = 1

    @property
    def method(self) -> str:
        """What its rows are called after: the baseline, or how long an action holds."""
        return self.baseline or ("epoch" if self.by_epoch else "step")

    def instance(self, seed: int, cutoff: int | None = None) -> Instance:
        """What is trained; the cutoff is the number of actions by default."""
        return Instance(
            network=NETWORKS[self.network],
            batch_size=BATCH_SIZE,
            cutoff=self.actions if cutoff is None else cutoff,
            by_epoch=self.by_epoch,
            seed=seed,
        )

    def config(self, size: Size) -> dict[str, Any]:
        """What shapes its numbers, as rows have it."""
        config: dict[str, Any] = {
            "measurement": self.measurement,
            "batch_size": BATCH_SIZE,
            "train": self.train,
            "test": size.test,
            "actions": self.actions,
        }
        return config | ({"turns": size.turns, "students": self.students} if self.measurement == "speed" else {})


def measured(size: Size, compared: bool) -> Iterator[Measured]:
    """The pieces of work of a preset, the most telling first.

    Args:
        size: how much.
        compared: whether DACBench is there to be compared with; trajectories need it.
    """
    steps, epochs, of_convolutions = size.trajectory
    if compared:
        yield Measured("trajectory", "mlp", False, steps, size.train)
        yield Measured("trajectory", "mlp", True, epochs, size.train)
    if compared and of_convolutions:
        yield Measured("trajectory", "dacbench-cnn-without-dropout", False, of_convolutions, size.train)
    for train in dict.fromkeys([size.whole, size.train]):
        yield Measured("speed", "mlp", False, size.actions, train, students=size.students)
    yield Measured("speed", "mlp", True, 1, size.train, students=size.students)
    if size.convolutions:
        yield Measured("speed", "dacbench-cnn", False, 1, size.whole, students=size.convolutions)
    for baseline in BASELINES:
        yield Measured("baseline", "mlp", True, size.epochs, size.train, baseline)
