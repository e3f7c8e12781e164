"""LeNet, as L2T-DLF uses it."""

from __future__ import annotations

from torch import nn


def lenet(channels: int, side: int, outputs: int) -> nn.Module:
    """Two 5×5 convolutions (20 and 50 maps), each max-pooled by 2, then 500 hidden units.

    Shapes and the place of tanh (after pooling) follow L2T-DLF's released code; the paper says only "LeNet". On MNIST's
    28×28 pixels the flattened size is 50·4·4 = 800.
    """
    flat = 50 * (((side - 4) // 2 - 4) // 2) ** 2
    return nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.MaxPool2d(2),
        nn.Tanh(),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(flat, 500),
        nn.Tanh(),
        nn.Linear(500, outputs),
    )
