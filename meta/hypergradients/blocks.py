"""Blocks of a network that keep no graph: what is inside is computed again where it is differentiated.

A step's adjoint is a product with the derivative of the loss' gradient g. Double backward holds the graph of g, which
is that of the whole network, twice. By forward mode over reverse mode the same product is the tangent of g along the
cotangent dg, since a Hessian is symmetric,

    (∂g/∂ω)ᵀ dg = d/dε ∇_ω L(ω + ε dg, a)        (∂g/∂a)ᵀ dg = d/dε ∇_a L(ω + ε dg, a)

and needs a graph of L alone, of pairs (value, tangent). Of that, only what goes from block to block is kept here: each
block is computed without a graph, and once more, with one, when the backward pass comes to it (as in MixFlow-MG,
arXiv:2505.00793). Memory: twice the activations between blocks, and the graph of one block. Time: a forward pass of all
blocks more, see `docs/hypergradients.md`.

Where the network stops gradients (`detach`), g is no gradient, and its derivative not symmetric; `transposed` of
`teachenv.students.stopped_gradients` makes the product that with the transposed derivative nevertheless.

Known gaps: a block that updates its buffers (batch norm in training) is refused. What a block draws from torch's global
generators (dropout) is drawn again; from others it must not draw, nor keep anything between calls (caches of keys).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

from meta.hypergradients.forward_mode import dual
from teachenv.nodes import nodes_of
from teachenv.students.skeleton import Skeleton
from teachenv.trees import mapped, tensors_of, with_tensors

Kernels = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a block is computed again."""


class Blocks:
    """Modules of a model that keep no graph where they are exchanged.

    Args:
        model: the model.
        names: of the blocks; an `nn.Sequential` or `nn.ModuleList` stands for its members. None: the members of the
            model's outermost ones that have at least two.

    Raises:
        ValueError: there are none, the model has no module of a name, or one block is inside another.
    """

    def __init__(self, model: nn.Module, names: Sequence[str] | None = None) -> None:
        self._blocks = {name: _Block(name, module) for name, module in _blocks_of(model, names).items()}

    @property
    def names(self) -> list[str]:
        """Their names in the model."""
        return list(self._blocks)

    @property
    def called(self) -> bool:
        """Whether a pass has called one of them."""
        return any(block.called for block in self._blocks.values())

    @contextmanager
    def exchanged(self, kernels: Kernels, *, pushed: bool = False) -> Iterator[None]:
        """Inside the block, what these modules return has a graph of nothing but their inputs and parameters.

        Args:
            kernels: where they are computed again.
            pushed: whether the gradient is taken for its tangent, so that a graph of its own is of no use.
        """
        with ExitStack() as stack:
            for block in self._blocks.values():
                stack.enter_context(block.exchanged(kernels, pushed))
            yield


_OWN = ("forward", "_forward_pre_hooks", "_forward_hooks")


class _Block:
    """A module that is exchanged: calls of it go elsewhere, its hooks included."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module, self.skeleton = name, module, Skeleton(module)
        self.buffers = [name for name, _ in module.named_buffers()]
        self.called = False
        # Whether a kernel's gradient has no forward mode, so that it is composed of operations that have.
        self.composed = False

    @contextmanager
    def exchanged(self, kernels: Kernels, pushed: bool) -> Iterator[None]:
        attributes = {key: self.module.__dict__[key] for key in _OWN if key in self.module.__dict__}

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.called = True
            return _Call(self, attributes, args, kwargs, kernels, pushed).result()

        with self.having({"forward": forward, "_forward_pre_hooks": {}, "_forward_hooks": {}}):
            yield

    @contextmanager
    def having(self, new: dict[str, Any]) -> Iterator[None]:
        """Puts attributes of `_OWN` into the module inside the block, and removes those that are not given."""
        attributes = self.module.__dict__
        before = {key: attributes.pop(key) for key in _OWN if key in attributes}
        attributes.update(new)
        try:
            yield
        finally:
            for key in _OWN:
                attributes.pop(key, None)
            attributes.update(before)


@dataclass(frozen=True)
class _Place:
    """Where a tensor stands among a call's arguments."""

    index: int


