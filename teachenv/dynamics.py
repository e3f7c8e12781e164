"""A student's training as pure functions over one value.

    state₀ = init(episode)     state_{t+1}, outcome = step(state_t, episode, action)     J = objective(state, episode)

The state holds all that a step changes; the episode holds all that a step draws on: which samples are train and dev, in
which order they come, and the seed of augmentation and dropout. Nothing is hidden in between, so a step can be replayed
bitwise, batched over students, snapshotted, and differentiated.

`Dynamics` trains one student; `teachenv.batched` trains several of them by the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from itertools import repeat
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from teachenv.losses.base import LossFamily
from teachenv.losses.sample_weights import SampleWeights
from teachenv.minibatches import minibatches
from teachenv.optimizers import Optimizer, Rate, Tensors
from teachenv.randomness import SEED_BOUND, Purpose, generator
from teachenv.recording import Recorder
from teachenv.schedules import Schedule, make_schedule
from teachenv.state import Episode, Gradient, Outcome, Pullback, StudentState, updated
from teachenv.students.functional import FunctionalStudent
from teachenv.students.kernels import opened
from teachenv.tasks.base import Measure, Task
from teachenv.tasks.decisions import Decisions
from teachenv.trees import leaves

T = TypeVar("T")

# Evaluations without gradients go through the network in pieces of this many samples, to bound their memory.
_EVALUATION_BATCH = 2000


class _Held:
    """A student with its tensors, as measures see it."""

    def __init__(self, dynamics: Dynamics, parameters: Tensors, buffers: Tensors, differentiable: bool = False) -> None:
        self._dynamics, self._tensors, self._differentiable = dynamics, (parameters, buffers), differentiable

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        dynamics = self._dynamics
        if not self._differentiable:
            return dynamics._evaluated(*self._tensors, inputs)
        mode = dynamics._mode or True
        return dynamics.student(*self._tensors, inputs, training=False, differentiable=mode)[0].outputs

    def module(self) -> AbstractContextManager[nn.Module]:
        return self._dynamics.student.held(*self._tensors)


class _Blank(_Held):
    """The same, but its outputs are all 0."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(super().__call__(inputs))


