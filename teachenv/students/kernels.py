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
  The other ways to stop a gradient (`.data`, `torch.tensor(x)`, `copy.deepcopy`, `requires_grad_(False)` for a while)
  are those of `teachenv.students.stopped_tensors`.
* **Numbers** (`float(x)`, `.tolist()`, NumPy) are read as always; `teachenv.students.numbers_read` finds out whether
  results depend on them.
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
from torch.overrides import TorchFunctionMode

from teachenv.students.batch_norm import batch_norm, instance_norm
from teachenv.students.numbers_read import READERS, changed_in_transform
from teachenv.students.stopped_gradients import InnerGradients, let_through
from teachenv.students.stopped_tensors import StoppedTensors
from teachenv.students.transforms import is_differentiated, is_followed
from teachenv.trees import mapped

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
        leaves: tensors that `backward` accumulates gradients into, leaves or not.

    Attributes:
        used: whether anything was replaced, but for linear layers.
        inner_gradients: those that the network took itself.
    """

    def __init__(
        self,
        *,
        fused: bool,
        batched: bool = False,
        opens: bool = False,
        buffers: Iterable[torch.Tensor] = (),
        leaves: Iterable[torch.Tensor] = (),
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
        self.inner_gradients = InnerGradients(self._let_through, self)
        for leaf in leaves:
            self.inner_gradients.set_requires_grad(leaf)
        self._stopped = StoppedTensors(self._let_through, self.inner_gradients, self._buffers)
        if opens:
            self._replaced |= {F.embedding: self._embedding, **READERS}
            self._replaced |= self._stopped.replacements | self.inner_gradients.replacements
        self._entered = 0
        # Whether torch.no_grad() was entered outside of the transforms of torch.func that are being computed.
        self._no_grad_around = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in the place of each of PyTorch's functions."""
        kwargs = kwargs or {}
        replacement = self._replaced.get(func, func)
        if not self.opens or func in self.inner_gradients.replacements:
            return replacement(*args, **kwargs)
        if self._stopped.watches:
            args, kwargs = self._stopped.arguments((args, kwargs), _changes(_name_of(func)))
        in_transform = torch._C._are_functorch_transforms_active()
        if func is torch._C._set_grad_enabled and not in_transform:
            self._no_grad_around = not args[0]
        # no_grad around a transform of torch.func does not stop the transform's own gradients.
        own_gradients = in_transform and self._no_grad_around and is_differentiated((args, kwargs))
        if not torch.is_grad_enabled() and not own_gradients:
            return self._with_graph(replacement, _name_of(func), args, kwargs)
        result = replacement(*args, **kwargs)
        return changed_in_transform((args, kwargs), result) if in_transform else result

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
            self._stopped.clear()

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

    def _let_through(self, value: Any) -> Any:
        """The value, or values, with a derivative for `opened` alone; a buffer as it is now."""
        if isinstance(value, torch.Tensor) and _is_continuous(value):
            self.used = True
            if id(value) in self._buffers:  # autograd may need its value after it was updated in place
                return value.clone()
            # What nothing follows stays itself, since it may be changed through its views.
            return let_through(value) if is_followed(value) else value
        if type(value) in (list, tuple):
            return type(value)(self._let_through(one) for one in value)
        return value

    def _with_graph(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stands for a call within `torch.no_grad()` or `torch.inference_mode()`."""
        if name == "_set_grad_enabled":
            return func(*args, **kwargs)
        in_place = _changes(name) or (name in _VIEWS and bool(args) and id(args[0]) in self._buffers)
        out = kwargs.pop("out", None)
        # To leave a mode that is not on would turn forward mode on again where PyTorch has turned it off.
        normal = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
        with normal, torch.enable_grad():
            kept = args[: int(in_place)]
            given = (self._let_through(value) for value in args[len(kept) :])
            result = func(*kept, *given, **{key: self._let_through(value) for key, value in kwargs.items()})
            return result if out is None else mapped(lambda place, value: place.copy_(value), out, result)


def _name_of(function: Any) -> str:
    name: str = getattr(function, "__name__", "")
    return name


def _changes(name: str) -> bool:
    """Whether a function of this name changes its first argument in place."""
    return (name.endswith("_") and not name.startswith("_")) or name in _IN_PLACE


def _is_continuous(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


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
