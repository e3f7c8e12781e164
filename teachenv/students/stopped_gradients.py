"""Gradients that a network or a loss stops, and what a training step's derivative has in their place.

What is detached, computed under `torch.no_grad`, or itself a gradient taken without `create_graph`, is constant to the
step's own gradient. What the step leads to depends on it. `let_through` has both derivatives: zero in the first, one in
the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.autograd import forward_ad

from teachenv.nodes import nodes_of

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
    """Stands for PyTorch's ways to take gradients and to ask for them, within a pass that is differentiated.

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
        self._as_leaves: list[torch.Tensor] = []  # which a user has made leaves, though here they have a graph
        self.frozen: list[torch.Tensor] = []
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # (tensor, gradient) by the tensor's identity
        self.replacements: dict[Any, Callable[..., Any]] = {
            torch.autograd.grad: self.grad,
            torch.Tensor.backward: self.backward,
            torch.autograd.backward: self.backward_of_all,
            _GRAD.__get__: self.read,
            _GRAD.__set__: self.put,
            _GRAD.__delete__: self.put,
            torch.Tensor.requires_grad_: self.set_requires_grad,
            _REQUIRES_GRAD.__set__: self.set_requires_grad,
            _REQUIRES_GRAD.__get__: self.requires_grad,
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
                grads = torch.autograd.grad(outputs, inputs, grad_outputs, True, True, **options)
                return grads if create_graph else self._let_through(grads)
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
            inputs += [leaf for leaf in self._as_leaves if all(leaf is not each for each in inputs)]
            inputs = [each for each in inputs if self.requires_grad(each)]
        inputs = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        grads = self.grad(tensors, inputs, grad_tensors, create_graph=create_graph, allow_unused=True)
        for leaf, new in zip(inputs, grads, strict=True):
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

    def set_requires_grad(self, tensor: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
        """Stands for `Tensor.requires_grad_`."""
        if tensor.requires_grad and not self.is_leaf_of_pass(tensor):
            self.frozen = [each for each in self.frozen if each is not tensor] + [tensor] * (not requires_grad)
        elif tensor.is_leaf:
            if requires_grad:
                self._made.append(tensor)
            return tensor.requires_grad_(requires_grad)
        if not tensor.is_leaf:
            self._as_leaves = [each for each in self._as_leaves if each is not tensor] + [tensor] * requires_grad
        return tensor

    def requires_grad(self, tensor: torch.Tensor) -> bool:
        """Stands for reading `Tensor.requires_grad`."""
        if not tensor.requires_grad or any(tensor is each for each in self.frozen):
            return False
        let_through = type(tensor.grad_fn) is _LetThrough._backward_cls
        return not let_through or any(tensor is each for each in self._as_leaves)

    def retain(self, tensor: torch.Tensor) -> None:
        """Stands for `Tensor.retain_grad`."""
        if tensor.is_leaf:
            tensor.retain_grad()
        else:
            self.set_requires_grad(tensor)

    def is_leaf_of_pass(self, tensor: torch.Tensor) -> bool:
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

    def zero_kept(self, tensor: torch.Tensor) -> torch.Tensor | None:
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
        """Forgets kept gradients, frozen tensors and leaves."""
        self.frozen.clear()
        self._as_leaves.clear()
        self._made.clear()
        self._kept.clear()
