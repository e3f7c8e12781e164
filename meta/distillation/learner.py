"""A network that learns, teacher or student, and the optimiser that moves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meta.influence.derivatives import held_out_gradient
from teachenv.optimizers import Optimizer, Tensors
from teachenv.schedules import Schedule


@dataclass(frozen=True)
class Outputs:
    """What a network says about a batch.

    Attributes:
        logits: (B, classes).
        hidden: (B, d) of each of its layers that may be imitated, first to last; empty if it shows none.
    """

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] = ()

    @property
    def detached(self) -> Outputs:
        """The same without a graph."""
        return Outputs(self.logits.detach(), tuple(tensor.detach() for tensor in self.hidden))


class Learner:
    """A network, changed in place by its optimiser's steps, and tried out where it would be after one.

    Args:
        network: called with a batch's inputs; returns logits, or `Outputs`.
        optimizer: its optimiser, pure functions; with them a step can be tried without copying an optimiser.
        rate: base learning rate.
        schedule: factor on the rate by step.

    Raises:
        ValueError: the network has no trainable parameter.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, rate: float, schedule: Schedule) -> None:
        self.network, self.optimizer, self._rate, self._schedule = network, optimizer, rate, schedule
        if not self.parameters:
            raise ValueError(f"{type(network).__name__} has no trainable parameter: nothing to learn")
        # Made at the first step: a teacher that is fixed takes none.
        self.slots: Tensors = {}
        self.steps = 0

    @property
    def parameters(self) -> Tensors:
        """Those that are trained, detached; they change with the next step."""
        return {name: p.detach() for name, p in self.network.named_parameters() if p.requires_grad}

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate * float(self._schedule(self.steps))

    def outputs(self, inputs: Any, *, training: bool) -> Outputs:
        """The network's outputs, with a graph if gradients are enabled.

        Args:
            inputs: of a batch.
            training: with dropout and batch statistics, or without.
        """
        return outputs_of(self.network.train(training), inputs)

    def gradient(self, loss: torch.Tensor) -> Tensors:
        """∇ of a loss, zero where it does not reach."""
        named = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        return dict(zip(named, found, strict=True))

    def after(self, gradient: Tensors) -> Tensors:
        """The parameters after a step along a gradient that is not taken."""
        return self._update(gradient)[0]

    def descend(self, gradient: Tensors) -> None:
        """Takes the step."""
        parameters, self.slots = self._update(gradient)
        self.steps += 1
        with torch.no_grad():
            for name, own in self.network.named_parameters():
                if name in parameters:
                    own.copy_(parameters[name])

    def held_out_gradient(self, batch: Any, parameters: Tensors) -> Tensors:
        """∇ of the labels' cross-entropy on held-out data, at other parameters; without dropout."""
        return held_out_gradient(self.network, label_losses, batch, parameters)

    def _update(self, gradient: Tensors) -> tuple[Tensors, Tensors]:
        parameters = self.parameters
        with torch.no_grad():
            slots = self.slots or self.optimizer.init(parameters)
            return self.optimizer.update(parameters, gradient, slots, self.rate, self.steps)

    def state(self) -> dict[str, Any]:
        """What a later run goes on from; tensors are copied."""
        return {
            "network": {name: tensor.clone() for name, tensor in self.network.state_dict().items()},
            "slots": dict(self.slots),
            "steps": self.steps,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state`."""
        self.network.load_state_dict(state["network"])
        self.slots, self.steps = dict(state["slots"]), state["steps"]


def outputs_of(network: nn.Module, inputs: Any) -> Outputs:
    """A network's outputs, in whatever form it returns them."""
    found = network(inputs)
    return found if isinstance(found, Outputs) else Outputs(found)


def label_losses(network: nn.Module, batch: Any) -> torch.Tensor:
    """Cross-entropy with the labels, (B,)."""
    inputs, labels = batch
    return torch.nn.functional.cross_entropy(outputs_of(network, inputs).logits, labels, reduction="none")
