"""What a network's operations are exchanged for where a training step is differentiated.

The network runs as it is, whatever its modules are; while it runs, calls of some operations and of stopped gradients
are seen and replaced, each by something with the same value. Hence a subclass of `nn.BatchNorm1d`, or a module that
calls `F.batch_norm` itself, is treated as well as the original.

* **Batch and instance norm** update running statistics in place, without a derivative. Replaced: with one (see
  `teachenv.students.batch_norm`), in normalisation, in statistics, and in evaluation with respect to them.
* **Weight norm**: PyTorch's fused `torch._weight_norm` has a wrong double backward (`torch.autograd.gradgradcheck`
  fails on it, at torch 2.14). A hypergradient through it was off by 4e-4 in our test, silently. Replaced: by elementary
  operations.
* **Bags of embeddings** have no second derivative. Replaced: by a table lookup, where bags are rows of a matrix.
* **Stopped gradients**: what a module computes under `torch.no_grad`, and what it detaches (a running mean, the vectors
  of `spectral_norm`, an embedding's row for padding), is constant to the *step's own* gradient, but the step's *result*
  does depend on it. Replaced: by `let_through`, whose derivative is zero in the first derivative and one in the second,
  see `opened`.
* **Gradients taken inside a pass** without `create_graph`, by `torch.autograd.grad` or `backward` (adversarial
  inputs), are constant to the step's own gradient, and its result depends on them. Replaced: by those with a graph, let
  through.
* **Linear layers**, under `torch.func.vmap`: the bias is added in place. vmap has no fused kernel for them, and memory
  traffic is what bounds it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from teachenv.nodes import nodes_of
from teachenv.students.batch_norm import batch_norm, instance_norm

# Methods of tensors that change `self` and are not named like `add_`.
_IN_PLACE = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "and", "or", "xor", "floordiv", "mod")}
_IN_PLACE |= {"__setitem__", "__set__"}
# Those that give views of `self`, which may be changed in place in its stead.
_VIEWS = {"view", "reshape", "__getitem__", "select", "narrow", "flatten", "squeeze", "unsqueeze", "transpose", "t"}
_VIEWS |= {"permute", "expand", "unflatten", "unbind", "chunk", "split", "view_as", "diagonal", "movedim", "__get__"}


class DifferentiableKernels(TorchFunctionMode):
    """Inside the block, the operations of the module docstring are replaced.

    Args:
        fused: normalise minibatches by `batch_normalized`, which runs neither under `torch.func.vmap` nor in forward
            mode; else by elementary operations.
        batched: replace linear layers, too.
        opens: let derivatives through what is computed under `torch.no_grad` or detached.
        buffers: tensors that the network may update in place.

    Attributes:
        used: whether anything was replaced, but for linear layers.
    """

    def __init__(
        self, *, fused: bool, batched: bool = False, opens: bool = False, buffers: Iterable[torch.Tensor] = ()
    ) -> None:
        super().__init__()
        self.fused, self.opens, self.used = fused, opens, False
        self._buffers = {id(buffer) for buffer in buffers}
        self._replaced: dict[Any, Callable[..., Any]] = {
            F.batch_norm: self._noted(functools.partial(batch_norm, fused=fused)),
            F.instance_norm: self._noted(instance_norm),
            torch._weight_norm: self._noted(weight_norm),
            F.embedding_bag: self._noted(embedding_bag),
        }
        if batched:
            self._replaced[F.linear] = _linear
        if opens:
            self._replaced |= dict.fromkeys((torch.Tensor.detach, torch.detach, DATA), self._detach)
            self._replaced[F.embedding] = self._embedding
            self._replaced[torch.Tensor.__deepcopy__] = self._copied
            self._replaced |= {torch.autograd.grad: self._grad, torch.Tensor.backward: self._backward}
            self._replaced |= {_GRAD.__get__: self._taken, _GRAD.__set__: self._put}
            self._replaced |= dict.fromkeys((torch.Tensor.requires_grad_, _REQUIRES_GRAD.__set__), self._asked_for)
        self._asked: list[torch.Tensor] = []
        self._taken_of: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # what `.grad` gives, with its tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in the place of each of PyTorch's functions."""
        replacement = self._replaced.get(func, func)
        if self.opens and not torch.is_grad_enabled():
            return self._with_graph(replacement, getattr(func, "__name__", ""), args, kwargs or {})
        return replacement(*args, **(kwargs or {}))

    def _noted(self, replacement: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.used = True
            return replacement(*args, **kwargs)

        return called

    def _embedding(
        self, input: torch.Tensor, weight: torch.Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        rows = F.embedding(input, weight, None, *args, **kwargs)
        if padding_idx is None:
            return rows
        self.used = True
        return torch.where((input == padding_idx % len(weight)).unsqueeze(-1), let_through(rows), rows)

    def _copied(self, tensor: torch.Tensor, memo: dict[int, Any]) -> Any:
        """Stands for `copy.deepcopy`, which takes leaves alone and stops gradients."""
        memo[id(tensor)] = self._let_through(tensor) if tensor.is_floating_point() else tensor.clone()
        return memo[id(tensor)]

    def _detach(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in self._buffers:
            return tensor  # which may be updated in place
        return self._let_through(tensor) if tensor.is_floating_point() else tensor.detach()

    def _grad(
        self,
        outputs: Any,
        inputs: Any,
        grad_outputs: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        **options: Any,
    ) -> Any:
        """Stands for `torch.autograd.grad`."""
        with torch.enable_grad(), _derivative("stopped"):
            found = torch.autograd.grad(outputs, inputs, grad_outputs, True, True, **options)
        return found if create_graph else self._let_through(found)

    def _backward(
        self,
        tensor: torch.Tensor,
        gradient: torch.Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Stands for `Tensor.backward`: gradients with a graph in `Tensor.grad` would be held for ever."""
        if inputs is None:
            inputs = [node.variable for node in nodes_of([tensor.grad_fn]) if hasattr(node, "variable")]
            inputs += [asked for asked in self._asked if all(asked is not each for each in inputs)]
        inputs = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        found = self._grad(tensor, inputs, gradient, create_graph=create_graph, allow_unused=True)
        for leaf, each in zip(inputs, found, strict=True):
            if each is not None:
                before = self._taken(leaf)
                self._taken_of[id(leaf)] = leaf, each if before is None else before + each

    def _taken(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Stands for reading `Tensor.grad`."""
        if id(tensor) in self._taken_of:
            return self._taken_of[id(tensor)][1]
        return tensor.grad if tensor.is_leaf or tensor.retains_grad else None

    def _put(self, tensor: torch.Tensor, gradient: torch.Tensor | None) -> None:
        """Stands for setting `Tensor.grad`."""
        if gradient is None:
            self._taken_of.pop(id(tensor), None)
            tensor.grad = None
        else:
            self._taken_of[id(tensor)] = tensor, gradient

    def _asked_for(self, tensor: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
        """Stands for `Tensor.requires_grad_`; what was detached before, a leaf without this mode, is noted."""
        if requires_grad and not tensor.is_leaf:
            self._asked.append(tensor)
            return tensor
        return tensor.requires_grad_(requires_grad)

    def _let_through(self, value: Any) -> Any:
        """The value, or values, with a derivative for `opened` alone; a buffer as it is now."""
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            self.used = True
            # A copy, since autograd may need a buffer's value after it was updated in place.
            return value.clone() if id(value) in self._buffers else let_through(value)
        if type(value) in (list, tuple):
            return type(value)(self._let_through(one) for one in value)
        return value

    def _with_graph(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stands for a call within `torch.no_grad()`."""
        if name == "_set_grad_enabled" or not args:
            return func(*args, **kwargs)
        first, *rest = args
        changes = (name.endswith("_") and not name.startswith("_")) or name in _IN_PLACE
        keeps = changes or (name in _VIEWS and id(first) in self._buffers)
        out = kwargs.pop("out", None)
        with torch.enable_grad():
            first = first if keeps else self._let_through(first)
            kwargs = {key: self._let_through(value) for key, value in kwargs.items()}
            result = func(first, *map(self._let_through, rest), **kwargs)
            return result if out is None else out.copy_(result)


_GRAD: Any = torch.Tensor.grad
_REQUIRES_GRAD: Any = torch.Tensor.requires_grad
DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


def weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """`torch._weight_norm` from elementary operations: g v / ‖v‖, v's shape, the norm over all dimensions but `dim`."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def embedding_bag(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> torch.Tensor:
    """`F.embedding_bag` by a table lookup, where bags are rows of a matrix and nothing is left out."""
    if input.dim() != 2 or input.shape[1] == 0 or max_norm is not None or padding_idx is not None:
        return F.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    rows = F.embedding(input, weight)
    if mode == "max":
        return rows.max(1).values
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    return rows.mean(1) if mode == "mean" else rows.sum(1)


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` as a matrix product and a sum."""
    product = input @ weight.t()
    return product if bias is None else product.add_(bias)


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
