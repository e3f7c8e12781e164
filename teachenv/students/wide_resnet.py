"""Wide residual networks (Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.students.preactivation import Preactivated, sixths


class PreactivationBlock(nn.Module):
    """Batch norm, ReLU and a 3×3 convolution, twice, beside an identity shortcut.

    Where the number of channels changes, the shortcut is a 1×1 convolution of the activated input, as in the authors'
    code.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """Makes a block whose first convolution has the stride."""
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if in_channels != channels else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in_channels, h, w) to (n, channels, h/stride, w/stride)."""
        active = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        active = F.relu(self.norm2(self.conv1(active)))
        total: torch.Tensor = shortcut + self.conv2(active)
        return total


def wide_resnet(channels: int, side: int, outputs: int, depth: int = 40, width: int = 10) -> nn.Module:
    """WRN-40-10, L2T-DLF's, or another depth 6n + 4 and width k: three stages of n blocks with 16k, 32k, 64k channels.

    Raises:
        ValueError: a depth of another form, or a width below 1.
    """
    blocks = sixths("wide ResNet", depth, width=width)
    widths = [16] + [width * stage for stage in (16, 32, 64) for _ in range(blocks)]
    strides = [2 if i in (blocks, 2 * blocks) else 1 for i in range(3 * blocks)]
    layers = [PreactivationBlock(a, b, stride) for (a, b), stride in zip(pairwise(widths), strides, strict=True)]
    return Preactivated(channels, 16, layers, widths[-1], outputs)