class Dynamics:
    """The training of one student.

    Args:
        student: the network as a pure function.
        task: pool and test data, on the student's device and in its dtype.
        measure: what the student is judged by.
        decisions: how its outputs are read by the loss.
        loss: the family that gives actions their meaning.
        optimizer: the student's.
        learning_rate: base learning rate η.
        schedule: factor on η by student step.
        augment: whether minibatches go through the task's augmentation.
        warm_start: steps of cross-entropy that an untrained student takes before the first action.
        dev_measured: of the dev samples, how many J and the metrics are taken on; None: all.
        dev_targets: targets of the pool as dev sees them, if they differ from the task's (label noise in train only).
        known_pure: whether network, loss and measure are all this package's own.
    """

    def __init__(
        self,
        student: FunctionalStudent,
        task: Task,
        measure: Measure,
        decisions: Decisions,
        loss: LossFamily,
        optimizer: Optimizer,
        learning_rate: float,
        schedule: Schedule,
        augment: bool,
        warm_start: int = 0,
        dev_measured: int | None = None,
        dev_targets: torch.Tensor | None = None,
        known_pure: bool = False,
    ) -> None:
        """Holds the pieces."""
        self.student = student
        self.task = task
        self.measure = measure
        self.decisions = decisions
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.augmentation = task.augment if augment else None
        self.warm_start, self.dev_measured = warm_start, dev_measured
        self.dev_targets = task.pool[1] if dev_targets is None else dev_targets
        self.known_pure = known_pure

    def untrained(self, episode: Episode) -> StudentState:
        """The student before any training."""
        parameters, buffers = self.student.init(*episode.seeds)
        return StudentState(parameters, self.optimizer.init(parameters), buffers, 0)

    def init(self, episode: Episode) -> StudentState:
        """The student at the episode's begin: untrained, or after its warm start.

        A warm start is cross-entropy at the base learning rate, on its own minibatches; the slots are fresh after it.
        """
        state = self.untrained(episode)
        if not self.warm_start:
            return state
        plain = copy(self)
        plain.loss, plain.schedule = SampleWeights(), make_schedule("constant", self.warm_start)
        plain._recorder = None  # its recordings are of the teacher's loss
        randoms = [generator(seed, Purpose.WARM_START) for seed in episode.seeds]
        size, trains = episode.batches.shape[-1], episode.train.cpu().numpy().reshape(len(randoms), -1)
        lengths = self.task.lengths
        drawn = [
            minibatches(rng, train, size, self.warm_start, lengths) for rng, train in zip(randoms, trains, strict=True)
        ]
        batches = torch.from_numpy(np.stack(drawn)).view(*episode.batches.shape[:-2], self.warm_start, size)
        seeds = tuple(int(rng.integers(SEED_BOUND)) for rng in randoms)
        warm = replace(episode, seeds=seeds, batches=batches.to(episode.batches.device))
        neutral = torch.zeros_like(warm.batches[..., 0, :], dtype=self.student.dtype)
        begin = state.step
        for _ in range(self.warm_start):
            state, _ = plain.step(state, warm, neutral)
        return StudentState(state.parameters, self.optimizer.init(state.parameters), state.buffers, begin)

    def rate(self, step: int | np.ndarray) -> Rate:
        """The learning rate of the given step; one number for all students if they stand at the same step."""
        if isinstance(step, np.ndarray):
            if step.min() != step.max():
                rates = self.learning_rate * np.asarray(self.schedule(step), dtype=float)
                return torch.as_tensor(rates, dtype=self.student.dtype, device=self.task.pool[0].device)
            step = int(step[0])
        return self.learning_rate * float(self.schedule(step))

    def minibatch(self, episode: Episode, step: int | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of the step, a function of (episode, step)."""
        assert isinstance(step, int)
        indices = episode.batches[step]
        inputs = self.task.pool[0][indices]
        if self.augmentation is not None:
            inputs = self.augmentation(inputs, generator(episode.seeds[0], Purpose.AUGMENTATION, step))
        return self._trimmed(inputs, self.task.pool[1][indices])

    def step(self, state: StudentState, episode: Episode, action: torch.Tensor) -> tuple[StudentState, Outcome]:
        """One step of the optimiser under the loss that the action stands for; leaves the arguments as they are."""
        gradient = self.gradient(state, episode, action)
        return self.updated(state, gradient), gradient.outcome

    def updated(self, state: StudentState, gradient: Gradient, out: Tensors | None = None) -> StudentState:
        """The state after the optimiser's step along a gradient; see the function of that name."""
        return updated(self.optimizer, state, gradient, self.rate(state.step), out, self.ends_step)

    def gradient(
        self,
        state: StudentState,
        episode: Episode,
        action: torch.Tensor,
        *,
        with_action: bool = False,
        of_all: bool = False,
    ) -> Gradient:
        """The gradient of the step's loss with respect to what the step moves, a value without a graph.

        Args:
            state: where.
            episode: which training.
            action: the teacher's action, (n,) or (B, n).
            with_action: also differentiate with respect to the action.
            of_all: differentiate with respect to all parameters, and to the running statistics if the loss reads them.
        """
        names = list(state.parameters) if of_all else self.moved(state.parameters)
        of_statistics = self.student.statistics if of_all and self.student.reads_statistics else []
        random_states = self._random_states(episode, state.step)

        def gradient(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor, action: torch.Tensor
        ) -> Gradient:
            parameters = leaves(parameters)
            statistics = leaves({name: buffers[name] for name in of_statistics})
            action = action.detach().requires_grad_(with_action)
            with torch.enable_grad():
                losses, scores, new_buffers = self._map(
                    self._forward(random_states, differentiable=bool(of_statistics))
                )(parameters, buffers | statistics, inputs, targets, action)
                wanted = [*(parameters[name] for name in names), *statistics.values()]
                grads = torch.autograd.grad(
                    _total(losses), wanted + ([action] if with_action else []), materialize_grads=True
                )
            of_parameters = dict(zip(names, grads, strict=False))
            d_statistics = dict(zip(of_statistics, grads[len(names) :], strict=False))
            of_action = grads[-1] if with_action else None
            outcome = Outcome(losses.detach(), scores)
            return Gradient(of_parameters, of_action, _detached(new_buffers), outcome, d_statistics)

        return self._recorded(gradient, "gradient", with_action, of_all)(
            state.parameters, state.buffers, *self.minibatch(episode, state.step), action
        )

    def linearize(
        self, state: StudentState, episode: Episode, action: torch.Tensor
    ) -> tuple[Gradient, Callable[[Tensors, Tensors], Pullback]]:
        """`gradient` together with its adjoint, whose graph lives as long as the adjoint does.

        Returns:
            The gradient, and the function that `pullback` is with its first three arguments given. It can be called
            once.
        """
        random_states = self._random_states(episode, state.step)
        inputs, targets = self.minibatch(episode, state.step)
        return self._linearized(random_states, state.parameters, state.buffers, inputs, targets, action)

    def pullback(
        self,
        state: StudentState,
        episode: Episode,
        action: torch.Tensor,
        d_gradient: Tensors | None,
        d_statistics: Tensors,
    ) -> Pullback:
        """The adjoint of `gradient`: a vector-Jacobian product, by double backward.

        Args:
            state: where.
            episode: which training.
            action: the teacher's action, (n,) or (B, n).
            d_gradient: cotangent of the gradient; None: the gradient has none, and one backward pass is enough.
            d_statistics: cotangent of the new running statistics; not empty without `d_gradient`.
        """
        random_states = self._random_states(episode, state.step)
        second_order = d_gradient is not None

        def pullback(*at: Any) -> Pullback:
            *of_gradient, d_gradient, d_statistics = at
            _, pull = self._linearized(random_states, *of_gradient, second_order=second_order)
            return pull(d_gradient, d_statistics)

        inputs, targets = self.minibatch(episode, state.step)
        return self._recorded(pullback, "pullback", second_order)(
            state.parameters, state.buffers, inputs, targets, action, d_gradient or {}, d_statistics
        )

    def _linearized(
        self,
        random_states: Iterator[AbstractContextManager[None]],
        parameters: Tensors,
        buffers: Tensors,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        action: torch.Tensor,
        *,
        second_order: bool = True,
    ) -> tuple[Gradient, Callable[[Tensors, Tensors], Pullback]]:
        """See `linearize`; without `second_order` the gradient is left out and only the statistics are pulled back."""
        parameters, action = leaves(parameters), action.detach().requires_grad_()
        statistics = leaves({name: buffers[name] for name in self.student.statistics})
        gradient, new_buffers, outcome = self._with_graph(
            random_states, parameters, buffers | statistics, inputs, targets, action, second_order=second_order
        )

        def pull(d_gradient: Tensors, d_statistics: Tensors) -> Pullback:
            outputs = [*gradient.values(), *(new_buffers[name] for name in d_statistics)]
            cotangents = [*d_gradient.values(), *d_statistics.values()]
            reached = [i for i, output in enumerate(outputs) if output.requires_grad]
            with opened():
                grads = torch.autograd.grad(
                    [outputs[i] for i in reached],
                    [*parameters.values(), *statistics.values(), action],
                    [cotangents[i] for i in reached],
                    materialize_grads=True,
                )
            of_parameters = dict(zip(parameters, grads, strict=False))
            return Pullback(of_parameters, dict(zip(statistics, grads[len(parameters) : -1], strict=True)), grads[-1])

        return Gradient(_detached(gradient), None, _detached(new_buffers), outcome), pull

    def gradient_with_graph(
        self, parameters: Tensors, buffers: Tensors, step: int | np.ndarray, episode: Episode, action: torch.Tensor
    ) -> tuple[Tensors, Tensors]:
        """(gradient, new buffers), differentiable with respect to whatever the arguments were made from.

        Args:
            parameters: they must require gradients; they may be dual tensors of forward mode.
            buffers: likewise.
            step: whose minibatch is taken.
            episode: which training.
            action: the teacher's action, (n,) or (B, n).
        """
        inputs, targets = self.minibatch(episode, step)
        random_states = self._random_states(episode, step)
        return self._with_graph(random_states, parameters, buffers, inputs, targets, action, mode="batched")[:2]

    def _with_graph(
        self,
        random_states: Iterator[AbstractContextManager[None]],
        parameters: Tensors,
        buffers: Tensors,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        action: torch.Tensor,
        *,
        second_order: bool = True,
        mode: Literal[True, "batched"] = True,
    ) -> tuple[Tensors, Tensors, Outcome]:
        with torch.enable_grad():
            losses, scores, new_buffers = self._map(self._forward(random_states, differentiable=mode))(
                parameters, buffers, inputs, targets, action
            )
            gradient: Tensors = {}
            if second_order:
                names = self.moved(parameters)
                wanted = [parameters[name] for name in names]
                grads = torch.autograd.grad(_total(losses), wanted, create_graph=True, materialize_grads=True)
                gradient = dict(zip(names, grads, strict=True))
        return gradient, new_buffers, Outcome(losses.detach(), scores)

    def _forward(
        self, random_states: Iterator[AbstractContextManager[None]], *, differentiable: bool | Literal["batched"]
    ) -> Callable[..., tuple[torch.Tensor, torch.Tensor, Tensors]]:
        """One student's training forward pass, a function of its tensors to (loss, minibatch score, new buffers).

        Args:
            random_states: the contexts in which the calls draw their random numbers, in order.
            differentiable: make the new buffers differentiable, too; see `FunctionalStudent.__call__`.
        """

        def forward(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor, action: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
            with next(random_states):
                prediction, new_buffers = self.student(
                    parameters,
                    buffers,
                    inputs,
                    training=True,
                    differentiable=self._mode or differentiable,
                    with_head=self.loss.needs_head,
                )
            score = self.measure.score(prediction.outputs.detach(), targets)
            made = self.decisions(prediction, targets)
            loss = self.loss(action, made.prediction, made.labels)
            return loss if made.rest is None else loss + made.rest, score, new_buffers

        return forward

    def objective(self, state: StudentState, episode: Episode) -> torch.Tensor:
        """J: the smooth objective on dev, a scalar or (B,), differentiable where the state needs gradients."""

        def objective(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            network = _Held(self, parameters, buffers, differentiable=True)
            return self.measure.objective_of(network, inputs, targets)

        return self._map(objective)(state.parameters, state.buffers, *self.dev(episode))

    def metrics(
        self, state: StudentState, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(objective, score, features) of the student on the given data, without gradients.

        Args:
            state: where.
            inputs: (n, ...), or (B, n, ...) for a batch of students.
            targets: (n, ...), or (B, n, ...).
        """

        def metrics(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return self.measure.judge(_Held(self, parameters, buffers), inputs, targets)

        with torch.no_grad():
            return self._recorded(self._map(metrics), "metrics")(state.parameters, state.buffers, inputs, targets)

    def blank_metrics(
        self, state: StudentState, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(objective, score) of a network whose outputs are all 0: it prefers no answer. Arguments as of `metrics`."""

        def metrics(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return self.measure.judge(_Blank(self, parameters, buffers), inputs, targets)[:2]

        with torch.no_grad():
            return self._map(metrics)(state.parameters, state.buffers, inputs, targets)

    def outputs(self, state: StudentState, inputs: torch.Tensor) -> torch.Tensor:
        """The student's outputs in evaluation mode, without gradients: (n, outputs, ...), or (B, n, outputs, ...)."""
        with torch.no_grad():
            return self._map(self._evaluated)(state.parameters, state.buffers, inputs)

    def report(self, state: StudentState, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a measure that decodes reports of the student: each () or (B,)."""

        def report(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            found = self.measure.report_of(_Held(self, parameters, buffers), inputs, targets)
            return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

        with torch.no_grad():
            return self._map(report)(state.parameters, state.buffers, inputs, targets)

    def _evaluated(self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor) -> torch.Tensor:
        pieces = [
            self.student(parameters, buffers, piece, training=False, differentiable=self._mode)[0].outputs
            for piece in torch.split(inputs, _EVALUATION_BATCH)
        ]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def dev(self, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
        """The dev inputs and targets that J and the metrics are taken on."""
        measured = episode.dev[..., : self.dev_measured]
        return self._trimmed(self.task.pool[0][measured], self.dev_targets[measured])

    def train_sample(self, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
        """As many training samples, the same through the episode: what a measure that decodes takes its score on."""
        some = episode.train[..., : self.dev_measured or episode.dev.shape[-1]]
        return self._trimmed(self.task.pool[0][some], self.task.pool[1][some])

    def _trimmed(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (inputs, targets) if self.task.trim is None else self.task.trim(inputs, targets)

    # What differs where a step moves one of several networks; see `teachenv.joint`.

    ends_step = True
    """Whether the student's step is complete with this one's."""

    def moved(self, parameters: Tensors) -> list[str]:
        """Names of the parameters that a step moves."""
        return list(parameters)

    # What differs between one student and a batch.

    _recorder: Recorder | None = None

    _mode: Literal[False, "batched"] = False
    """What undifferentiated passes, too, need of the student; see `FunctionalStudent.__call__`."""

    def _map(self, function: Callable[..., T]) -> Callable[..., T]:
        """Maps a function of one student's tensors over the students."""
        return function

    def _recorded(self, function: Callable[..., T], *name: Hashable) -> Callable[..., T]:
        """A function of all students' tensors, as a recording where that is faster; see `teachenv.recording`."""
        return function

    def _random_states(self, episode: Episode, step: int | np.ndarray) -> Iterator[AbstractContextManager[None]]:
        """The contexts in which the training forward pass of each student draws its random numbers, in order."""
        if not self.student.stochastic:
            return repeat(nullcontext())
        steps = np.atleast_1d(step)
        return (self.student.random_state(seed, int(t)) for seed, t in zip(episode.seeds, steps, strict=True))


def _detached(tensors: Tensors) -> Tensors:
    return {name: t.detach() for name, t in tensors.items()}


def _total(losses: torch.Tensor) -> torch.Tensor:
    """What to differentiate: a student's loss depends on its own parameters only, so the sum gives each its own."""
    return losses.sum() if losses.dim() else losses
