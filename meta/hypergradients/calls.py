"""The calls of a model's modules: recorded in one pass, and repeated one by one at other tensors and in float64."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from teachenv.randomness import Purpose, all_seeded
from teachenv.students.skeleton import Skeleton
from teachenv.trees import tensors_of


@dataclass(frozen=True, eq=False)
class Call:
    """What a module was called with.

    Attributes:
        name: the module's name in the model; "" is the model itself.
        module: the module.
        arguments: (args, kwargs), with copies of all tensors; those through which derivatives flow require them.
        tensors: these copies, each once.
        functions: PyTorch's functions that the module called itself, not by its children.
    """

    name: str
    module: nn.Module
    arguments: tuple[Any, Any]
    tensors: Sequence[torch.Tensor]
    functions: set[Any]

    @property
    def kind(self) -> str:
        """The name of the module's class."""
        return type(self.module).__name__


def calls_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Call]:
    """Records the first call of each module in a pass of a model, in the order in which they return."""
    called: list[Call] = []
    open_calls: list[Call] = []

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        with _Copying() as copying:
            arguments = copying.copied((args, kwargs))
        open_calls.append(Call(name, module, arguments, copying.tensors, set()))

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        call = open_calls.pop()
        if all(call.module is not other.module for other in called):
            called.append(call)

    with _Copying() as copying:
        given = copying.copied((tuple(args), dict(kwargs)))
    for tensor in copying.tensors:
        tensor.requires_grad_(tensor.is_floating_point())
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # which calls no modules
        for name, module in model.named_modules():
            hook = functools.partial(enter, name)
            stack.callback(module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        device = next((tensor.device for tensor in (*model.parameters(), *copying.tensors)), None)
        stack.enter_context(all_seeded(0, Purpose.DROPOUT, 0, device))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_Noting(lambda function: open_calls[-1].functions.add(function) if open_calls else None))
        model(*(_unaliased(arg) for arg in given[0]), **{key: _unaliased(arg) for key, arg in given[1].items()})
    return called


def _unaliased(argument: Any) -> Any:
    """A tensor that may be changed in place, which one that requires a gradient may not."""
    return argument.clone() if isinstance(argument, torch.Tensor) else argument


class _Copying(TorchFunctionMode):
    """Inside the block, copies of structures have tensors without graphs, which are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[torch.Tensor] = []

    def copied(self, structure: Any) -> Any:
        """A deep copy, as far as that is possible."""
        memo: dict[int, Any] = {}
        for tensor in tensors_of(structure):  # a parameter's copy would be a parameter
            if isinstance(tensor, nn.Parameter):
                self._noted(tensor, memo)
        try:
            return copy.deepcopy(structure, memo)
        except (TypeError, RuntimeError):
            return structure  # it holds something that has no copy

    def _noted(self, tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
            self.tensors.append(memo[id(tensor)])
        copied: torch.Tensor = memo[id(tensor)]
        return copied

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._noted(*args) if func is torch.Tensor.__deepcopy__ else func(*args, **(kwargs or {}))


class _Noting(TorchFunctionMode):
    def __init__(self, note: Callable[[Any], Any]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note(func)
        return func(*args, **(kwargs or {}))


class Repeated:
    """A module's call as a function of tensors.

    Args:
        skeleton: the model.
        call: the call of one of its modules.
        dtype: the type that all floating-point numbers are computed in; None: as they are.

    Attributes:
        point: what it is a function of: the module's parameters that require a gradient, and its inputs likewise.
    """

    def __init__(self, skeleton: Skeleton, call: Call, dtype: torch.dtype | None = torch.float64) -> None:
        self._skeleton, self._call, self._dtype = skeleton, call, dtype
        within = {id(registry) for m in call.module.modules() for registry in (m._parameters, m._buffers)}
        names = [n for n, places in skeleton.places.items() if any(id(registry) in within for registry, _ in places)]
        held = {name: skeleton.tensor_at(name) for name in names}
        self._moving = [name for name, tensor in held.items() if tensor.requires_grad]
        self._fixed = {name: self._typed(tensor) for name, tensor in held.items() if name not in self._moving}
        self._inputs = [tensor for tensor in call.tensors if tensor.requires_grad]
        self._constants = [tensor for tensor in call.tensors if not tensor.requires_grad]
        self.point = [self._typed(tensor) for tensor in (*(held[n] for n in self._moving), *self._inputs)]

    def _typed(self, tensor: torch.Tensor) -> torch.Tensor:
        wide = tensor.detach().clone()
        return wide if self._dtype is None or not wide.is_floating_point() else wide.to(self._dtype)

    def outputs(
        self, point: Sequence[torch.Tensor], kernels: Callable[[list[torch.Tensor]], Any] | None = None
    ) -> list[torch.Tensor]:
        """The floating-point tensors that the module returns.

        Args:
            point: other tensors in the place of `point`.
            kernels: makes of the tensors that the module may update in place a context to call it in.
        """
        fixed = {name: tensor.clone() for name, tensor in self._fixed.items()}
        moving, inputs = point[: len(self._moving)], point[len(self._moving) :]
        memo = {id(tensor): given.clone() for tensor, given in zip(self._inputs, inputs, strict=True)}
        memo |= {id(tensor): self._typed(tensor) for tensor in self._constants}
        device = point[0].device if point else None
        with ExitStack() as stack:
            stack.enter_context(self._skeleton.holding(fixed | dict(zip(self._moving, moving, strict=True))))
            stack.enter_context(all_seeded(0, Purpose.DROPOUT, 0, device))
            if self._dtype is not None:
                stack.enter_context(_casting_to(self._dtype))
            if kernels is not None:
                stack.enter_context(kernels(list(fixed.values())))
            args, kwargs = copy.deepcopy(self._call.arguments, memo)
            result = self._call.module(*args, **kwargs)
        return [tensor for tensor in tensors_of(result) if tensor.is_floating_point()]

    def gradient(
        self,
        point: Sequence[torch.Tensor],
        weights: Sequence[torch.Tensor],
        kernels: Callable[[list[torch.Tensor]], Any] | None = None,
        create_graph: bool = False,
    ) -> list[torch.Tensor]:
        """The gradient of Σ weights · outputs with respect to the point; empty if no output depends on it."""
        pairs = [
            (output, w) for output, w in zip(self.outputs(point, kernels), weights, strict=True) if output.requires_grad
        ]
        if not pairs or not point:
            return []
        outputs, weights = zip(*pairs, strict=True)
        return list(
            torch.autograd.grad(
                outputs, list(point), weights, create_graph=create_graph, allow_unused=True, materialize_grads=True
            )
        )


@contextmanager
def _casting_to(dtype: torch.dtype) -> Iterator[None]:
    """Inside the block, modules that cast to a floating-point type by name get this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _Casting(dtype):
            yield
    finally:
        torch.set_default_dtype(before)


class _Casting(TorchFunctionMode):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CASTS:
            return args[0].to(self._dtype)
        return func(*map(self._cast, args), **{key: self._cast(value) for key, value in (kwargs or {}).items()})

    def _cast(self, value: Any) -> Any:
        return self._dtype if isinstance(value, torch.dtype) and value.is_floating_point else value


_CASTS = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.double}