class _Call:
    """A call of a block, which can be repeated."""

    def __init__(
        self, block: _Block, attributes: dict[str, Any], args: Any, kwargs: Any, kernels: Kernels, pushed: bool
    ) -> None:
        self.block, self.pushed = block, pushed
        self._attributes, self._kernels = attributes, kernels
        inputs = tensors_of((args, kwargs))
        self._arguments = with_tensors((args, kwargs), map(_Place, range(len(inputs))))
        self._names, self._count = list(block.skeleton.places), len(inputs)
        self._given = [*inputs, *map(block.skeleton.tensor_at, self._names)]
        self._moving = [i for i, tensor in enumerate(self._given) if _moves(tensor)]
        self._modes = [(module, module.training) for module in block.module.modules()]
        self._autocast = [_autocast_of(device) for device in {tensor.device.type for tensor in self._given} | {"cpu"}]
        device = next((tensor.device for tensor in self._given if tensor.is_cuda), None)
        self._random: list[tuple[torch.device | None, torch.Tensor]] = [(None, torch.get_rng_state())]
        if device is not None:
            self._random.append((device, torch.cuda.get_rng_state(device)))

    def result(self) -> Any:
        """What the block returns, attached to the tensors that it was given."""
        if not self._moving or not torch.is_grad_enabled():
            return self._at(self._given)
        moving = [self._given[i] for i in self._moving]
        with torch._C.DisableTorchFunction():  # which would take what is detached here for the network's doing
            start = [_fresh(tensor) if _moves(tensor) else tensor for tensor in self._given]
        versions = [tensor._version for tensor in start]
        result = self._at(start)
        self._check_buffers(start, versions)
        outputs = tensors_of(result)
        floating = [output for output in outputs if output.is_floating_point()]
        for i in self._moving:
            self._given[i] = start[i].new_empty(0)  # autograd keeps the tensor itself
        with torch._C.DisableTorchFunction():
            pairs = [forward_ad.unpack_dual(output) for output in floating]  # type: ignore[no-untyped-call]
            values = [pair.primal.detach() for pair in pairs]
            tangents = [
                torch.zeros_like(value) if pair.tangent is None else pair.tangent.detach()
                for value, pair in zip(values, pairs, strict=True)
            ]
            attached = iter(_Attached.apply(self, values, tangents, *moving))
        return with_tensors(result, [next(attached) if o.is_floating_point() else o for o in outputs])

    def gradient(
        self, moving: Sequence[torch.Tensor], needed: Sequence[bool], weights: Sequence[torch.Tensor]
    ) -> list[torch.Tensor | None]:
        """The gradient of Σ weights · outputs with respect to those of the moving tensors that need it."""
        if torch.is_grad_enabled() and not self.pushed:
            raise RuntimeError(
                'the loss takes a gradient with create_graph=True through a block of adjoint="blockwise", which keeps '
                'no graph; use adjoint="double-backward"'
            )
        try:
            return self._gradient(moving, needed, weights)
        except RuntimeError:
            if self.block.composed:
                raise
            self.block.composed = True
            return self._gradient(moving, needed, weights)

    def _gradient(
        self, moving: Sequence[torch.Tensor], needed: Sequence[bool], weights: Sequence[torch.Tensor]
    ) -> list[torch.Tensor | None]:
        leaves = [_fresh(tensor).requires_grad_(need) for tensor, need in zip(moving, needed, strict=True)]
        tensors = list(self._given)
        for i, leaf in zip(self._moving, leaves, strict=True):
            tensors[i] = leaf
        with torch.enable_grad(), self._as_before(), self._kernels():
            outputs = [output for output in tensors_of(self._at(tensors)) if output.is_floating_point()]
        wanted = [leaf for leaf, need in zip(leaves, needed, strict=True) if need]
        pairs = [(output, w) for output, w in zip(outputs, weights, strict=True) if output.requires_grad]
        if self.pushed:
            _cut_cycles(outputs)
        grads = torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [w for _, w in pairs],
            create_graph=self.block.composed,
            materialize_grads=True,
        )
        if self.pushed and self.block.composed:
            _cut_cycles(grads)
        fresh = map(_fresh, grads)
        return [next(fresh) if need else None for need in needed]

    def _at(self, tensors: Sequence[torch.Tensor]) -> Any:
        # Copies, since a block may change its inputs in place.
        inputs = [t.clone() if t.is_floating_point() else t for t in tensors[: self._count]]
        args, kwargs = mapped(lambda place: inputs[place.index], self._arguments, of=_Place)
        held = dict(zip(self._names, tensors[self._count :], strict=True))
        with self.block.having(self._attributes), self.block.skeleton.holding(held):
            return self.block.module(*args, **kwargs)

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Sets modes, autocast and torch's generators to where they were at the call, and back after the block."""
        with ExitStack() as stack, torch.random.fork_rng([device for device, _ in self._random if device is not None]):
            for device, state in self._random:
                torch.set_rng_state(state) if device is None else torch.cuda.set_rng_state(state, device)
            for module, training in self._modes:
                stack.callback(setattr, module, "training", module.training)
                module.training = training
            for autocast in self._autocast:
                stack.enter_context(autocast())
            yield

    def _check_buffers(self, given: Sequence[torch.Tensor], versions: Sequence[int]) -> None:
        held = given[self._count :], versions[self._count :]
        for name, tensor, version in zip(self._names, *held, strict=True):
            if name in self.block.buffers and tensor._version != version:
                raise ValueError(
                    f'the block {self.block.name!r} updates its buffer {name!r}, which adjoint="blockwise" cannot '
                    'follow: normalise without running statistics (nn.GroupNorm), or use adjoint="double-backward"'
                )


