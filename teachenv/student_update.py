"""The updates of an environment's students: a step along the gradient of a loss on the episode's next minibatch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from teachenv.control import AUGMENTATION, Control
from teachenv.graphs import adjoint_of, sources
from teachenv.losses.base import LossFamily
from teachenv.model import Model
from teachenv.optimizers import Optimizer, Rate, Tensors
from teachenv.rows import Rows
from teachenv.schedules import Schedule
from teachenv.state import Episode, Gradient, Outcome, Pullback, StudentState
from teachenv.students.kernels import DifferentiableKernels
from teachenv.trees import leaves
from teachenv.update import Adjoint, Update

T = TypeVar("T")


@dataclass(frozen=True)
class Move:
    """Which loss moves which parameters, and how fast.

    Attributes:
        loss: the family that gives actions their meaning.
        learning_rate: base learning rate η.
        schedule: factor on η by student step.
        control: what of an action the loss reads, and what sets the optimiser.
        prefix: how the names of the parameters that move begin.
        detaches: whether the loss detaches something that depends on the student (`detach`, `torch.no_grad`). A step's
            derivative follows it nevertheless.
        unfollowed: whether the loss's gradient is not its derivative for another reason, such as a hook.
    """

    loss: LossFamily
    learning_rate: float
    schedule: Schedule
    control: Control
    prefix: str = ""
    detaches: bool = False
    unfollowed: bool = False

    def rate(self, step: int | np.ndarray) -> float | np.ndarray:
        """The learning rate at a step, or at each of an array of steps."""
        factor = self.schedule(step)
        return self.learning_rate * (np.asarray(factor, dtype=float) if isinstance(step, np.ndarray) else float(factor))

    def places(self, rows: Rows, samples: torch.Tensor) -> torch.Tensor | None:
        """Which of the loss's coordinates the loss of a minibatch is given, (..., m); None: all of them.

        Args:
            rows: the labelled samples.
            samples: where the minibatch's samples are in the rows, (..., batch).
        """
        size = self.control.loss_size
        if self.loss.of_domains:
            assert rows.domains is not None
            every = torch.arange(size, device=samples.device).expand(*samples.shape[:-1], -1)
            return torch.cat([rows.domains[samples], every], -1)
        if not self.loss.of_pool:
            return None
        each = size // rows.pool  # a sample may have several
        return (samples[..., None] * each + torch.arange(each, device=samples.device)).flatten(-2)


@dataclass(frozen=True, eq=False, kw_only=True)
class StudentUpdate(Update):
    """The update of an environment's student, or of a batch of them, in one episode.

    Attributes:
        model: network and data.
        episode: the episode of the training.
        move: the loss, the parameters that move along its gradient, and the learning rate.
    """

    model: Model
    episode: Episode
    move: Move

    def rate(self, state: StudentState) -> Rate:
        """The scheduled learning rate; one number for all students if they stand at the same step."""
        step = state.step
        if isinstance(step, np.ndarray):
            if step.min() != step.max():
                return torch.as_tensor(
                    self.move.rate(step), dtype=self.model.student.dtype, device=self.model.task.pool[0].device
                )
            step = int(step[0])
        return float(self.move.rate(step))

    @property
    def adjusts(self) -> bool:
        """Whether the action sets the optimiser, too: that of the student, whose update is the last."""
        return self.ends_step and bool(self.move.control.settings)

    def optimizer_at(self, state: StudentState, action: torch.Tensor) -> tuple[Optimizer, Rate]:
        """The optimiser and the learning rate of a step, see `Update.optimizer_at`."""
        rate = self.rate(state)
        return self.move.control.applied(self.optimizer, rate, action) if self.adjusts else (self.optimizer, rate)

    def of_action(self, state: StudentState, action: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """Puts the derivative of the minibatch's coordinates into their places, see `Update.of_action`."""
        control, places = self.move.control, self._places(state.step)
        of_augmentation = part[..., -1] if control.augmentation else None
        if control.augmentation:
            part = part[..., :-1]
        if places is None or not control.loss:
            return control.of_action(part, of_augmentation)
        # Of many students each has a minibatch of its own; of many cotangents of one student all have the same.
        of_one = places.expand_as(part)
        if self.move.loss.of_domains:
            every = part.new_zeros(*part.shape[:-1], control.loss_size)
            return control.of_action(every.scatter_add(-1, of_one, part), of_augmentation)
        if of_augmentation is not None:
            part = torch.cat([part, of_augmentation[..., None]], -1)
            of_one = F.pad(of_one, (0, 1), value=control.place(AUGMENTATION))
        places = of_one[None]
        if part.dim() > 1:
            rows = torch.arange(len(part), device=part.device)[:, None].expand_as(part)
            places = torch.stack([rows, of_one])
        shape = (*part.shape[:-1], action.shape[-1])
        return torch.sparse_coo_tensor(places.flatten(1), part.flatten(), shape, check_invariants=False)

    def _read(
        self, step: int | np.ndarray, action: torch.Tensor, *, with_action: bool = True
    ) -> tuple[Iterator[AbstractContextManager[None]], torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a step's pass reads: its random states, inputs, targets, and what its loss is given of the action.

        Of an action that is what control gives the loss, or the coordinates of the minibatch's samples. Where the pass
        is differentiated with respect to an action that sets the augmentation, that coordinate comes last, and inputs
        are three minibatches, see `Model.minibatch`.
        """
        of_loss, places = self.move.control.of_loss(action), self._places(step)
        if places is not None:
            of_loss = of_loss.gather(-1, places)
        strength = self.move.control.of_augmentation(action)
        around = False
        if strength is not None and with_action:
            around = True
            of_loss = torch.cat([of_loss, strength[..., None]], -1)
            strength = strength.detach()
        random_states = self.model.random_states(self.episode, step, passes=3 if around else 1)
        return random_states, *self.model.minibatch(self.episode, step, strength, around=around), of_loss

    def _places(self, step: int | np.ndarray) -> torch.Tensor | None:
        return self.move.places(self.model.rows, self.model.indices(self.episode, step))

    def moved(self, parameters: Tensors) -> list[str]:
        """Names of the parameters that the update moves."""
        return [name for name in parameters if name.startswith(self.move.prefix)]

    def gradient(
        self, state: StudentState, action: torch.Tensor, *, with_action: bool = False, of_all: bool = False
    ) -> Gradient:
        """The gradient of the taught loss on the step's minibatch, see `Update.gradient`."""
        student = self.model.student
        names = list(state.parameters) if of_all else self.moved(state.parameters)
        of_statistics = student.statistics if of_all and student.reads_statistics else []
        random_states, *read = self._read(state.step, action, with_action=with_action)

        def gradient(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor, action: torch.Tensor
        ) -> Gradient:
            parameters = leaves(parameters)
            statistics = leaves({name: buffers[name] for name in of_statistics})
            action = action.detach().requires_grad_(with_action)
            wanted = [*(parameters[name] for name in names), *statistics.values(), *([action] if with_action else [])]
            forward = self._forward(random_states, differentiable=bool(of_statistics), with_action=with_action)
            at = parameters, buffers | statistics, inputs, targets, action
            grads, new_buffers, outcome = self._differentiated(forward, at, wanted)
            of_parameters = dict(zip(names, grads, strict=False))
            d_statistics = dict(zip(of_statistics, grads[len(names) :], strict=False))
            of_action = grads[-1] if with_action else None
            return Gradient(of_parameters, of_action, _detached(new_buffers), outcome, d_statistics)

        return self._recorded(gradient, "gradient", with_action, of_all)(state.parameters, state.buffers, *read)

    def _recorded(self, function: Callable[..., T], *name: Hashable) -> Callable[..., T]:
        return self.model.mapping.recorded(function, (*self.model.pieces, self.move.loss), self.move.prefix, *name)

    def linearize(self, state: StudentState, action: torch.Tensor) -> tuple[Gradient, Adjoint]:
        """The gradient and its adjoint, see `Update.linearize`."""
        random_states, *read = self._read(state.step, action)
        return self._linearized(random_states, state.parameters, state.buffers, *read)

    def pullback(
        self, state: StudentState, action: torch.Tensor, d_gradient: Tensors | None, d_statistics: Tensors
    ) -> Pullback:
        """The adjoint by double backward, see `Update.pullback`."""
        random_states, *read = self._read(state.step, action)
        second_order = d_gradient is not None

        def pullback(*at: Any) -> Pullback:
            *of_gradient, d_gradient, d_statistics = at
            _, adjoint = self._linearized(random_states, *of_gradient, second_order=second_order)
            return adjoint(d_gradient, d_statistics)

        return self._recorded(pullback, "pullback", second_order)(
            state.parameters, state.buffers, *read, d_gradient or {}, d_statistics
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
    ) -> tuple[Gradient, Adjoint]:
        """What `linearize` returns; without `second_order`, no gradient, and only the statistics are pulled back."""
        parameters, action = sources(parameters), action.detach().requires_grad_()
        statistics = sources({name: buffers[name] for name in self.model.student.statistics})
        names = self.moved(parameters) if second_order else []
        forward = self._forward(random_states, differentiable=True)
        at = parameters, buffers | statistics, inputs, targets, action
        wanted = [parameters[name] for name in names]
        grads, new_buffers, outcome = self._differentiated(forward, at, wanted, create_graph=True)
        gradient = dict(zip(names, grads, strict=True))
        adjoint = adjoint_of(gradient, new_buffers, parameters, statistics, action)
        return Gradient(_detached(gradient), None, _detached(new_buffers), outcome), adjoint

    def gradient_with_graph(
        self, parameters: Tensors, buffers: Tensors, step: int | np.ndarray, action: torch.Tensor
    ) -> tuple[Tensors, Tensors]:
        """The gradient with its graph, see `Update.gradient_with_graph`."""
        random_states, *read = self._read(step, action)
        names = self.moved(parameters)
        forward = self._forward(random_states, differentiable="batched")
        wanted = [parameters[name] for name in names]
        grads, new_buffers, _ = self._differentiated(forward, (parameters, buffers, *read), wanted, create_graph=True)
        return dict(zip(names, grads, strict=True)), new_buffers

    def _differentiated(
        self,
        forward: Callable[..., tuple[torch.Tensor, torch.Tensor, Tensors]],
        at: tuple[Any, ...],
        wanted: list[torch.Tensor],
        *,
        create_graph: bool = False,
    ) -> tuple[tuple[torch.Tensor, ...], Tensors, Outcome]:
        """(derivatives of the students' losses with respect to what is wanted, new buffers, outcome) of one pass.

        Args:
            forward: one student's pass, from `_forward`.
            at: its tensors, of all students.
            wanted: those of them, or what they were made from; none: nothing is differentiated.
            create_graph: whether the derivatives can be differentiated again.
        """
        with torch.enable_grad():
            losses, scores, new_buffers = self.model.mapping(forward)(*at)
            # A student's loss depends on its own parameters only, so the sum gives each its own.
            total = losses.sum() if losses.dim() else losses
            grads = (
                torch.autograd.grad(total, wanted, create_graph=create_graph, materialize_grads=True) if wanted else ()
            )
        return grads, new_buffers, Outcome(losses.detach(), scores)

    def _forward(
        self,
        random_states: Iterator[AbstractContextManager[None]],
        *,
        differentiable: bool | Literal["batched"],
        with_action: bool = True,
    ) -> Callable[..., tuple[torch.Tensor, torch.Tensor, Tensors]]:
        """One student's training pass, a function of what `_read` gives to (loss, minibatch score, new buffers).

        Args:
            random_states: the contexts in which the calls draw their random numbers, in order.
            differentiable: make the new buffers differentiable, too; see `FunctionalStudent.__call__`.
            with_action: whether it was read to be differentiated with respect to the action.
        """

        def forward(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor, action: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
            with next(random_states):
                prediction, new_buffers = self.model.student(
                    parameters,
                    buffers,
                    inputs,
                    training=True,
                    differentiable=self.model.mapping.form or differentiable,
                    with_head=self.move.loss.needs_head,
                )
            score = self.model.measure.score(prediction.outputs.detach(), targets)
            decided = self.model.decisions(prediction, targets)
            follows = differentiable and self.move.detaches
            with DifferentiableKernels(fused=False, opens=True) if follows else nullcontext():
                loss = self.move.loss(action, decided.prediction, decided.labels)
            return loss if decided.rest is None else loss + decided.rest, score, new_buffers

        def expected(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor, action: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
            """The step's pass, with the slope of the expected one in the augmentation's coordinate."""
            of_loss, strength = action[..., :-1], action[..., -1]
            passes = [forward(parameters, buffers, each, targets, of_loss) for each in inputs.unbind(0)]
            (loss, score, after), (more_loss, _, more), (fewer_loss, _, fewer) = passes
            # Its value is zero. At zero more and fewer are two apart.
            by = (strength - strength.detach()) * torch.where(strength == 0, 0.5, 1.0)
            moved = {n: b + by * (more[n] - fewer[n]) if b.is_floating_point() else b for n, b in after.items()}
            return loss + by * (more_loss - fewer_loss), score, moved

        return expected if with_action and self.move.control.augmentation else forward


def _detached(tensors: Tensors) -> Tensors:
    return {name: t.detach() for name, t in tensors.items()}
