"""Numbers that a network or a loss reads of tensors (`float(x)`, `.tolist()`, NumPy), and what depends on them.

No derivative follows such a dependence. To find it, everything is computed again with numbers that are a little
smaller than what was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from teachenv.students.transforms import is_wrapped, levels_of
from teachenv.trees import tensors_of

# The largest change that passes the checks in a user's own code is used. Such checks have tolerances; NumPy's random
# choice has 1.5e-8. In single precision the two smallest show no dependence, and only keep such a check from warning.
_CHANGES = {torch.float32: (1e-3, 1e-4, 1e-5, 1e-7, 1e-9), torch.float64: (1e-3, 1e-5, 1e-7, 1e-9)}
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-11}
_SPREAD = 0.6180339887
"""The golden ratio's fraction, whose multiples' fractions are all different."""


class _Numbers:
    """Numbers that are read of tensors with a graph, inside a block.

    Attributes:
        change: by what part they are made smaller, 0.001 for 0.1 %.
        count: how many have been read.
    """

    def __init__(self, change: float) -> None:
        self.change, self.count = change, 0

    def changed(self, numbers: Any) -> Any:
        """The numbers, or the numbers in a tensor, each made smaller by its own part: half of `change` to all of it.

        The parts differ, since a ratio of two numbers would not notice a common one.
        """
        if isinstance(numbers, list):
            return [self.changed(each) for each in numbers]
        shape = np.shape(numbers)
        places = self.count + np.arange(math.prod(shape))
        self.count += len(places)
        factors = (1 - self.change * (0.5 + 0.5 * (places * _SPREAD % 1))).reshape(shape)
        if isinstance(numbers, torch.Tensor):
            return numbers * torch.as_tensor(factors, dtype=numbers.dtype, device=numbers.device)
        if isinstance(numbers, np.ndarray):
            return np.asarray(numbers * factors, dtype=numbers.dtype)
        return numbers * factors.item()


_NUMBERS: _Numbers | None = None


@contextmanager
def changed_numbers(change: float) -> Iterator[None]:
    """Inside the block, numbers read of tensors with a graph are counted, and smaller by up to this part."""
    global _NUMBERS
    before, _NUMBERS = _NUMBERS, _Numbers(change)
    try:
        yield
    finally:
        _NUMBERS = before


def any_was_read() -> bool:
    """Whether a number was read of a tensor with a graph since the innermost `changed_numbers` began."""
    return _NUMBERS is not None and _NUMBERS.count > 0


def depending_on_numbers(compute: Callable[[], Mapping[str, torch.Tensor]]) -> list[str]:
    """Names the results that depend on numbers which were read of tensors.

    A dependence changes a result twice as much by a whole change as by half of it. What is logged does not change it,
    and a threshold changes it by a jump or not at all. All results are named if the user's own checks refuse even the
    smallest change, so that nothing can be tried.

    Args:
        compute: gives the results, by name, the same ones whenever it is called.
    """

    def computed(change: float) -> tuple[dict[str, torch.Tensor], bool]:
        with changed_numbers(change):
            return {name: result.detach().nan_to_num() for name, result in compute().items()}, any_was_read()

    plain, reads = computed(0.0)
    if not reads:
        return []
    double = all(result.dtype == torch.float64 for result in plain.values())
    for change in _CHANGES[torch.float64 if double else torch.float32]:
        try:
            (whole, _), (half, _) = computed(change), computed(change / 2)
        except Exception:  # whatever a check in the user's code raises
            continue
        return [name for name in plain if _depends(plain[name], half[name], whole[name])]
    return list(plain)


def _depends(plain: torch.Tensor, half: torch.Tensor, whole: torch.Tensor) -> bool:
    by_half, by_whole = (float((other.double() - plain.double()).norm()) for other in (half, whole))
    rounding = _ROUNDING[torch.float64 if plain.dtype == torch.float64 else torch.float32]
    return by_whole > rounding * float(plain.double().norm()) and 0.25 * by_whole < by_half < 0.75 * by_whole


def changed_in_transform(arguments: Any, result: Any) -> Any:
    """What a call inside `torch.func.grad`, or a transform like it, gives; as a number where nothing can follow it.

    Under `torch.no_grad()` around it, what the transform computes has no graph outside, through which a derivative
    could be let.

    Args:
        arguments: of the call.
        result: of the call.
    """
    if _NUMBERS is None or not isinstance(result, torch.Tensor):
        return result
    if not (result.requires_grad and is_wrapped(result)):
        return result
    outside = [levels_of(tensor)[-1].requires_grad for tensor in tensors_of(arguments)]
    return _NUMBERS.changed(result) if any(outside) and not levels_of(result)[-1].requires_grad else result


def _reading(function: Callable[..., Any]) -> Callable[..., Any]:
    """Stands for a function that reads a tensor.

    A tensor may have a graph in a pass that is differentiated, and none in the user's own pass, where PyTorch neither
    warns of the reading nor refuses it.
    """

    def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        numbers = function(tensor.detach(), *args, **kwargs)
        return numbers if _NUMBERS is None or not tensor.requires_grad else _NUMBERS.changed(numbers)

    return read


_READERS: list[Any] = [torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy]
_READERS += [torch.Tensor.__float__, torch.Tensor.__complex__, torch.Tensor.__array__]
READERS = {function: _reading(function) for function in _READERS}
"""What is called in the place of each of PyTorch's functions that read a tensor as numbers."""
