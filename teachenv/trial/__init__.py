"""A trial of the pieces that a user brings, when an environment is made.

Each piece is called as a training will call it, on one minibatch, and what it returns is compared with its contract.
What does not fit is an error of one line.

The pieces of this package are tried by its tests, and cost nothing here. A student's network has a trial of its own,
`teachenv.students.contract`.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from teachenv.dynamics import Dynamics
from teachenv.randomness import Purpose, generator
from teachenv.student_update import Move
from teachenv.trial.calls import ours
from teachenv.trial.data import augmented, decided, output_shape, trimmed, try_trim_of_many
from teachenv.trial.losses import action_size, check_prefixes, sides, try_loss, watch_gradients
from teachenv.trial.measures import check_names, try_measure
from teachenv.trial.optimizers import OptimizerTrial

__all__ = ["action_size", "ours", "output_shape", "sides", "try_pieces", "try_pieces_of_many"]


def try_pieces(dynamics: Dynamics, batch_size: int, action: torch.Tensor, optimizer: str) -> tuple[Move, ...]:
    """Tries what of a student's training is a user's own, as one student's environment calls it.

    Args:
        dynamics: the training of one student.
        batch_size: samples in a minibatch.
        action: the zero action.
        optimizer: the optimiser's name.

    Returns:
        The moves of the training, with what was found of the gradients of their losses.

    Raises:
        ValueError: a piece does not keep its contract; names the piece, what was found, what is expected, and what to
            do.
    """
    task, student, dtype = dynamics.task, dynamics.student, dynamics.student.dtype
    moves = [move for move in dynamics.moves if not ours(move.loss)]
    if not ours(dynamics.optimizer):
        in_part = any(move.prefix for move in dynamics.moves)
        OptimizerTrial(dynamics.optimizer, optimizer, dtype, student.device).one(0, in_part=in_part)
    # A measure or decisions of this package's may be made by decisions of a user's.
    judged_by_user = not (ours(dynamics.measure) and ours(dynamics.decisions))
    if judged_by_user:
        check_names(dynamics.measure)
    of_data = [piece for piece in (dynamics.augmentation, task.trim) if piece is not None and not ours(piece)]
    if not (moves or judged_by_user or of_data):
        return dynamics.moves
    inputs, targets = _minibatch(dynamics, batch_size)
    trained = trimmed(task, augmented(task, dynamics.augmentation, inputs, dtype), targets)
    if not moves and not judged_by_user:
        return dynamics.moves
    parameters, buffers = student.init(0)
    if moves:
        check_prefixes(dynamics.loss, dynamics.moves, parameters)
    tried: dict[str, Move] = {}
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    with student.random_state(0, 0), torch.enable_grad():
        with_head = any(move.loss.needs_head for move in moves)
        prediction, _ = student(leaves, buffers, trained[0], training=True, with_head=with_head)
        seen = decided(task, dynamics.decisions, prediction, trained[1], dtype)
        for move in moves:
            of_loss = dynamics.control.of_loss(action)
            places = move.places(dynamics.rows, torch.arange(batch_size, device=student.device))
            of_step = of_loss if places is None else of_loss.gather(-1, places)
            try_loss(move.loss, of_step, seen, dtype)
            detaches, unfollowed = watch_gradients(move.loss, of_step, seen)
            tried[move.prefix] = replace(move, detaches=detaches, unfollowed=unfollowed)
    if judged_by_user:
        try_measure(dynamics.measure, dynamics.network(parameters, buffers), *trimmed(task, inputs, targets), dtype)
    return tuple(tried.get(move.prefix, move) for move in dynamics.moves)


def try_pieces_of_many(dynamics: Dynamics, batch_size: int, optimizer: str) -> None:
    """Tries what only an environment of many students asks of a user's own pieces; see `try_pieces`.

    Raises:
        ValueError: a piece does for many students together something else than for each of them.
    """
    if not ours(dynamics.optimizer):
        OptimizerTrial(dynamics.optimizer, optimizer, dynamics.student.dtype, dynamics.student.device).try_many()
    if dynamics.task.trim is not None and not ours(dynamics.task.trim):
        try_trim_of_many(dynamics.task, *_minibatch(dynamics, batch_size))


def _minibatch(dynamics: Dynamics, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of some labelled samples, drawn at random: a pool may be sorted by class."""
    inputs, targets = dynamics.rows.inputs, dynamics.rows.targets
    rows = generator(0, Purpose.SPLIT).choice(len(inputs), size, replace=False)
    index = torch.from_numpy(rows).to(inputs.device)
    return inputs[index], targets[index]
