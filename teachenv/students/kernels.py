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
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from teachenv.students.batch_norm import batch_norm, instance_norm
from teachenv.students.stopped_gradients import (
    READ_AS_NUMBERS,
    InnerGradients,
    let_through,
    moved_in_transform,
    outside,
)
from teachenv.trees import mapped, tensors_of

# Methods of tensors that change `self` and are not named like `add_`.
_IN_PLACE = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "and", "or", "xor", "floordiv", "mod")}
_IN_PLACE |= {"__setitem__", "__set__"}
# Those that give views of `self`, which may be changed in place in its stead.
_VIEWS = {"view", "reshape", "__getitem__", "select", "narrow", "flatten", "squeeze", "unsqueeze", "transpose", "t"}
_MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
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
            self._replaced |= {torch.Tensor.detach: self._detach, torch.detach: self._detach, DATA: self._data}
            self._replaced |= {torch.Tensor.zero_: self._zero, _SET_DATA: self._set_data}
            self._replaced |= {maker: self._made_by(maker) for maker in _MAKERS}
            self._replaced |= READ_AS_NUMBERS
            self._replaced[F.embedding] = self._embedding
            self._replaced[torch.Tensor.__deepcopy__] = self._copied
        self.inner_gradients = InnerGradients(self._let_through, self)
        self._stopped_outside = False  # torch.no_grad() around transforms of torch.func
        self._entered, self._of_leaves = 0, list[torch.Tensor]()  # what was detached of leaves that the network made
        self._data_of = list[tuple[torch.Tensor, torch.Tensor]]()  # (data, the tensor without a graph that it is of)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in the place of each of PyTorch's functions."""
        if self.opens and func in self.inner_gradients.replacements:
            return self.inner_gradients.replacements[func](*args, **(kwargs or {}))
        kwargs = kwargs or {}
        if (self._of_leaves or self._data_of) and _changes(_name_of(func)):
            args = (self._changed(args[0]), *args[1:])
        if self.inner_gradients.frozen:
            args, kwargs = mapped(self._of_frozen, (args, kwargs))
        replacement = self._replaced.get(func, func)
        if not self.opens:
            return replacement(*args, **kwargs)
        in_transform = torch._C._are_functorch_transforms_active()
        if func is torch._C._set_grad_enabled and not in_transform:
            self._stopped_outside = not args[0]
        # A transform of torch.func has a graph of its own, whatever there is around it.
        if not torch.is_grad_enabled() and not (in_transform and self._stopped_outside and _tracked(args)):
            return self._with_graph(replacement, _name_of(func), args, kwargs)
        result = replacement(*args, **kwargs)
        return moved_in_transform((args, kwargs), result) if in_transform else result

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
            self._data_of.clear()

    def _changed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor to change in the place of this one: where it is another one's data, that one.

        Raises:
            ValueError: it shares it with a leaf that asks for its gradient.
        """
        if any(tensor is each for each in self._of_leaves):
            raise ValueError(
                "found .data or detach() of a tensor with requires_grad=True changed in place, which no derivative "
                "follows; make a new tensor in its place: x = (x + step).detach().requires_grad_()"
            )
        return next((whole for data, whole in self._data_of if data is tensor), tensor)

    def _of_frozen(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._let_through(tensor) if any(tensor is each for each in self.inner_gradients.frozen) else tensor

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

    def _data(self, tensor: torch.Tensor) -> torch.Tensor:
        """Stands for reading `Tensor.data`: a name for the same memory, by which the tensor may be changed."""
        data = self._detach(tensor)
        if not tensor.requires_grad or any(tensor is whole for _, whole in self._data_of):
            self._data_of.append((data, tensor))
        return data

    def _made_by(self, maker: Callable[..., Any]) -> Callable[..., Any]:
        """Stands for `torch.tensor` and its like, which read tensors as numbers."""

        def made(*args: Any, requires_grad: bool = False, **options: Any) -> Any:
            *before, data = args
            shares = maker is torch.as_tensor and isinstance(data, torch.Tensor)
            if shares or not any(tensor.requires_grad for tensor in tensors_of(data)):
                return maker(*args, **options, **({"requires_grad": True} if requires_grad else {}))
            stacked = _stacked(data)
            result = self._let_through(stacked).to(maker(*before, stacked.detach(), **options))
            return self.inner_gradients.ask(result) if requires_grad else result

        return made

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
            if id(value) in self._buffers:  # autograd may need its value after it was updated in place
                return value.clone()
            return let_through(value) if _is_followed(value) else value
        if type(value) in (list, tuple):
            return type(value)(self._let_through(one) for one in value)
        return value

    def _with_graph(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stands for a call within `torch.no_grad()` or `torch.inference_mode()`."""
        if name == "_set_grad_enabled" or not args:
            return func(*args, **kwargs)
        first, *rest = args
        keeps = _changes(name) or (name in _VIEWS and id(first) in self._buffers)
        out = kwargs.pop("out", None)
        # To leave a mode that is not on would turn forward mode on again where PyTorch has turned it off.
        normal = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
        with normal, torch.enable_grad():
            first = first if keeps else self._let_through(first)
            kwargs = {key: self._let_through(value) for key, value in kwargs.items()}
            result = func(first, *map(self._let_through, rest), **kwargs)
            return result if out is None else out.copy_(result)


def _stacked(data: Any) -> torch.Tensor:
    """A tensor of nested lists of tensors and numbers, with their graphs."""
    if isinstance(data, list | tuple):
        return torch.stack([_stacked(each) for each in data])
    return data if isinstance(data, torch.Tensor) else torch.tensor(data)


def _name_of(function: Any) -> str:
    name: str = getattr(function, "__name__", "")
    return name


def _is_followed(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a graph or, in forward mode, a tangent. What has none may be changed through its views."""
    if tensor.requires_grad or outside(tensor).requires_grad:
        return True
    tangent = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return tangent is not None


def _tracked(arguments: Any) -> bool:
    """Whether a `torch.func.grad` or its like differentiates a call."""
    return any(torch._C._functorch.is_gradtrackingtensor(tensor) for tensor in tensors_of(arguments))


def _changes(name: str) -> bool:
    """Whether a function of this name changes its first argument in place."""
    return (name.endswith("_") and not name.startswith("_")) or name in _IN_PLACE


def _is_continuous(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


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
