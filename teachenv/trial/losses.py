"""A trial of a loss family of a user's own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from teachenv import checks
from teachenv.losses.base import LossFamily
from teachenv.nodes import nodes_of
from teachenv.student_update import Move
from teachenv.students.kernels import DifferentiableKernels
from teachenv.students.numbers_read import depending_on_numbers
from teachenv.students.stopped_gradients import opened
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
    refuse_broadcasting(
        piece,
        lambda outputs, targets: loss(action.clone(), replace(decided.prediction, outputs=outputs), targets),
        tuple(decided.prediction.outputs.shape[1:]),
        decided.labels,
    )
    if not value.requires_grad:
        raise ValueError(
            f"the value of {piece} does not depend on the student, expected a function of prediction.outputs that has "
            "a gradient; leave out .detach(), .item() and torch.no_grad()"
        )


def watch_gradients(loss: LossFamily, action: torch.Tensor, decided: Decided) -> tuple[bool, bool]:
    """Returns what a loss's gradient on a minibatch leaves out: `detaches` and `unfollowed` of a `Move`.

    Args:
        loss: the family, a user's own.
        action: the zero action.
        decided: the minibatch's logits and labels.
    """
    # Features and the head's weight stay as they are: outputs alone are moved.
    features, head = decided.prediction.features, decided.prediction.head_weight
    apart = replace(
        decided.prediction,
        features=None if features is None else features.detach(),
        head_weight=None if head is None else head.detach(),
    )

    def value(outputs: torch.Tensor) -> torch.Tensor:
        return loss(action.clone(), replace(apart, outputs=outputs), decided.labels)

    leaf = decided.prediction.outputs.detach().requires_grad_()
    leaves = [node.variable for node in nodes_of([value(leaf).grad_fn]) if hasattr(node, "variable")]
    _warn_of_others(loss, [tensor for tensor in leaves if tensor is not leaf])

    def with_graph() -> tuple[torch.Tensor, bool]:
        with DifferentiableKernels(fused=False, opens=True) as kernels:
            return value(leaf), kernels.used

    def slope() -> dict[str, torch.Tensor]:
        return {"slope": torch.autograd.grad(with_graph()[0], leaf)[0]}

    try:
        exchanged, detaches = with_graph()
        direct, of_graph = (torch.autograd.grad(each, leaf)[0] for each in (value(leaf), exchanged))
    except Exception:  # what it detaches goes where no derivative can follow
        return False, True
    changes = float((direct - of_graph).norm()) > 1e-3 * float(direct.norm())  # what is not followed
    if changes or depending_on_numbers(slope):
        return False, True
    return detaches, not _is_derivative(value, leaf.detach())


def _is_derivative(value: Callable[[torch.Tensor], torch.Tensor], outputs: torch.Tensor) -> bool:
    """Whether a loss's gradient is its derivative along a random direction.

    Of two differences one is enough: the smaller one is rounding where the loss computes in single precision.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs.device)
    leaf = outputs.double().requires_grad_()
    try:
        with DifferentiableKernels(fused=False, opens=True):
            at_leaf = value(leaf)
        with opened():
            (gradient,) = torch.autograd.grad(at_leaf, leaf)
        products = gradient * direction
        for step, tolerance in ((1e-6, 1e-3), (1e-3, 1e-2)):
            with torch.no_grad():
                plus, minus = (float(value(leaf + sign * step * direction)) for sign in (1, -1))
            error = abs((plus - minus) / (2 * step) - float(products.sum()))
            if error <= tolerance * float(products.abs().sum()) + 1e-9:
                return True
    except Exception:  # it takes one type of numbers
        return True
    return False


def _warn_of_others(loss: LossFamily, others: Sequence[torch.Tensor]) -> None:
    if others:
        warnings.warn(
            f"the loss {type(loss).__name__} reads {len(others)} tensor(s) with requires_grad=True that are not the "
            f"student's, one of shape {tuple(others[0].shape)}. They are constants in a training run. For a penalty on "
            "the student's own parameters use weight_decay, or return what it needs among the network's outputs",
            stacklevel=4,
        )


def refuse_broadcasting(
    piece: str, function: Callable[[torch.Tensor, torch.Tensor], Any], each: tuple[int, ...], targets: torch.Tensor
) -> None:
    """Refuses a function of numbers that compares the outputs of each sample with the targets of all.

    PyTorch does so where shapes are (n, 1) and (n,), and makes (n, n) of them. The total over the samples then stays
    what it is when targets change places.

    Args:
        piece: what it is, for messages.
        function: (outputs, targets) to a tensor, a user's own.
        each: shape of the outputs of a sample.
        targets: those of some samples, (n, ...).

    Raises:
        ValueError: it does so; says which shapes meet.
    """
    outputs_shape = (len(targets), *each)
    turned = targets.roll(1, 0)
    alike = outputs_shape == tuple(targets.shape) or targets.numel() != math.prod(outputs_shape)
    if alike or not targets.is_floating_point() or torch.equal(turned, targets):
        return
    draws = torch.randn(outputs_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = (draws.to(targets.device) * targets.double().std() + targets.double().mean()).to(targets.dtype)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's losses warn of it
        values = [function(outputs.clone(), given) for given in (targets, turned)]
    if not all(isinstance(value, torch.Tensor) for value in values):
        return  # which is said elsewhere
    before, after = (value.double().sum() for value in values)
    if torch.allclose(before, after, rtol=1e-5, atol=0.0):
        raise ValueError(
            f"{piece} compares the outputs of each sample with the targets of all, since outputs have shape "
            f"{outputs_shape} and targets {tuple(targets.shape)}; bring both to one: outputs[:, 0], or targets of "
            f"shape {outputs_shape}"
        )
