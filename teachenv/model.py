"""A student's network with the data that it is trained on and measured on; nothing here knows of losses or optimisers.

`Model` is a frozen value: another mapping over students, another dev batch or measure is a `dataclasses.replace`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import repeat
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from teachenv.mapping import Loop, Mapping, One, Vmap
from teachenv.optimizers import Tensors
from teachenv.randomness import Purpose, generator
from teachenv.rows import Rows
from teachenv.state import Episode, StudentState
from teachenv.students.calling import as_floats
from teachenv.students.functional import FunctionalStudent
from teachenv.tasks.base import Augmentation, Task
from teachenv.tasks.decisions import Decisions
from teachenv.tasks.measures import Measure, Network
from teachenv.tasks.packing import augmented

T = TypeVar("T")
Metrics = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# Evaluations without gradients go through the network in pieces of at most so many samples, to bound their memory. On
# the CPU also of at most so many bytes of inputs: then what layers give stays in the processor's cache (ResNet-8 on
# 1,000 images of CIFAR-10 in a quarter of the time, LeNet on MNIST in two thirds; small inputs are not cut up).
_MOST_SAMPLES, _MOST_BYTES = 2000, 1_500_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A network as a pure function, or B of them, with its data.

    Attributes:
        student: the network.
        task: the data, on the student's device and in its dtype.
        rows: the task's labelled samples, which the indices of episodes point into.
        measure: what the student is judged by.
        decisions: how its outputs are read by a loss.
        augmentation: what training minibatches go through; None: nothing.
        dev_measured: how many of the dev samples J and the metrics are taken on; None: all.
        mapping: whether there is one student or many, and how many are computed.
    """

    student: FunctionalStudent
    task: Task
    rows: Rows
    measure: Measure
    decisions: Decisions
    augmentation: Augmentation | None = None
    dev_measured: int | None = None
    mapping: Mapping = field(default_factory=One)

    @property
    def pieces(self) -> tuple[object, ...]:
        """What the functions of a student's tensors call, see `Mapping.recorded`."""
        return self.student, self.measure, self.decisions

    # --- data ---------------------------------------------------------------------------------------------------------

    def minibatch(
        self,
        episode: Episode,
        step: int | np.ndarray,
        strength: torch.Tensor | None = None,
        *,
        around: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (batch, ...) and targets (batch, ...) of the step, a function of (episode, step) and the strength.

        Args:
            episode: which training; of many students, a batch of episodes.
            step: t; of many students, an array (B,), and the results have a leading dimension B.
            strength: the coordinate of the augmentation in [−1, 1], () or (B,), see `teachenv.control`; None: 0.
            around: whether inputs are three minibatches, (3, batch, ...): the step's, and those of which the expected
                loss is made: with the strength's larger number of times augmented, and with the smaller one.
        """
        indices = self.indices(episode, step)
        # By index_select, which is faster on a CPU than indexing.
        inputs, targets = (t.index_select(0, indices.reshape(-1)) for t in (self.rows.inputs, self.rows.targets))
        if indices.dim() > 1:
            inputs, targets = (t.view(*indices.shape, *t.shape[1:]) for t in (inputs, targets))
        return self._trimmed(self._augmented(inputs, episode, step, strength, around), targets)

    def indices(self, episode: Episode, step: int | np.ndarray) -> torch.Tensor:
        """Which of the rows the step's minibatch has, (batch,) or (B, batch); see `minibatch`.

        Raises:
            ValueError: the episode has no such step.
        """
        steps: int | tuple[torch.Tensor, torch.Tensor]
        steps = (torch.arange(len(step)), torch.from_numpy(step)) if isinstance(step, np.ndarray) else step
        try:
            return episode.batches[steps]
        except IndexError as error:
            raise ValueError(
                f"found student step {int(np.max(step))} of an episode whose steps are 0 to "
                f"{episode.batches.shape[-2] - 1}; take fewer actions, or make horizon larger"
            ) from error

    def _augmented(
        self,
        inputs: torch.Tensor,
        episode: Episode,
        step: int | np.ndarray,
        strength: torch.Tensor | None,
        around: bool,
    ) -> torch.Tensor:
        if self.augmentation is None:
            return inputs
        steps = np.atleast_1d(step)
        strengths = [0.0] * len(steps) if strength is None else strength.reshape(-1).tolist()
        each = as_floats(inputs, self.student.dtype)
        one = not isinstance(step, np.ndarray)
        of_students = zip([each] if one else each, episode.seeds, map(int, steps), strengths, strict=True)
        results = [self._augmented_one(*of_student, around) for of_student in of_students]
        return results[0] if one else torch.stack(results)

    def _augmented_one(self, inputs: torch.Tensor, seed: int, step: int, strength: float, around: bool) -> torch.Tensor:
        """One student's minibatch, or three; see `minibatch`."""
        random = generator(seed, Purpose.AUGMENTATION, step)
        if not (strength or around):
            return augmented(self.augmentation, self.task.packing, inputs, random)

        def again(inputs: torch.Tensor) -> torch.Tensor:
            # Of a copy: it may write into what it gets, which is needed afterwards.
            return augmented(self.augmentation, self.task.packing, inputs.clone(), random)

        once = again(inputs)
        fewer = inputs if strength <= 0 else once
        more = again(once) if strength >= 0 else once
        other = fewer if strength < 0 else more
        drawn = torch.from_numpy(generator(seed, Purpose.AUGMENTED, step).random(len(inputs)) < abs(strength))
        chosen = drawn.to(inputs.device).view(-1, *[1] * (inputs.dim() - 1))
        taken = torch.where(chosen, other, once)
        return torch.stack([taken, more, fewer]) if around else taken

    def dev(self, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
        """The dev inputs and targets that J and the metrics are taken on."""
        measured = episode.dev[..., : self.dev_measured]
        return self._trimmed(self.rows.inputs[measured], self.rows.dev_targets[measured])

    def train_sample(self, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
        """As many training samples as dev has, the same all episode long: a measure that decodes is scored on them."""
        some = episode.train[..., : self.dev_measured or episode.dev.shape[-1]]
        return self._trimmed(self.rows.inputs[some], self.rows.targets[some])

    def _trimmed(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (inputs, targets) if self.task.trim is None else self.task.trim(inputs, targets)

    def random_states(
        self, episode: Episode, step: int | np.ndarray, passes: int = 1
    ) -> Iterator[AbstractContextManager[None]]:
        """The contexts in which the training passes of each student draw the same random numbers, in order."""
        if not self.student.stochastic:
            return repeat(nullcontext())
        pairs = zip(episode.seeds, np.atleast_1d(step), strict=True)
        return (self.student.random_state(seed, int(t)) for seed, t in pairs for _ in range(passes))

    # --- measurements -------------------------------------------------------------------------------------------------

    def objective(self, state: StudentState, episode: Episode) -> torch.Tensor:
        """J: the smooth objective on dev, a scalar or (B,), differentiable where the state needs gradients."""
        return self.objective_on(state, *self.dev(episode))

    def objective_on(self, state: StudentState, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The smooth objective on the given data, as `objective`; arguments as of `metrics`."""

        def objective(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            network = _Network(self, parameters, buffers, differentiable=True)
            return self.measure.objective_of(network, inputs, targets)

        return self.mapping(objective)(state.parameters, state.buffers, inputs, targets)

    def metrics(self, state: StudentState, inputs: torch.Tensor, targets: torch.Tensor) -> Metrics:
        """(objective, score, features) of the student on the given data, without gradients.

        Args:
            state: the student, or a batch of them.
            inputs: (n, ...), or (B, n, ...) for a batch of students.
            targets: targets of these inputs, (n, ...), or (B, n, ...).
        """

        def metrics(parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor) -> Metrics:
            return self.measure.judge(_Network(self, parameters, buffers), inputs, targets)

        with torch.no_grad():
            return self.mapping.recorded(self.mapping(metrics), self.pieces, "metrics")(
                state.parameters, state.buffers, inputs, targets
            )

    def blank_metrics(
        self, state: StudentState, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(objective, score) of a network whose outputs are all 0: it prefers no answer. Arguments as of `metrics`."""

        def metrics(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return self.measure.judge(_BlankNetwork(self, parameters, buffers), inputs, targets)[:2]

        with torch.no_grad():
            return self.mapping(metrics)(state.parameters, state.buffers, inputs, targets)

    def report(self, state: StudentState, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a measure reports of each student alone: each () or (B,)."""

        def report(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            reported = self.measure.report_of(_Network(self, parameters, buffers), inputs, targets)
            return {name: torch.tensor(value, dtype=torch.float64) for name, value in reported.items()}

        mapping = Loop() if isinstance(self.mapping, Vmap) else self.mapping
        with torch.no_grad():
            return mapping(report)(state.parameters, state.buffers, inputs, targets)

    def network(self, parameters: Tensors, buffers: Tensors) -> Network:
        """One student with its tensors, as measures see it."""
        return _Network(self, parameters, buffers)

    def outputs(self, state: StudentState, inputs: torch.Tensor) -> torch.Tensor:
        """The student's outputs in evaluation mode, without gradients: (n, outputs, ...), or (B, n, outputs, ...)."""
        with torch.no_grad():
            return self.mapping(self._evaluated)(state.parameters, state.buffers, inputs)

    def _evaluated(self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor) -> torch.Tensor:
        pieces = [
            self.student(parameters, buffers, piece, training=False, differentiable=self.mapping.form)[0].outputs
            for piece in torch.split(inputs, _piece(inputs))
        ]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def _piece(inputs: torch.Tensor) -> int:
    """How many samples of inputs, (n, ...), are evaluated at once."""
    if inputs.device.type != "cpu":
        return _MOST_SAMPLES
    size = math.prod(inputs.shape[1:]) * inputs.element_size()
    return max(1, min(_MOST_SAMPLES, _MOST_BYTES // max(1, size)))


class _Network:
    """One student with its tensors, as measures see it: a `teachenv.tasks.measures.Network`."""

    def __init__(self, model: Model, parameters: Tensors, buffers: Tensors, differentiable: bool = False) -> None:
        self._model, self._tensors, self._differentiable = model, (parameters, buffers), differentiable

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        model = self._model
        if not self._differentiable:
            return model._evaluated(*self._tensors, inputs)
        form = model.mapping.form or True
        return model.student(*self._tensors, inputs, training=False, differentiable=form)[0].outputs

    def module(self) -> AbstractContextManager[nn.Module]:
        return self._model.student.held(*self._tensors)


class _BlankNetwork(_Network):
    """A network whose outputs are all 0: it prefers no answer."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(super().__call__(inputs))
