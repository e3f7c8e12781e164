"""A training run that goes on where it was stopped: steps, evaluations, the best weights, and a file of all that.

What is trained is a `Learner`. The loop takes its steps and, at the stops, evaluates it and keeps everything in a file.
An interrupted training goes on from the file, and ends bitwise as a whole one does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from teachenv import checkpoints


class Point(NamedTuple):
    """What was measured at a stop.

    Attributes:
        step: how many steps there were before it.
        values: what `Learner.evaluate` gave.
        logged: means of what the steps since the last stop gave.
    """

    step: int
    values: dict[str, Any]
    logged: dict[str, float]


class Best(NamedTuple):
    """A network's weights where it was best.

    Attributes:
        value: the number by which the network is the best.
        step: how many steps there were before it.
        weights: the network's `state_dict` there.
    """

    value: float
    step: int
    weights: dict[str, torch.Tensor]


@dataclass
class Record:
    """What has come of a training so far.

    Attributes:
        step: how many steps the training has had.
        curve: a point for each stop.
        best: networks by the names under which they were offered.
        seconds: the seconds that all of it took.
        earlier: those of the seconds that processes before this one spent.
    """

    step: int = 0
    curve: list[Point] = field(default_factory=list)
    best: dict[str, Best] = field(default_factory=dict)
    seconds: float = 0.0
    earlier: float = 0.0

    def offer(self, name: str, value: float, network: nn.Module, higher_is_better: bool = True) -> None:
        """Keeps the network's weights under a name, if the value is the first or a better one."""
        if name not in self.best or better(value, self.best[name].value, higher_is_better):
            weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
            self.best[name] = Best(value, self.step, weights)


class Learner(Protocol):
    """What the loop trains: a network, say, with its optimiser."""

    def step(self, number: int) -> Mapping[str, float] | None:
        """One update; its number, from 0, and `state` decide all randomness. Gives numbers to log, if there are any."""

    def evaluate(self, record: Record) -> dict[str, Any]:
        """What is measured at a stop, as a file may hold it; networks may be offered to the record."""

    def state(self) -> Any:
        """All that changes in training, as a file may hold it."""

    def load(self, state: Any) -> None:
        """Goes on from a `state`."""


def train(learner: Learner, stops: Iterable[int], file: Path, kind: str, known: checkpoints.Known = ()) -> Record:
    """Trains up to the last stop.

    Args:
        learner: what is trained, as it is before the first step.
        stops: after how many steps it is evaluated and kept; those that do not exceed the one before are left out.
        file: where the training is kept, and from where it goes on.
        kind: what the file holds, as errors call it: "a distillation of texts".
        known: what else than plain values the learner's state holds; see `teachenv.checkpoints.save`.

    Raises:
        ValueError: the file is damaged, or of another training run; the message names it.
    """
    known = (Record, Point, Best, *known)
    record, start = _resumed(learner, file, kind, known), time.perf_counter()
    for stop in stops:
        if stop <= record.step:
            continue
        logged = [learner.step(number) or {} for number in range(record.step, stop)]
        record.step = stop
        values = learner.evaluate(record)
        record.curve.append(Point(stop, values, _means(logged)))
        record.seconds = record.earlier + time.perf_counter() - start
        checkpoints.save(file, {"record": record, "learner": learner.state()}, kind, known)
    return record


def evenly(steps: int, count: int) -> list[int]:
    """So many stops at even distances, the last of them after all steps."""
    return [steps * (number + 1) // count for number in range(count)]


def better(value: float, than: float, higher_is_better: bool = True) -> bool:
    """Whether a value is better than another; any number is better than NaN."""
    if math.isnan(than):
        return not math.isnan(value)
    return value > than if higher_is_better else value < than


def _resumed(learner: Learner, file: Path, kind: str, known: checkpoints.Known) -> Record:
    if not file.exists():
        return Record()
    with checkpoints.going_on_from(file):
        content = checkpoints.load(file, kind, known)
        record: Record = content["record"]
        learner.load(content["learner"])
    record.earlier = record.seconds
    return record


def _means(logged: list[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([numbers[key] for numbers in logged if key in numbers])) for key in logged[-1]}
