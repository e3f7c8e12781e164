"""Residual networks for 32×32 images (He et al. 2016, section 4.2)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, and a parameter-free identity shortcut (He et al.'s option A).

    Where the block halves the image, the shortcut takes every second pixel and pads the new channels with zeros.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        """Makes a block that halves the image if `channels` differs from `in_channels`."""
        super().__init__()
        self.stride = 1 if in_channels == channels else 2
        self.padding = channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, self.stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in_channels, h, w) to (n, channels, h/stride, w/stride)."""
        shortcut = x if self.stride == 1 else F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.padding))
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """6n + 2 layers: a 3×3 stem, three stages of n basic blocks with 16, 32 and 64 channels, global average pooling.

    n = 1 is ResNet-8, L2T-DLF's smallest CIFAR student. Convolutions are initialised as in He et al. 2015.
    """

    def __init__(self, blocks: int, channels: int, outputs: int) -> None:
        """Makes a network with `blocks` blocks a stage for images of `channels` channels."""
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = [16] + [width for width in (16, 32, 64) for _ in range(blocks)]
        self.blocks = nn.Sequential(*[BasicBlock(a, b) for a, b in pairwise(widths)])
        self.head = nn.Linear(64, outputs)
        initialise_convolutions(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, 32, 32) to logits (n, outputs)."""
        x = F.relu(self.norm(self.stem(x)))
        x = self.blocks(x).mean(dim=(2, 3))
        logits: torch.Tensor = self.head(x)
        return logits


def initialise_convolutions(network: nn.Module) -> None:
    """Draws the weights of all convolutions anew, as in He et al. 2015, by fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet8(channels: int, side: int, outputs: int) -> nn.Module:
    """ResNet-8."""
    return ResNet(1, channels, outputs)


def resnet20(channels: int, side: int, outputs: int) -> nn.Module:
    """ResNet-20."""
    return ResNet(3, channels, outputs)


def resnet32(channels: int, side: int, outputs: int) -> nn.Module:
    """ResNet-32."""
    return ResNet(5, channels, outputs)
