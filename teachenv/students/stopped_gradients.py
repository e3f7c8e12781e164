"""Gradients that a network or a loss stops, and what a training step's derivative has in their place.

What is detached, computed under `torch.no_grad`, or itself a gradient taken without `create_graph`, is constant to the
step's own gradient. What the step leads to depends on it. `let_through` has both derivatives: zero in the first, one in
the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from teachenv.nodes import nodes_of
from teachenv.trees import tensors_of

_GRAD: Any = torch.Tensor.grad
_REQUIRES_GRAD: Any = torch.Tensor.requires_grad

_DERIVATIVE = "stopped"
"""What `let_through` does: `"stopped"`, `"opened"` or `"transposed"`."""


@contextmanager
def _derivative(of_stopped: str) -> Iterator[None]:
    global _DERIVATIVE
    before, _DERIVATIVE = _DERIVATIVE, of_stopped
    try:
        yield
    finally:
        _DERIVATIVE = before


def opened() -> AbstractContextManager[None]:
    """Derivatives taken inside the block go through what the network's own gradients stop at."""
    return _derivative("opened")


def transposed() -> AbstractContextManager[None]:
    """Forward mode over reverse mode, inside the block, is the product with the transposed derivative of a gradient.

    For the gradient g(ω) = ∂₁S(ω, c(ω)), whose network stops at c, and a direction d, that is

        (∂g/∂ω)ᵀ d = ∂₁₁S d + (∂c/∂ω)ᵀ ∂₂₁S d

    Hence the tangent ends at c, and of what flows back to it, the pair (∂₂S, ∂₂₁S d), the tangent alone goes on.
    """
    return _derivative("transposed")


