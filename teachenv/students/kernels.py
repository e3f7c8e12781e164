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
  does depend on it. So it is with gradients that a module takes itself without `create_graph` (adversarial inputs).
  Replaced: by what `teachenv.students.stopped_gradients` has, whose derivative is zero in the step's own gradient and
  one in the derivative of the step.
* **Linear layers**, under `torch.func.vmap`: the bias is added in place. vmap has no fused kernel for them, and memory
  traffic is what bounds it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from teachenv.students.batch_norm import batch_norm, instance_norm
from teachenv.students.stopped_gradients import READ_AS_NUMBERS, InnerGradients, let_through

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
        opens: let derivatives through what is computed under `torch.no_grad` or detached, and through inner gradients.
        buffers: tensors that the network may update in place.

    Attributes:
        used: whether anything was replaced, but for linear layers.
        inner_gradients: those that the network took itself.
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
            self._replaced |= {torch.Tensor.zero_: self._zero, _SET_DATA: self._set_data}
            self._replaced |= READ_AS_NUMBERS
            self._replaced[F.embedding] = self._embedding
            self._replaced[torch.Tensor.__deepcopy__] = self._copied
        self.inner_gradients = InnerGradients(self._let_through, self)
        self._entered, self._of_leaves = 0, list[torch.Tensor]()  # what was detached of leaves that the network made

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in the place of each of PyTorch's functions."""
        if self.opens and func in self.inner_gradients.replacements:
            return self.inner_gradients.replacements[func](*args, **(kwargs or {}))
        if self._of_leaves and _changes(_name_of(func)) and any(args[0] is each for each in self._of_leaves):
            raise ValueError(
                "found .data or detach() of a tensor with requires_grad=True changed in place, which no derivative "
                "follows; make a new tensor in its place: x = (x + step).detach().requires_grad_()"
            )
        replacement = self._replaced.get(func, func)
        if self.opens and not torch.is_grad_enabled():
            return self._with_graph(replacement, _name_of(func), args, kwargs or {})
        result = replacement(*args, **(kwargs or {}))
        if self.opens and torch._C._are_functorch_transforms_active():
            _refuse_stopped_transform(args, result)
        return result

    def __enter__(self) -> DifferentiableKernels:
        """Begins the block."""
        self._entered += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the block."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._entered -= 1
        if not self._entered:  # they would hold graphs, and be held by them
            self.inner_gradients.clear()
            self._of_leaves.clear()

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
        if id(tensor) in self._buffers or self.inner_gradients.keeps(tensor):
            return tensor  # which may be updated in place
        if not _is_continuous(tensor):
            return tensor.detach()
        detached: torch.Tensor = self._let_through(tensor)
        if self.inner_gradients.made(tensor):
            self._of_leaves.append(detached)
        return detached

    def _zero(self, tensor: torch.Tensor) -> torch.Tensor:
        zeros = self.inner_gradients.zeroed(tensor)
        return tensor.zero_() if zeros is None else zeros

    def _set_data(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        if value.requires_grad and id(tensor) not in self._buffers:
            raise ValueError(
                "found .data of a tensor set to something that depends on the parameters, which no derivative follows; "
                "make a new tensor of it: x = value.detach().requires_grad_()"
            )
        tensor.data = value

    def _let_through(self, value: Any) -> Any:
        """The value, or values, with a derivative for `opened` alone; a buffer as it is now."""
        if isinstance(value, torch.Tensor) and _is_continuous(value):
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
        keeps = _changes(name) or (name in _VIEWS and id(first) in self._buffers)
        out = kwargs.pop("out", None)
        with torch.enable_grad():
            first = first if keeps else self._let_through(first)
            kwargs = {key: self._let_through(value) for key, value in kwargs.items()}
            result = func(first, *map(self._let_through, rest), **kwargs)
            return result if out is None else out.copy_(result)


def _name_of(function: Any) -> str:
    name: str = getattr(function, "__name__", "")
    return name


def _changes(name: str) -> bool:
    """Whether a function of this name changes its first argument in place."""
    return (name.endswith("_") and not name.startswith("_")) or name in _IN_PLACE


def _is_continuous(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_of_a_transform(tensor: torch.Tensor) -> bool:
    of_one: bool = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return of_one


def _outside(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor of `torch.func`'s transforms is outside of all of them."""
    while _is_of_a_transform(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _refuse_stopped_transform(arguments: tuple[Any, ...], result: Any) -> None:
    """Refuses `torch.func.grad` and its like under `torch.no_grad`: their results have no graph to be let through.

    Raises:
        ValueError: a call inside such a transform has no graph outside of it, though an argument has one.
    """
    if not isinstance(result, torch.Tensor) or not (result.requires_grad and _is_of_a_transform(result)):
        return
    tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
    if not _outside(result).requires_grad and any(_outside(each).requires_grad for each in tensors):
        raise ValueError(
            "found torch.func.grad, or another transform of torch.func, under torch.no_grad() within a step that is "
            "differentiated, which its derivative cannot follow; call it outside of the block, and detach its result"
        )


DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


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
