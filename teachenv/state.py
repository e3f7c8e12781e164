"""The values that a training run's functions take and return: student, episode, gradient; of one student or of B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch

from teachenv import trees
from teachenv.optimizers import Tensors
from teachenv.trees import at, stack

T = TypeVar("T")


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
        batches: (horizon, batch) indices into the rows (`teachenv.rows`): the minibatch of each step.
        dev: (dev_size,) indices into the rows.
        train: (train_size,) indices into the rows.
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
        outcome: what the step reports besides, an `Outcome`.
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
        parameters: the cotangents of the parameters.
        statistics: the cotangents of the running statistics.
        action: the cotangent of the action.
    """

    parameters: Tensors
    statistics: Tensors
    action: torch.Tensor


def apart(students: StudentState, episodes: Episode) -> list[tuple[StudentState, Episode]]:
    """Each student of a batch and its episode, without the leading dimension."""
    pairs = []
    for i, seed in enumerate(episodes.seeds):
        student, episode = at((students, episodes), i)
        pairs.append((replace(student, step=int(student.step)), replace(episode, seeds=(seed,))))
    return pairs


def stack_episodes(episodes: Sequence[Episode]) -> Episode:
    """Stacks episodes into a batch."""
    seeds = tuple(seed for e in episodes for seed in e.seeds)
    return replace(stack([replace(e, seeds=()) for e in episodes]), seeds=seeds)


def take(value: T, rows: Sequence[int]) -> T:
    """The given rows of a batch's `StudentState` or `Episode`."""
    part = at(value, list(rows))
    return replace(part, seeds=tuple(value.seeds[i] for i in rows)) if isinstance(value, Episode) else part  # type: ignore[type-var]


def put(value: T, rows: np.ndarray, new: T) -> T:
    """Part of a batch with the given rows taken from another; `value` stays as it is."""
    if isinstance(value, Episode) and isinstance(new, Episode):
        seeds = dict(enumerate(value.seeds)) | dict(zip(rows.tolist(), new.seeds, strict=True))
        value, new = (replace(each, seeds=tuple(seeds.values())) for each in (value, new))
    return trees.put(value, rows, new)