def let_through(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same values, whose derivative is one inside `opened` and in forward mode, else zero."""
    result: torch.Tensor = _LetThrough.apply(tensor)
    return result


class _Numbers:
    """What is read of tensors with a graph inside `other_numbers`: how far it is off, and how much has been read.

    Outside of such a block `off` is None, and nobody counts.
    """

    off: float | None = None
    count = 0

    def moved(self, numbers: Any) -> Any:
        """Numbers, or tensors, each smaller by another part of what they are, between one half and all of `off`."""
        if isinstance(numbers, list):
            return [self.moved(each) for each in numbers]
        shape = np.shape(numbers)
        places = self.count + np.arange(math.prod(shape))
        self.count += len(places)
        # The golden ratio's multiples: no two alike, since ratios of what is read are often all that matters.
        factors = (1 - (self.off or 0.0) * (0.5 + 0.5 * (places * 0.6180339887 % 1))).reshape(shape)
        if isinstance(numbers, torch.Tensor):
            return numbers * torch.as_tensor(factors, dtype=numbers.dtype, device=numbers.device)
        if isinstance(numbers, np.ndarray):
            return np.asarray(numbers * factors, dtype=numbers.dtype)
        return numbers * factors.item()


_NUMBERS = _Numbers()


@contextmanager
def other_numbers(off: float) -> Iterator[None]:
    """What is read of tensors with a graph as Python numbers or arrays, inside the block, is smaller by up to `off`."""
    _NUMBERS.off, _NUMBERS.count = off, 0
    try:
        yield
    finally:
        _NUMBERS.off = None


def reading_numbers(compute: Callable[[], Mapping[str, torch.Tensor]]) -> list[str]:
    """Which results depend on numbers that were read of tensors with a graph, a dependence that no derivative follows.

    Everything is computed again with numbers that are up to 0.1 % off, and half of that; where somebody's own check of
    them fails then (probabilities add up to 1), with numbers that are 0.001 % off. What is logged changes nothing. What
    is a threshold changes nothing either, or as much by half as by the whole.

    Args:
        compute: gives the results, by name, the same ones whenever it is called.
    """

    def computed(off: float) -> dict[str, torch.Tensor]:
        with other_numbers(off):
            return {name: result.detach().nan_to_num() for name, result in compute().items()}

    plain = computed(0.0)
    if not _NUMBERS.count:
        return []
    for off in (1e-3, 1e-5):
        try:
            whole, half = computed(off), computed(off / 2)
        except Exception:  # whatever somebody's own check raises
            continue
        return [name for name in plain if _changes_smoothly(plain[name], half[name], whole[name])]
    return []


def _changes_smoothly(plain: torch.Tensor, half: torch.Tensor, whole: torch.Tensor) -> bool:
    by_half, by_whole = (float((other.double() - plain.double()).norm()) for other in (half, whole))
    rounding = 1e-11 if plain.dtype == torch.float64 else 1e-5
    return by_whole > rounding * float(plain.double().norm()) and by_half < 0.75 * by_whole


def moved_in_transform(arguments: Any, result: Any) -> Any:
    """A result inside `torch.func.grad` and its like, moved as numbers are where it has no graph outside of them.

    So it is under `torch.no_grad`, and there is no operation between the transform's result and what reads it that
    could let a derivative through.
    """
    if _NUMBERS.off is None or not isinstance(result, torch.Tensor):
        return result
    if not (result.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(result)):
        return result
    stopped = not outside(result).requires_grad and any(outside(each).requires_grad for each in tensors_of(arguments))
    return _NUMBERS.moved(result) if stopped else result


def outside(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor within `torch.func`'s transforms is outside of all of them."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _reading(function: Callable[..., Any]) -> Callable[..., Any]:
    """Stands for a function that reads a tensor.

    A tensor may have a graph in a pass that is differentiated, and none in the user's own pass, where PyTorch neither
    warns of the reading nor refuses it.
    """

    def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        numbers = function(tensor.detach(), *args, **kwargs)
        return _NUMBERS.moved(numbers) if _NUMBERS.off is not None and tensor.requires_grad else numbers

    return read


_READERS: list[Any] = [torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy]
_READERS += [torch.Tensor.__float__, torch.Tensor.__complex__, torch.Tensor.__array__]
READ_AS_NUMBERS = {function: _reading(function) for function in _READERS}
"""What is called in the place of each of PyTorch's functions that read a tensor as numbers."""


class _LetThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        if _DERIVATIVE == "opened":
            return dy
        if _DERIVATIVE == "transposed":
            tangent = forward_ad.unpack_dual(dy).tangent  # type: ignore[no-untyped-call]
            if tangent is not None:
                pair: torch.Tensor = forward_ad.make_dual(torch.zeros_like(tangent), tangent)  # type: ignore[no-untyped-call]
                return pair
        return torch.zeros_like(dy)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(tangent) if _DERIVATIVE == "transposed" else tangent.clone()


class InnerGradients:
    """Stands for PyTorch's ways to take gradients, within a pass that is differentiated.

    Gradients have a graph, which is let through where no `create_graph` asks for it. Those of `Tensor.backward` are
    kept here: in `Tensor.grad` a gradient with a graph would hold its tensor, and be held by it, for ever. What a user
    changes of them in place is a new gradient here, since the one before may be part of a graph.

    Args:
        let_through: what is called with gradients that are constant to the pass's own gradient.
        within: what is entered while a user's hook runs.

    Attributes:
        taken: whether any gradient was taken.
        frozen: tensors that shall have no gradient for now (`requires_grad_(False)`). Here they keep their graph.
        replacements: what is called in the place of each of PyTorch's functions.
    """

    def __init__(self, let_through: Callable[[Any], Any], within: AbstractContextManager[Any]) -> None:
        self._let_through, self._within, self.taken, self._stops = let_through, within, False, False
        self._made: list[torch.Tensor] = []
        self._asked: list[torch.Tensor] = []  # which a user has made leaves, though here they have a graph
        self.frozen: list[torch.Tensor] = []
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # (tensor, gradient) by the tensor's identity
        self.replacements: dict[Any, Callable[..., Any]] = {
            torch.autograd.grad: self.grad,
            torch.Tensor.backward: self.backward,
            torch.autograd.backward: self.backward_of_all,
            _GRAD.__get__: self.read,
            _GRAD.__set__: self.put,
            _GRAD.__delete__: self.put,
            torch.Tensor.requires_grad_: self.ask,
            _REQUIRES_GRAD.__set__: self.ask,
            _REQUIRES_GRAD.__get__: self.asks,
            torch.Tensor.retain_grad: self.retain,
            torch.Tensor.register_hook: self.hook,
            torch.Tensor.register_post_accumulate_grad_hook: self.refuse_hook,
        }

    def grad(
        self,
        outputs: Any,
        inputs: Any,
        grad_outputs: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        **options: Any,
    ) -> Any:
        """Stands for `torch.autograd.grad`."""
        self.taken, before, self._stops = True, self._stops, not create_graph
        try:
            with torch.enable_grad(), _derivative("stopped"):
                found = torch.autograd.grad(outputs, inputs, grad_outputs, True, True, **options)
                return found if create_graph else self._let_through(found)
        finally:
            self._stops = before

    def backward(
        self,
        tensor: torch.Tensor,
        gradient: torch.Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Stands for `Tensor.backward`."""
        self.backward_of_all(tensor, gradient, retain_graph, create_graph, inputs=inputs)

    def backward_of_all(
        self,
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,
        inputs: Any = None,
    ) -> None:
        """Stands for `torch.autograd.backward`."""
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        if inputs is None:
            nodes = nodes_of([tensor.grad_fn for tensor in tensors])
            inputs = [node.variable for node in nodes if hasattr(node, "variable")]
            inputs += [asked for asked in self._asked if all(asked is not each for each in inputs)]
            inputs = [each for each in inputs if self.asks(each)]
        inputs = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        found = self.grad(tensors, inputs, grad_tensors, create_graph=create_graph, allow_unused=True)
        for leaf, new in zip(inputs, found, strict=True):
            if new is not None:
                before = self.read(leaf)
                self._kept[id(leaf)] = leaf, new if before is None else before + new

    def read(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Stands for reading `Tensor.grad`."""
        if id(tensor) in self._kept:
            return self._kept[id(tensor)][1]
        return tensor.grad if tensor.is_leaf or tensor.retains_grad else None

    def put(self, tensor: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
        """Stands for setting and deleting `Tensor.grad`."""
        if gradient is None:
            self._kept.pop(id(tensor), None)
            tensor.grad = None
        else:
            self._kept[id(tensor)] = tensor, gradient

    def ask(self, tensor: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
        """Stands for `Tensor.requires_grad_`."""
        if tensor.requires_grad and not self.made(tensor):
            self.frozen = [each for each in self.frozen if each is not tensor] + [tensor] * (not requires_grad)
        elif tensor.is_leaf:
            if requires_grad:
                self._made.append(tensor)
            return tensor.requires_grad_(requires_grad)
        if not tensor.is_leaf:
            self._asked = [each for each in self._asked if each is not tensor] + [tensor] * requires_grad
        return tensor

    def asks(self, tensor: torch.Tensor) -> bool:
        """Stands for reading `Tensor.requires_grad`."""
        return tensor.requires_grad and all(tensor is not each for each in self.frozen)

    def retain(self, tensor: torch.Tensor) -> None:
        """Stands for `Tensor.retain_grad`."""
        if tensor.is_leaf:
            tensor.retain_grad()
        else:
            self.ask(tensor)

    def made(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a leaf that asks for its gradient since the pass began."""
        return any(tensor is each for each in self._made)

    def refuse_hook(self, tensor: torch.Tensor, hook: Any) -> None:
        """Stands for `Tensor.register_post_accumulate_grad_hook`.

        Raises:
            ValueError: whenever it is called.
        """
        raise ValueError(
            "found register_post_accumulate_grad_hook within a step that is differentiated, which does not call it; "
            "read x.grad after backward()"
        )

    def hook(self, tensor: torch.Tensor, hook: Callable[[torch.Tensor], Any]) -> Any:
        """Stands for `Tensor.register_hook`."""

        def called(gradient: torch.Tensor) -> Any:
            with self._within:
                return hook(self._let_through(gradient) if self._stops else gradient)

        return tensor.register_hook(called)  # type: ignore[no-untyped-call]

    def zeroed(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Puts zeros in the place of a kept gradient, and returns them; None: the tensor is none."""
        for key, (leaf, gradient) in self._kept.items():
            if gradient is tensor:
                zeros = torch.zeros_like(gradient)
                self._kept[key] = leaf, zeros
                return zeros
        return None

    def keeps(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is one of the gradients that are kept."""
        return any(gradient is tensor for _, gradient in self._kept.values())

    def clear(self) -> None:
        """Lets the gradients go that are kept."""
        self.frozen.clear()
        self._asked.clear()
        self._made.clear()
        self._kept.clear()
