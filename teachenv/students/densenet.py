"""Densely connected networks with bottlenecks and compression, DenseNet-BC (Huang et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.students.preactivation import Preactivated, sixths


class DenseLayer(nn.Module):
    """A 1×1 bottleneck to 4k channels and a 3×3 convolution to k, whose result is put beside the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        """Makes a layer that adds `growth` channels."""
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in_channels, h, w) to (n, in_channels + growth, h, w)."""
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


class Transition(nn.Module):
    """Halves the channels by a 1×1 convolution and the image by average pooling."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in_channels, h, w) to (n, in_channels/2, h/2, w/2)."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


def densenet(channels: int, side: int, outputs: int, depth: int = 190, growth: int = 40) -> nn.Module:
    """DenseNet-BC (L = 190, k = 40), L2T-DLF's, or another depth L = 6n + 4 and growth k: three blocks of n layers.

    Raises:
        ValueError: a depth of another form, or a growth below 1.
    """
    layers = sixths("DenseNet-BC", depth, growth=growth)
    width = 2 * growth
    blocks: list[nn.Module] = []
    for block in range(3):
        for _ in range(layers):
            blocks.append(DenseLayer(width, growth))
            width += growth
        if block < 2:
            blocks.append(Transition(width))
            width //= 2
    return Preactivated(channels, 2 * growth, blocks, width, outputs)
