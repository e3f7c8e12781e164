"""A network as a pure function: outputs and new buffers from parameters, buffers and inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from teachenv.optimizers import Tensors
from teachenv.randomness import Purpose, torch_seed
from teachenv.students.batch_norm import differentiable_batch_norm, has_batch_norm
from teachenv.students.weight_norm import differentiable_weight_norm, has_weight_norm

StudentFactory = Callable[[], nn.Module]
"""Builds a freshly initialised network; called once per episode, under the episode's seed."""


@dataclass(frozen=True)
class Prediction:
    """What a student says about a minibatch, as a loss family sees it.

    Attributes:
        outputs: (batch, outputs) logits; as a network gives them, perhaps with further dimensions.
        features: (batch, d) input of the student's last linear layer; only for families with `needs_head`.
        head_weight: (outputs, d) weight of that layer; only for families with `needs_head`.
        weights: (batch,) how much each counts in the minibatch's mean; None: all the same.
    """

    outputs: torch.Tensor
    features: torch.Tensor | None = None
    head_weight: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        """The minibatch's mean of (batch,) losses, a scalar."""
        if self.weights is None:
            return losses.mean()
        # A minibatch in which nothing counts has no loss, rather than 0 / 0.
        return (self.weights * losses).sum() / self.weights.sum().clamp(min=1e-12)


