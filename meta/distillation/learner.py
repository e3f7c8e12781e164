"""A network that learns, teacher or student, and the optimiser that moves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meta.distillation.batch import Batch
from meta.distillation.losses import cross_entropy
from meta.influence.derivatives import held_out_gradient
from teachenv import checks
from teachenv.modes import evaluating, frozen_norms
from teachenv.optimizers import Optimizer, Tensors
from teachenv.schedules import Schedule


@dataclass(frozen=True)
class Outputs:
    """What a network says about a batch.

    Attributes:
        logits: the network's logits: (B, classes), or (B, classes, L) of sequences, as it gives them; the trainer hands
            those of the N decisions of a batch to losses, (N, classes).
        hidden: a vector for each sample, (B, d), of each layer that may be imitated, first to last; empty if the
            network shows none.
    """

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] = ()

    @property
    def detached(self) -> Outputs:
        """These outputs without their graph."""
        return Outputs(self.logits.detach(), tuple(tensor.detach() for tensor in self.hidden))


class Learner:
    """A network, changed in place by its optimiser's steps, and tried out where it would be after one.

    Args:
        network: a module that takes a batch's inputs to logits, or to `Outputs`.
        optimizer: the optimiser, pure functions: a step can be tried without copying an optimiser.
        rate: the base learning rate.
        schedule: the factor on the learning rate, by step.

    Raises:
        ValueError: the network has no trainable parameter.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, rate: float, schedule: Schedule) -> None:
        self.network, self.optimizer, self._rate, self._schedule = network, optimizer, rate, schedule
        if not self.parameters:
            raise ValueError(f"{type(network).__name__} has no trainable parameter: nothing to learn")
        self._frozen = frozen_norms(network)
        # Made at the first step: a teacher that is fixed takes none.
        self.slots: Tensors = {}
        self.steps = 0

    @property
    def parameters(self) -> Tensors:
        """The parameters that are trained, by name, detached; they change with the next step."""
        return {name: p.detach() for name, p in self.network.named_parameters() if p.requires_grad}

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate * float(self._schedule(self.steps))

    def outputs(self, batch: Batch, *, training: bool) -> Outputs:
        """Computes what the network says of a batch's decisions, with a graph if gradients are enabled.

        Args:
            batch: the samples; of the labels it matters only where there is one.
            training: whether the network is in training mode, with dropout and batch statistics, but for batch norm
                that was frozen; else all of it is in evaluation mode.
        """
        if not training:
            with evaluating(self.network):
                return outputs_of(self.network, batch)
        if self.network.training:  # else it was evaluated in between, and all of it is in evaluation mode
            self._frozen = frozen_norms(self.network)
        self.network.train()
        for part in self._frozen:
            part.eval()
        return outputs_of(self.network, batch)

    def gradient(self, loss: torch.Tensor) -> Tensors:
        """Computes the gradient of a loss, by name of parameter; zeros where the loss does not depend on one."""
        trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(trained.values()), materialize_grads=True)
        return dict(zip(trained, gradients, strict=True))

    def after(self, gradient: Tensors) -> Tensors:
        """Computes the parameters after a step along a gradient, without taking it."""
        return self._update(gradient)[0]

    def descend(self, gradient: Tensors) -> None:
        """Takes a step along a gradient, in place."""
        parameters, self.slots = self._update(gradient)
        self.steps += 1
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if name in parameters:
                    parameter.copy_(parameters[name])

    def held_out_gradient(self, batch: Batch, parameters: Tensors) -> Tensors:
        """Computes the gradient of the labels' mean cross-entropy on held-out data, at given parameters, no dropout."""
        return held_out_gradient(self.network, label_losses, batch, parameters)

    def _update(self, gradient: Tensors) -> tuple[Tensors, Tensors]:
        parameters = self.parameters
        with torch.no_grad():
            slots = self.slots or self.optimizer.init(parameters)
            return self.optimizer.update(parameters, gradient, slots, self.rate, self.steps)

    def state(self) -> dict[str, Any]:
        """Returns network, optimiser slots and step, from which a later run goes on; the network is copied."""
        return {
            "network": {name: tensor.clone() for name, tensor in self.network.state_dict().items()},
            "slots": dict(self.slots),
            "steps": self.steps,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Puts network and optimiser into what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.slots, self.steps = dict(state["slots"]), state["steps"]


def outputs_of(network: nn.Module, batch: Batch) -> Outputs:
    """Calls a network, and returns its outputs for the batch's decisions in whatever form it gives them.

    Raises:
        ValueError: logits that do not fit the batch's labels, or labels that do not fit the logits.
    """
    outputs = as_outputs(network(batch.inputs))
    return Outputs(batch.decided(outputs.logits), outputs.hidden)


def as_outputs(result: torch.Tensor | Outputs) -> Outputs:
    """What a network returned, logits or `Outputs`, as `Outputs`.

    Raises:
        TypeError: it is neither.
    """
    outputs = result if isinstance(result, Outputs) else Outputs(result)
    if not isinstance(outputs.logits, torch.Tensor):
        raise TypeError(
            f"a network returned {checks.shown(result)}, expected a tensor of logits, or meta.distillation.Outputs"
        )
    return outputs


def check_network(name: str, value: object) -> None:
    """Checks that a network is a module.

    Args:
        name: what the network is, for messages.
        value: what the user gave.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, nn.Module):
        built = "; give what it returns" if callable(value) else ""
        raise TypeError(f"{name} must be a torch.nn.Module, found {checks.shown(value)}{built}")


def check_classes(one: Outputs, other: Outputs) -> None:
    """Checks that teacher and student, in either order, have the same classes.

    Raises:
        ValueError: they have not.
    """
    counts = one.logits.shape[-1], other.logits.shape[-1]
    if counts[0] != counts[1]:
        raise ValueError(
            f"found logits of {min(counts)} and of {max(counts)} classes, expected as many of the teacher as of the "
            "student"
        )


def label_losses(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Computes the cross-entropy with the labels of each sample, (B,); of sequences see `Batch.of_samples`."""
    return batch.of_samples(cross_entropy(outputs_of(network, batch).logits, batch.classes, reduction="none"))
