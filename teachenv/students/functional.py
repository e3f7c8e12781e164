"""A network as a pure function: outputs and new buffers from parameters, buffers and inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from teachenv.optimizers import Tensors
from teachenv.randomness import Purpose, all_seeded, generator_states, torch_seed
from teachenv.students.calling import Call, NoOutputs, as_floats
from teachenv.students.factories import StudentFactory, built
from teachenv.students.kernels import DifferentiableKernels
from teachenv.students.prediction import Prediction
from teachenv.students.skeleton import Skeleton, modes_of

_FEW = 8
"""Inputs on which a network is looked at when it is made."""


class FunctionalStudent:
    """An `nn.Module` as a pure function over named tensors.

    Trainable parameters, buffers and frozen parameters (`requires_grad=False`, carried with the buffers) are arguments;
    the module itself is only a skeleton. Tied weights stay tied, parametrisations (weight norm) are trained in their
    own coordinates, and randomness in the forward pass (dropout) is a function of (seed, step), be it drawn from
    torch's, Python's or NumPy's global generator.

    As in every PyTorch loop, a training pass runs after `module.train()` and an evaluation pass after `module.eval()`,
    in whichever mode the factory returns the module. What shall stay in evaluation mode while the rest trains (frozen
    batch norm) says so in its own `train` method, not by a call of `eval()` in the factory.

    `functional_student` makes one and compares it with the module itself.

    Args:
        factory: builds the network. Lazy modules are completed by a pass of zeros.
        example: a minibatch of inputs, used once to see what the forward pass does and where its head is.
        dtype: floating type of parameters and buffers.
        device: where they live.
        autocast: run the network under `torch.autocast` in bfloat16. Each use of a weight is cast anew, so that what
            comes back from several uses (tied or recurrent weights) is added up in the parameters' own type.
        known: whether the network is one of this package's, of which a few inputs show what is asked of it.
        call: how it is called, and which part of its answer its outputs are; by default a tensor, or something with a
            tensor as `logits`, attribute or key.

    Attributes:
        module: the skeleton: a module into which tensors are put for a pass.
        stochastic: whether a training pass draws random numbers.
        buffers: names of the buffers (not of frozen parameters).
        statistics: names of the floating-point buffers, which a training step may change, and of the frozen
            parameters that it does change.
        output_shape: shape of one sample's outputs.
        few: so many inputs show what the network does: a few, or all of the example if it takes no other number.
        opens: whether derivatives are let through stopped gradients; see `teachenv.students.kernels`.
        exchanged: whether a pass, by mode (training or not), has an operation that is exchanged for a differentiable
            one.
        reads_statistics: whether a training pass's outputs depend on the floating-point buffers before it.
        reads_stopped: whether they depend on something whose gradient the network stops.
        unfollowed: names of results whose derivative leaves out a part: "buffer 'mean'", "its outputs".

    Raises:
        ValueError: the factory's product is no `nn.Module`, has nothing to train, fails on the example, has outputs of
            another kind, or is no function of its tensors.
    """

    def __init__(
        self,
        factory: StudentFactory,
        example: torch.Tensor,
        dtype: torch.dtype,
        device: torch.device,
        *,
        autocast: bool = False,
        known: bool = False,
        call: Call | None = None,
    ) -> None:
        self.factory, self._dtype, self.device, self.autocast = factory, dtype, device, autocast
        self.call, example = call or Call(), as_floats(example, dtype)
        self._shape_of_inputs, self._type_of_inputs = example[:2].shape, example.dtype
        self._make_skeleton()
        self.name = type(self.module).__name__
        if not self._trainable:
            raise ValueError(f"the student {self.name} has no trainable parameter: nothing to teach")
        self.opens, self.exchanged = True, {True: True, False: True}
        self.reads_statistics = self.reads_stopped = False
        self.unfollowed: tuple[str, ...] = ()
        self.few = len(self._probe(example, known))

    def _make_skeleton(self) -> None:
        with all_seeded(0, Purpose.INIT, device=self.device):
            self._skeleton = Skeleton(self.build())
        self.module = self._skeleton.module
        self._modes = modes_of(self.module)
        self._trainable = [name for name, p in self.module.named_parameters() if p.requires_grad]
        self.buffers = [name for name, _ in self.module.named_buffers()]
        self.statistics = [name for name, b in self.module.named_buffers() if b.is_floating_point()]

    def __getstate__(self) -> dict[str, Any]:
        # A skeleton's hooks and leftovers need not be picklable, and it can be built anew.
        rebuilt = ("module", "_skeleton", "_modes")
        return {name: value for name, value in self.__dict__.items() if name not in rebuilt}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_skeleton()
        # A new skeleton does not show which frozen parameters a pass moves; the check at construction found that out.
        self.statistics = state["statistics"]

    @property
    def stochastic(self) -> bool:
        """Whether a training pass draws random numbers."""
        return bool(self._draws_from)

    @property
    def has_convolutions(self) -> bool:
        """Whether a convolution is among the modules (batching such students over vmap is slow on CPUs)."""
        return any(isinstance(m, nn.modules.conv._ConvNd) for m in self.module.modules())

    def build(self) -> nn.Module:
        """A fresh network, from torch's, Python's and NumPy's global generators."""
        like = torch.empty(0, dtype=self._dtype, device=self.device)

        def complete(module: nn.Module) -> None:
            zeros = torch.zeros(self._shape_of_inputs, dtype=self._type_of_inputs, device=self.device)
            self.call.answer(module.eval(), zeros)

        return built(self.factory, like, complete)

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Fresh (parameters, buffers), a function of the seed."""
        with all_seeded(seed, Purpose.INIT, device=self.device):
            module = self.build()
        return self.tensors_of(module)

    def tensors_of(self, module: nn.Module) -> tuple[Tensors, Tensors]:
        """The (parameters, buffers) of a network that `build` built."""
        named, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        parameters = {name: named.pop(name).detach() for name in self._trainable}
        frozen = {name: p.detach() for name, p in named.items() if name in self._skeleton.places}
        return parameters, frozen | {name: buffers[name].detach() for name in self.buffers}

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
            inputs: a minibatch of inputs, (batch, ...); pixels as uint8 are brought to [0, 1].
            training: training mode (batch statistics, dropout) or evaluation mode.
            differentiable: make the new buffers, and evaluation with respect to the buffers, differentiable;
                `"batched"`: the same, arranged for `torch.func.vmap` and for forward mode.
            with_head: fill in the prediction's features and head weight.

        Returns:
            The prediction and the new buffers.
        """
        with self._captured_head(with_head) as head:
            outputs, new_buffers = self.raw(
                parameters, buffers, inputs, training=training, differentiable=differentiable
            )
        return Prediction(outputs.to(self._dtype), **head), new_buffers

    def raw(
        self,
        parameters: Tensors,
        buffers: Tensors,
        inputs: torch.Tensor,
        *,
        training: bool,
        differentiable: bool | Literal["batched"] = False,
    ) -> tuple[torch.Tensor, Tensors]:
        """(Outputs as the network gives them, new buffers); see `__call__`."""
        if training:
            # Modules such as batch norm update their buffers in place.
            buffers = {name: b.clone() for name, b in buffers.items()}
        kernels = self._kernels(buffers, training, differentiable)
        with self.holding(parameters | buffers, training), kernels, self.precision():
            outputs = self.call(self.module, as_floats(inputs, self._dtype), self.name, training)
            # Read back, since a forward pass may assign a buffer anew.
            return outputs, {name: self.tensor_at(name) for name in buffers}

    def tensor_at(self, name: str) -> torch.Tensor:
        """The tensor that is in the skeleton under a name."""
        return self._skeleton.tensor_at(name)

    def _kernels(
        self, buffers: Tensors, training: bool, differentiable: bool | Literal["batched"]
    ) -> AbstractContextManager[object]:
        batched = differentiable == "batched"
        if not (batched or (differentiable and self.exchanged[training])):
            return nullcontext()
        return DifferentiableKernels(
            fused=not batched, batched=batched, opens=self.opens and self.exchanged[training], buffers=buffers.values()
        )

    @property
    def dtype(self) -> torch.dtype:
        """The type of parameters, outputs and losses."""
        return self._dtype

    @contextmanager
    def held(self, parameters: Tensors, buffers: Tensors) -> Iterator[nn.Module]:
        """The network in evaluation mode with the tensors in place, for what is more than a forward pass."""
        with self.holding(parameters | buffers, training=False), self.precision():
            yield self.module

    def holding(self, tensors: Tensors, training: bool) -> AbstractContextManager[None]:
        """Puts tensors and mode into the skeleton inside the block, and what was there back after it."""
        return self._skeleton.holding(tensors, self._modes[training])

    def precision(self) -> AbstractContextManager[object]:
        """The context in which the network computes: autocast's, if that is asked for."""
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def require_head(self) -> None:
        """Refuses a network whose outputs do not come straight from a linear layer.

        Raises:
            ValueError: it is such a one.
        """
        if self._head_name is None:
            raise ValueError(
                f"this loss works on the last layer's weights, but {self.name} does not end in a "
                "torch.nn.Linear; use another loss, or a student whose outputs come straight from a torch.nn.Linear"
            )

    @contextmanager
    def _captured_head(self, wanted: bool) -> Iterator[dict[str, Any]]:
        captured: dict[str, Any] = {}
        if not wanted:
            yield captured
            return
        self.require_head()
        assert self._head_name is not None

        def capture(layer: nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
            captured.update(features=inputs[0].to(self._dtype), head_weight=layer.weight)

        handle = self.module.get_submodule(self._head_name).register_forward_pre_hook(capture)
        try:
            yield captured
        finally:
            handle.remove()

    def random_state(self, seed: int, step: int) -> AbstractContextManager[None]:
        """A context in which a training forward pass draws step `step`'s random numbers; free where it draws none."""
        if not self._draws_from:
            return nullcontext()
        seeded = torch_seed if self._draws_from == {"torch"} else all_seeded
        return seeded(seed, Purpose.DROPOUT, step, self.device)

    def _probe(self, example: torch.Tensor, known: bool) -> torch.Tensor:
        """Finds the head, the generators that are drawn from and the shape of a sample's outputs, by a training pass.

        Returns:
            A few of the inputs; all of them, if the network takes no other number.
        """
        linear = {name: m for name, m in self.module.named_modules() if isinstance(m, nn.Linear)}
        linear_outputs: dict[str, torch.Tensor] = {}
        handles = [
            m.register_forward_hook(lambda _m, _i, out, name=name: linear_outputs.__setitem__(name, out))
            for name, m in linear.items()
        ]
        try:
            few = example[:_FEW]
            try:
                outputs = self._run_once(few)
            except NoOutputs:
                raise
            except Exception:
                few = example
            if not known or few is example:
                # What the network does with a whole minibatch is what counts, and it may fail on that alone.
                outputs = self._run_once(example)
        except NoOutputs:
            raise
        except Exception as error:
            # oneDNN, for one, has no LSTM in bfloat16 for processors without AVX-512.
            hint = "; this machine may lack it in bfloat16: try autocast=None" if self.autocast else ""
            if self.call.unpack is not None and isinstance(error, TypeError) and "argument" in str(error):
                hint = "; name the inputs of a sample as the arguments of the network's forward"
            elif self.call.unpack is None and not example.is_floating_point():
                hint = "; integers are taken as tokens: give features as floats"
            elif example.dim() == 1:
                hint = "; samples are single numbers: if it takes vectors, reshape the inputs to (n, 1)"
            raise ValueError(
                f"the student {self.name} fails on {self.call.described(example)}: {error}{hint}"
            ) from error
        for handle in handles:
            handle.remove()
        self._head_name = next((name for name, out in linear_outputs.items() if out is outputs), None)
        self.output_shape = tuple(outputs.shape[1:])
        return few

    def _run_once(self, inputs: torch.Tensor) -> torch.Tensor:
        """The outputs of a training pass; notes from what it draws, and whether it writes into its inputs."""
        inputs = inputs.clone()
        parameters, buffers = (copied(tensors) for tensors in self.tensors_of(self.module))
        with all_seeded(0, Purpose.DROPOUT, device=self.device), torch.no_grad():
            before = generator_states(self.device)
            with self.holding(parameters | buffers, training=True), self.precision():
                outputs = self.call(self.module, inputs, self.name, training=True)
            if inputs._version:
                self.call = replace(self.call, copies=True)
            after = generator_states(self.device)
        self._draws_from = {name for name, state in before.items() if state != after[name]}
        return outputs


def copied(tensors: Tensors) -> Tensors:
    """The tensors in memory of their own."""
    return {name: t.clone() for name, t in tensors.items()}
