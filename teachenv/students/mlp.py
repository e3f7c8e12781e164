"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from teachenv.errors import unknown_name

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def mlp(inputs: int, outputs: int, hidden: Sequence[int], activation: str = "tanh") -> nn.Module:
    """A perceptron `inputs - hidden... - outputs` on flattened inputs.

    Digits: 64-32-10. MNIST: 784-500-10, the shape of L2T-DLF's MNIST student; its hidden activation, tanh, is that of
    the released code (the paper names none).

    Raises:
        ValueError: an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
