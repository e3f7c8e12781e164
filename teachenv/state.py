"""What a training is a function of, and what comes of a step: plain values, tensors of one student or of B."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from teachenv.optimizers import Optimizer, Rate, Tensors, slots_of


@dataclass(frozen=True)
class StudentState:
    """A student in training. A batch of B students: tensors with a leading dimension B, `step` an array (B,).

    Attributes:
        parameters: trainable parameters ω.
        slots: the optimiser's, such as momentum.
        buffers: running statistics, other buffers and frozen parameters.
        step: student steps taken.
    """

    parameters: Tensors
    slots: Tensors
    buffers: Tensors
    step: int | np.ndarray


@dataclass(frozen=True)
class Episode:
    """What one episode's training draws on. A batch of B episodes: tensors with a leading dimension B.

    Attributes:
        seeds: the episode's seed, (seed,), or one for each of B; everything else here is a function of it.
        batches: (horizon, batch) indices into the pool: the minibatch of each step.
        dev: (dev_size,) indices into the pool.
        train: (train_size,) indices into the pool.
    """

    seeds: tuple[int, ...]
    batches: torch.Tensor
    dev: torch.Tensor
    train: torch.Tensor


@dataclass(frozen=True)
class Outcome:
    """What a step reports besides the new state, each a scalar or (B,), from the forward pass that it makes anyway.

    Attributes:
        loss: the taught loss of the minibatch, before the update.
        train_score: the measure's score (accuracy) of the minibatch, before the update.
    """

    loss: torch.Tensor
    train_score: torch.Tensor


@dataclass(frozen=True)
class Gradient:
    """A step's gradient and what came out beside it.

    Attributes:
        parameters: ∇_ω of the loss.
        action: ∇_a of the loss, if asked for.
        buffers: the new buffers.
        outcome: see there.
        statistics: ∇ of the loss with respect to the running statistics before the step, if asked for and not zero.
    """

    parameters: Tensors
    action: torch.Tensor | None
    buffers: Tensors
    outcome: Outcome
    statistics: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Pullback:
    """Cotangents that reach a step's inputs through its gradient and its new running statistics.

    Attributes:
        parameters: of the parameters.
        statistics: of the running statistics.
        action: of the action.
    """

    parameters: Tensors
    statistics: Tensors
    action: torch.Tensor


def updated(
    optimizer: Optimizer,
    state: StudentState,
    gradient: Gradient,
    rate: Rate,
    out: Tensors | None = None,
    ends_step: bool = True,
) -> StudentState:
    """The state after the optimiser's step along a gradient.

    Args:
        optimizer: whose step.
        state: before it.
        gradient: of all parameters; or of some, and the others stay where they are.
        rate: η.
        out: where the parameters are written, if that is given; only if all of them move.
        ends_step: whether the student's step is complete with it.
    """
    parameters, slots = state.parameters, state.slots
    some = len(gradient.parameters) < len(parameters)
    if some:
        parameters = {name: parameters[name] for name in gradient.parameters}
        slots = slots_of(slots, parameters)
    with torch.no_grad():
        parameters, slots = optimizer.update(parameters, gradient.parameters, slots, rate, state.step, out)
    if some:
        parameters, slots = state.parameters | parameters, state.slots | slots
    return StudentState(parameters, slots, gradient.buffers, state.step + 1 if ends_step else state.step)