class FunctionalStudent:
    """An `nn.Module` as a pure function over named tensors.

    Trainable parameters, buffers and frozen parameters (`requires_grad=False`, carried with the buffers) are arguments;
    the module itself is only a skeleton. Tied weights stay tied, parametrisations (weight norm) are trained in their
    own coordinates, and randomness in the forward pass (dropout) is a function of (seed, step).

    Args:
        factory: builds the network.
        example: a minibatch of inputs, used once to see whether the forward pass draws random numbers and where its
            head is.
        dtype: floating type of parameters and buffers.
        device: where they live.
        autocast: run the network under `torch.autocast` in bfloat16. Each use of a weight is cast anew, so that what
            comes back from several uses (tied or recurrent weights) is added up in the parameters' own type.

    Raises:
        ValueError: the factory's product is no `nn.Module`, has nothing to train, or fails on the example.
    """

    def __init__(
        self,
        factory: StudentFactory,
        example: torch.Tensor,
        dtype: torch.dtype,
        device: torch.device,
        *,
        autocast: bool = False,
    ) -> None:
        self._factory, self._dtype, self._device, self.autocast = factory, dtype, device, autocast
        with torch_seed(0, Purpose.INIT):
            self._module = self._build()
        # By (training, differentiable): switching one module's mode back and forth costs more than keeping copies.
        self._skeletons: dict[tuple[bool, bool | Literal["batched"]], nn.Module]
        self._skeletons = {(True, False): self._module, (False, False): _twin_of(self._module).eval()}
        for training in (True, False):
            plain = self._skeletons[training, False]
            fused = elementary = plain
            if has_batch_norm(plain) or has_weight_norm(plain):
                fused, elementary = (
                    differentiable_weight_norm(differentiable_batch_norm(_twin_of(plain), fused=kernels))
                    for kernels in (True, False)
                )
            self._skeletons[training, True] = fused
            self._skeletons[training, "batched"] = _with_batched_linear(_twin_of(elementary))
        self._places = {key: _places(skeleton) for key, skeleton in self._skeletons.items()}
        self._trainable = [name for name, p in self._module.named_parameters() if p.requires_grad]
        if not self._trainable:
            raise ValueError(f"the student {type(self._module).__name__} has no trainable parameter: nothing to teach")
        self._head_name, self.stochastic, self.output_shape = self._probe(example)

    @property
    def statistics(self) -> list[str]:
        """Names of the floating-point buffers, which a training step may change (not of frozen parameters)."""
        return [name for name, b in self._module.named_buffers() if b.is_floating_point()]

    @property
    def has_convolutions(self) -> bool:
        """Whether a convolution is among the modules (batching such students over vmap is slow on CPUs)."""
        return any(isinstance(m, nn.modules.conv._ConvNd) for m in self._module.modules())

    def _build(self) -> nn.Module:
        if isinstance(self._factory, nn.Module) or not callable(self._factory):
            raise ValueError(
                f"a student is a name or a function that builds a fresh torch.nn.Module, found "
                f"{type(self._factory).__name__}; for example, pass lambda: MyNetwork(...)"
            )
        module = self._factory()
        if not isinstance(module, nn.Module):
            raise ValueError(f"a student factory must return a torch.nn.Module, found {type(module).__name__}")
        return module.to(self._device, self._dtype)

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Fresh (parameters, buffers), a function of the seed."""
        with torch_seed(seed, Purpose.INIT, device=self._device):
            module = self._build()
        named = dict(module.named_parameters())
        parameters = {name: named.pop(name).detach() for name in self._trainable}
        frozen = {name: p.detach() for name, p in named.items()}
        return parameters, frozen | {name: b.detach() for name, b in module.named_buffers()}

    def __call__(
        self,
        parameters: Tensors,
        buffers: Tensors,
        inputs: torch.Tensor,
        *,
        training: bool,
        differentiable: bool | Literal["batched"] = False,
        with_head: bool = False,
    ) -> tuple[Prediction, Tensors]:
        """The forward pass.

        Args:
            parameters: trainable parameters.
            buffers: running statistics and other buffers; left as they are.
            inputs: (batch, ...).
            training: training mode (batch statistics, dropout) or evaluation mode.
            differentiable: make the new buffers, and evaluation with respect to the buffers, differentiable;
                `"batched"`: the same, arranged for `torch.func.vmap` and for forward mode.
            with_head: fill in the prediction's features and head weight.

        Returns:
            The prediction and the new buffers.
        """
        module = self._skeletons[training, differentiable]
        if training:
            # Modules such as batch norm update their buffers in place.
            buffers = {name: b.clone() for name, b in buffers.items()}
        tensors = parameters | buffers
        places = self._places[training, differentiable]
        with self._captured_head(module, with_head) as head, _holding(tensors, places), self._precision():
            outputs = module(inputs)
            # Read back, since a forward pass may assign a buffer anew.
            new_buffers = {name: places[name][0][0][places[name][0][1]] for name in buffers}
        return Prediction(outputs.to(self._dtype), **head), new_buffers

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters, outputs and losses."""
        return self._dtype

    @contextmanager
    def held(self, parameters: Tensors, buffers: Tensors) -> Iterator[nn.Module]:
        """The network in evaluation mode with the tensors in place, for what is more than a forward pass."""
        with _holding(parameters | buffers, self._places[False, False]), self._precision():
            yield self._skeletons[False, False]

    def _precision(self) -> AbstractContextManager[object]:
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False)

    def require_head(self) -> None:
        """Refuses a network whose outputs do not come straight from a linear layer.

        Raises:
            ValueError: it is such a one.
        """
        if self._head_name is None:
            raise ValueError(
                f"this loss works on the last layer's weights, but {type(self._module).__name__} does not end in a "
                "torch.nn.Linear; use another loss, or a student whose outputs come straight from a torch.nn.Linear"
            )

    @contextmanager
    def _captured_head(self, module: nn.Module, wanted: bool) -> Iterator[dict[str, Any]]:
        captured: dict[str, Any] = {}
        if not wanted:
            yield captured
            return
        self.require_head()
        assert self._head_name is not None

        def capture(layer: nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
            captured.update(features=inputs[0].to(self._dtype), head_weight=layer.weight)

        handle = module.get_submodule(self._head_name).register_forward_pre_hook(capture)
        try:
            yield captured
        finally:
            handle.remove()

    def random_state(self, seed: int, step: int) -> Any:
        """A context in which a training forward pass draws step `step`'s random numbers; free where it draws none."""
        return torch_seed(seed, Purpose.DROPOUT, step, self._device) if self.stochastic else nullcontext()

    def _probe(self, example: torch.Tensor) -> tuple[str | None, bool, tuple[int, ...]]:
        """Runs one training pass: name of the head, whether random numbers were drawn, shape of a sample's outputs."""
        linear = {name: m for name, m in self._module.named_modules() if isinstance(m, nn.Linear)}
        seen: dict[str, torch.Tensor] = {}
        handles = [
            m.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
            for name, m in linear.items()
        ]
        with torch_seed(0, Purpose.DROPOUT, device=self._device), torch.no_grad():
            before = torch.default_generator.get_state()
            try:
                with self._precision():
                    outputs = self._module.train()(example)
            except (RuntimeError, ValueError, TypeError) as error:
                # oneDNN, for one, has no LSTM in bfloat16 for processors without AVX-512.
                hint = "; this machine may lack it in bfloat16: try autocast=None" if self.autocast else ""
                raise ValueError(
                    f"the student {type(self._module).__name__} fails on inputs of shape {tuple(example.shape)} and "
                    f"type {example.dtype}: {error}{hint}"
                ) from error
            stochastic = not torch.equal(before, torch.default_generator.get_state())
        for handle in handles:
            handle.remove()
        head = next((name for name, out in seen.items() if out is outputs), None)
        return head, stochastic, tuple(outputs.shape[1:])


def _twin_of(module: nn.Module) -> nn.Module:
    """A copy that shares the tensors: a skeleton is only called with others in their place."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, memo={id(tensor): tensor for tensor in tensors})


def _with_batched_linear(module: nn.Module) -> nn.Module:
    """Exchanges, in place, each `nn.Linear` for one that is faster under vmap; returns the module."""
    for child in module.modules():
        if type(child) is nn.Linear:
            child.__class__ = _BatchedLinear
    return module


class _BatchedLinear(nn.Linear):
    """`nn.Linear` with its bias added in place: vmap has no fused kernel, and memory traffic is what bounds it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        bias: torch.Tensor | None = self.bias
        product = input @ self.weight.t()
        return product if bias is None else product.add_(bias)


_Place = tuple[dict[str, Any], str]
"""Where a module keeps a tensor: its dictionary of parameters or buffers, and the key there."""


def _places(module: nn.Module) -> dict[str, list[_Place]]:
    """All places of each parameter and buffer, by the tensor's first name; tied tensors have several."""
    names: dict[int, str] = {}
    places: dict[str, list[_Place]] = {}
    for prefix, child in module.named_modules():
        for registry in (child._parameters, child._buffers):
            for key, tensor in registry.items():
                if tensor is not None:
                    name = names.setdefault(id(tensor), f"{prefix}.{key}" if prefix else key)
                    places.setdefault(name, []).append((registry, key))
    return places


@contextmanager
def _holding(tensors: Tensors, places: dict[str, list[_Place]]) -> Iterator[None]:
    """Puts the tensors into a module's places inside the block, and what was there back after it.

    It is `torch.func.functional_call` with the names looked up once and not at each call, which a small student feels.
    """
    held = [(registry, key, registry[key]) for name in tensors for registry, key in places[name]]
    try:
        for name, tensor in tensors.items():
            for registry, key in places[name]:
                registry[key] = tensor
        yield
    finally:
        for registry, key, tensor in held:
            registry[key] = tensor