def _autocast_of(device: str) -> Kernels:
    """Makes the context in which autocast on a kind of device is as it is now; without its cache, as in checkpoints."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return functools.partial(torch.autocast, device, dtype, enabled, cache_enabled=False)


class _Attached(torch.autograd.Function):
    """Values and tangents that were computed elsewhere, as a function of the tensors that they came from."""

    @staticmethod
    def forward(ctx: Any, call: _Call, values: Any, tangents: Any, *moving: torch.Tensor) -> Any:
        ctx.call, ctx.tangents = call, tangents
        ctx.save_for_backward(*moving)
        return tuple(values)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        return tuple(ctx.tangents)

    @staticmethod
    def backward(ctx: Any, *weights: torch.Tensor) -> Any:
        return None, None, None, *ctx.call.gradient(ctx.saved_tensors, ctx.needs_input_grad[3:], weights)


def _cut_cycles(tensors: Sequence[torch.Tensor]) -> None:
    """Takes the graphs from tangents that the graph of these tensors saved: nothing differentiates them.

    PyTorch (2.14) saves the tangent of an operation's output (softmax, tanh, ReLU) with it, and the tangent's graph
    leads back to the operation: a cycle, which would hold all blocks' activations until forward mode ends.
    """
    for node in nodes_of(tensor.grad_fn for tensor in tensors):
        for name in _saved_by(node.__class__):
            saved = getattr(node, name)
            if isinstance(saved, torch.Tensor):
                tangent = forward_ad.unpack_dual(saved).tangent  # type: ignore[no-untyped-call]
                if tangent is not None and tangent.grad_fn is not None and not tangent._is_view():
                    tangent.detach_()


@functools.cache
def _saved_by(kind: Any) -> list[str]:
    return [name for name in dir(kind) if name.startswith("_saved_")]


def _moves(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return False
    return tensor.requires_grad or forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def _fresh(tensor: torch.Tensor) -> torch.Tensor:
    """The value, and the tangent if there is one, without a graph."""
    value, tangent = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return value.detach() if tangent is None else dual(value.detach(), tangent.detach())


def _blocks_of(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    if names is None:
        members = _members(model, "")
        if not members:
            raise ValueError(
                'adjoint="blockwise" found no nn.Sequential or nn.ModuleList of several modules; name the blocks: '
                "blocks=[...], names of modules"
            )
        return members
    chosen: dict[str, nn.Module] = {}
    for name in names:
        if not name or name not in modules:
            raise ValueError(f"found blocks={list(names)!r}, but the model has no module {name!r}")
        chosen |= _members(modules[name], name) if _is_list(modules[name]) else {name: modules[name]}
    for name in chosen:
        if inside := next((other for other in chosen if other.startswith(f"{name}.")), None):
            raise ValueError(f"the block {inside!r} is inside the block {name!r}; leave one of them out")
    return chosen


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList) and len(module) > 1


def _members(module: nn.Module, name: str) -> dict[str, nn.Module]:
    """The members of the outermost lists of modules, by name; each module once."""
    children = {f"{name}.{key}" if name else key: child for key, child in module.named_children()}
    if _is_list(module):
        return children
    return {k: m for path, child in children.items() for k, m in _members(child, path).items()}
