"""A trial of a loss family of a user's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from teachenv import checks
from teachenv.losses.base import LossFamily
from teachenv.student_update import Move
from teachenv.tasks.decisions import Decided
from teachenv.trial.calls import called, ours, scalar


def action_size(loss: LossFamily, num_outputs: int, batch_size: int) -> int:
    """The number of action coordinates of a family.

    Raises:
        ValueError: a user's own family says no number of coordinates.
    """
    if ours(loss):
        return loss.action_size(num_outputs, batch_size)
    name = f"action_size of loss {type(loss).__name__}"
    return checks.integer(name, called(name, loss.action_size, lambda: (num_outputs, batch_size)), least=0)


def sides(loss: LossFamily) -> tuple[tuple[LossFamily, str], ...]:
    """The losses of a family's step, and the beginnings of their parameters' names.

    Raises:
        ValueError: a user's own family gives no such pairs.
    """
    if ours(loss):
        return loss.sides()
    name = f"sides() of loss {type(loss).__name__}"
    pairs: object = called(name, loss.sides, tuple)
    if isinstance(pairs, tuple | list) and pairs and all(_is_side(pair) for pair in pairs):
        return tuple((side, prefix) for side, prefix in pairs)
    raise ValueError(
        f"{name} is {checks.shown(pairs)}, expected pairs of a teachenv.LossFamily and the beginning of its "
        "parameters' names; return ((self, ''),) for one loss that moves all of them"
    )


def _is_side(pair: object) -> bool:
    return (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and isinstance(pair[0], LossFamily)
        and isinstance(pair[1], str)
    )


def check_prefixes(loss: LossFamily, moves: Sequence[Move], names: Collection[str]) -> None:
    """Refuses sides that move nothing, or a parameter that another side moves already.

    Args:
        loss: the family.
        moves: its sides.
        names: names of the student's parameters.

    Raises:
        ValueError: the first such side.
    """
    moved: dict[str, str] = {}
    for move in moves:
        covered = [name for name in names if name.startswith(move.prefix)]
        where = f"sides() of loss {type(loss).__name__}: no parameter's name begins with {move.prefix!r}"
        if not covered:
            raise ValueError(f"{where}; choose among {checks.shown(list(names))}")
        if twice := [name for name in covered if name in moved]:
            raise ValueError(
                f"sides() of loss {type(loss).__name__}: {twice[0]!r} begins with both {moved[twice[0]]!r} and "
                f"{move.prefix!r}, expected one loss at most that moves a parameter; make a prefix longer"
            )
        moved |= dict.fromkeys(covered, move.prefix)


def try_loss(loss: LossFamily, action: torch.Tensor, decided: Decided, dtype: torch.dtype) -> None:
    """Takes the loss of a minibatch.

    Args:
        loss: the family, a user's own.
        action: the zero action.
        decided: the minibatch's logits, which hang on parameters, and labels.
        dtype: the student's.

    Raises:
        ValueError: it is no scalar, of another dtype, or cannot be differentiated.
    """
    piece = f"loss {type(loss).__name__}"
    value = called(piece, loss, lambda: (action.clone(), decided.prediction, decided.labels), device=action.device)
    value = scalar(
        f"the value of {piece}",
        value,
        "return the mean over the minibatch, losses.mean(); of an action with one coordinate, action[0]",
        dtype,
    )
    if not value.requires_grad:
        raise ValueError(
            f"the value of {piece} does not depend on the student, expected a function of prediction.outputs that has "
            "a gradient; leave out .detach(), .item() and torch.no_grad()"
        )
