"""One training run of a phase: a student alone or under a teacher, or a teacher alone."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.lgtm.methods import Method
from benchmarks.lgtm_pretraining.methods import Rates
from benchmarks.lgtm_pretraining.phases import Phase, Role
from meta.distillation import Batch, DistillationSettings, Distiller
from teachenv import checkpoints
from teachenv.experiment import loop
from teachenv.experiment.cases import Outcome
from teachenv.experiment.loop import Record
from teachenv.experiment.precision import MatmulPrecision, matmuls
from teachenv.minibatches import minibatches
from teachenv.randomness import Purpose, generator, torch_seed

NETWORK = "network"
"""The file of a trained network: the `state_dict` that was best on dev."""

_PRECISION: MatmulPrecision = "medium"

# What files hold, as `teachenv.checkpoints` has it.
_WEIGHTS, _TRAINING = "a trained network", "a training of a language model or classifier"


def train(
    phase: Phase,
    method: Method,
    rates: Rates,
    seed: int,
    folder: Path,
    *,
    role: Role = "student",
    begin: Path | None = None,
    teacher: Path | None = None,
    test: bool = True,
) -> Outcome:
    """Trains a network, keeps what was best on dev, and measures it.

    Args:
        phase: data, networks and lengths.
        method: how the network is taught.
        rates: learning rates, and the factor of influence.
        seed: decides all randomness.
        folder: where the training and the network are kept, and from where the training goes on.
        role: whose size the network has.
        begin: folder of the network that it begins as; None: it is drawn.
        teacher: folder of the network that its teacher begins as; None: nobody teaches.
        test: whether test is touched; a training run that tunes does not.

    Returns:
        The phase's metric on dev and test, and under LGTM the `influence_ratio`: the mean size of the influence term,
        as a share of the rest of the teacher's gradient. The data has the `curve`, (step, metric on dev). Steps and
        seconds are of this phase alone, and of this network.
    """
    start, parts = time.perf_counter(), phase.parts()
    network, source = _network(phase, role, seed, begin), _network(phase, "teacher", seed, teacher)
    steps = phase.steps if role == "student" else phase.teacher_steps
    settings = DistillationSettings(steps, rates.student_rate, rates.teacher_rate, **method.settings)
    if rates.influence_rate is not None:
        method = replace(method, options={**method.options, "influence_rate": rates.influence_rate})
    distiller = method.build(source, network, settings, route=[])
    training = _Training(phase, distiller, seed)
    record = loop.train(training, loop.evenly(steps, phase.evaluations), folder / "training", _TRAINING)
    best = record.best[NETWORK]
    checkpoints.save(folder / NETWORK, best.weights, _WEIGHTS)
    values = {f"dev_{phase.metric}": best.value}
    ratios = [point.logged["influence_ratio"] for point in record.curve if "influence_ratio" in point.logged]
    if ratios:
        values["influence_ratio"] = float(np.mean(ratios))
    if test:
        network.load_state_dict(best.weights)
        with matmuls(_PRECISION):
            values |= {f"test_{name}": value for name, value in phase.measured(network, parts.test).items()}
    return Outcome(
        values=values,
        student_steps=steps if role == "student" else 0,
        seconds=record.earlier + time.perf_counter() - start,
        data={"curve": [(point.step, point.values[phase.metric]) for point in record.curve]},
        versions={"matmul_precision": _PRECISION},
    )


def _network(phase: Phase, role: Role, seed: int, begin: Path | None) -> nn.Module:
    """A network as it is drawn, but for the weights that the file in a folder has."""
    with torch_seed(seed, Purpose.INIT, ("teacher", "student").index(role)):
        network = phase.network(role)
    if begin is not None:
        with checkpoints.going_on_from(begin / NETWORK):
            network.load_state_dict({**network.state_dict(), **checkpoints.load(begin / NETWORK, _WEIGHTS)})
    return network


@dataclass
class _Training:
    """A distiller that steps on minibatches, and whose student is measured on dev.

    Attributes:
        phase: says what is measured.
        distiller: what is stepped.
        seed: decides the order of samples, and dropout.
    """

    phase: Phase
    distiller: Distiller
    seed: int

    def __post_init__(self) -> None:
        self._parts, total = self.phase.parts(), self.distiller.settings.steps
        self._train = self._parts.train if self.distiller.needs_feedback else self._parts.labelled
        rng = generator(self.seed, Purpose.BATCHES)

        def order(batch: Batch) -> torch.Tensor:
            samples = np.arange(len(batch.labels))
            return torch.from_numpy(minibatches(rng, samples, min(self.phase.batch_size, len(samples)), total))

        self._order, self._feedback = order(self._train), order(self._parts.feedback)

    def step(self, number: int) -> dict[str, float]:
        """Takes the distiller's step on the next minibatch."""
        batch, feedback = self._train.at(self._order[number]), None
        if self.distiller.needs_feedback:
            feedback = self._parts.feedback.at(self._feedback[number])
        with matmuls(_PRECISION), torch_seed(self.seed, Purpose.DROPOUT, number):
            return self.distiller.step(batch, feedback)

    def evaluate(self, record: Record) -> dict[str, Any]:
        """Measures the student on dev, and offers it to the record."""
        network = self.distiller.student.network
        with matmuls(_PRECISION):
            measures = self.phase.measured(network, self._parts.dev)
        record.offer(NETWORK, measures[self.phase.metric], network, self.phase.higher_is_better)
        return measures

    def state(self) -> dict[str, Any]:
        """All that changes in training."""
        return self.distiller.state()

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.distiller.load(state)
