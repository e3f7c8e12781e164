"""How a piece is tried: it is called twice, and what it returns is described in the words of its user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from teachenv import checks
from teachenv.randomness import Purpose, all_seeded, generator_states
from teachenv.trees import tensors_of

T = TypeVar("T")

_ROUNDING = 1e-4
"""How far a score may lie outside of [0, 1]."""


def ours(piece: object) -> bool:
    """Whether a piece is this package's own, which its tests try; a subclass of a user's is not."""
    return str(getattr(piece, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def called(
    piece: str,
    function: Callable[..., T],
    arguments: Callable[[], tuple[Any, ...]],
    device: torch.device | None = None,
) -> T:
    """What a piece returns; a second call must return the same, and neither may draw from the global generators.

    Args:
        piece: the piece's name, for messages.
        function: what is called.
        arguments: makes the arguments of a call.
        device: where the data lives.

    Raises:
        ValueError: it fails, draws from a global generator, or returns something else in the second call.
    """
    first, second = (called_once(piece, function, arguments(), device, seed) for seed in (0, 1))
    if not _same(first, second):
        raise ValueError(
            f"{piece} returns something else in a second call with the same arguments, expected a function of them; "
            "keep no state and no generator of your own in it"
        )
    return first


def called_once(
    piece: str,
    function: Callable[..., T],
    arguments: tuple[Any, ...],
    device: torch.device | None = None,
    seed: int = 0,
) -> T:
    """What a piece returns in a call that finds the global generators at a seed, and must leave them there.

    Raises:
        ValueError: it fails, or draws from a global generator.
    """
    with all_seeded(seed, Purpose.AUGMENTATION, device=device):
        before = generator_states(device)
        try:
            result = function(*arguments)
        except Exception as error:  # whatever a user's code raises
            line = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{piece} fails with {type(error).__name__}: {line}; it is called with "
                f"{', '.join(form(argument) for argument in arguments) or 'no arguments'}"
            ) from error
        moved = [name for name, state in generator_states(device).items() if state != before[name]]
    if moved:
        allowed = any(isinstance(argument, np.random.Generator) for argument in arguments)
        advice = "draw from the rng that it is given" if allowed else "draw no random numbers in it"
        raise ValueError(
            f"{piece} draws from the global generator of {moved[0]}, so that an episode could not be replayed; {advice}"
        )
    return result


def form(value: object) -> str:
    """What a value is, as a message says it."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array of shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"{len(value)} values ({', '.join(type(each).__name__ for each in value)})"
    if value is None or isinstance(value, bool | int | float | str):
        return checks.shown(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def scalar(piece: str, value: object, advice: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The value, if it is a tensor without dimensions, and of the dtype.

    Raises:
        ValueError: the value is not a scalar tensor, or it has another dtype.
    """
    if not isinstance(value, torch.Tensor) or value.dim():
        raise ValueError(f"{piece} is {form(value)}, expected a tensor without dimensions; {advice}")
    if dtype is not None and value.dtype != dtype:
        raise ValueError(f"{piece} is of {value.dtype}, expected {dtype}, which the student's outputs have; cast it")
    return value


def fractions(piece: str, values: torch.Tensor) -> None:
    """Refuses numbers outside of [0, 1]; those that are not finite may be a minibatch's, and end a training later.

    Raises:
        ValueError: there is such a number.
    """
    numbers = values.detach().double().flatten()
    outside = numbers[numbers.isfinite() & ((numbers < -_ROUNDING) | (numbers > 1 + _ROUNDING))]
    if len(outside):
        raise ValueError(
            f"{piece} {'is' if not values.dim() else 'contain'} {float(outside[0]):.4g}, expected numbers in [0, 1]; "
            "rescale or clamp it"
        )


def _same(first: object, second: object) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a.detach().double(), b.detach().double(), equal_nan=True)
        for a, b in zip(tensors_of(first), tensors_of(second), strict=False)
    )
