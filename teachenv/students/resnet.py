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
        shortcut = self.skip(x)
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)) + shortcut)

    def skip(self, x: torch.Tensor) -> torch.Tensor:
        """The shortcut: the input, subsampled and padded with zero channels where the block changes its shape."""
        return x if self.stride == 1 else F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.padding))


class ProjectedBlock(BasicBlock):
    """A basic block whose shortcut, where it halves the image, is a 1×1 convolution with batch norm (option B)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels)
        halves = [nn.Conv2d(in_channels, channels, 1, 2, bias=False), nn.BatchNorm2d(channels)]
        self.shortcut = nn.Sequential(*(halves if self.stride == 2 else []))

    def skip(self, x: torch.Tensor) -> torch.Tensor:
        """The shortcut: the projection, or the input itself."""
        projected: torch.Tensor = self.shortcut(x)
        return projected


class ResNet(nn.Module):
    """6n + 2 layers: a 3×3 stem, three stages of n basic blocks with 16, 32 and 64 channels, global average pooling.

    n = 1 is ResNet-8, L2T-DLF's smallest CIFAR student. Convolutions are initialised as in He et al. 2015.
    """

    block: type[BasicBlock] = BasicBlock
    widths: tuple[int, ...] = (16, 32, 64)
    places = 1
    """How many places the last layer sees, each the mean of its part of the image."""

    def __init__(self, blocks: int, channels: int, outputs: int) -> None:
        """Makes a network with `blocks` blocks a stage for images of `channels` channels."""
        super().__init__()
        self.stem = nn.Conv2d(channels, self.widths[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(self.widths[0])
        widths = [self.widths[0]] + [width for width in self.widths for _ in range(blocks)]
        self.blocks = nn.Sequential(*[self.block(a, b) for a, b in pairwise(widths)])
        self.head = nn.Linear(self.places * self.widths[-1], outputs)
        initialise_convolutions(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, 32, 32) to logits (n, outputs)."""
        x = F.relu(self.norm(self.stem(x)))
        logits: torch.Tensor = self.head(self.pooled(self.blocks(x)))
        return logits

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """The last stage's maps as the last layer sees them."""
        return x.mean(dim=(2, 3))


class WideResNet(ResNet):
    """The networks of L2T-DLN's released code, under the names ResNet-8, 20 and 32 there.

    64, 128 and 256 channels, projected shortcuts, and means over 4×4 pixels, hence four places: some sixteen times the
    parameters of `ResNet`, whose results theirs cannot be compared with. (No relation of WRN-40-10.)
    """

    block = ProjectedBlock
    widths = (64, 128, 256)
    places = 4

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """The last stage's maps, flattened: (n, 1024)."""
        return F.avg_pool2d(x, 4).flatten(1)


def initialise_convolutions(network: nn.Module) -> None:
    """Draws the weights of all convolutions anew, as in He et al. 2015, by fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet8(channels: int, side: int, outputs: int) -> nn.Module:
    """`ResNet` of 8 layers."""
    return ResNet(1, channels, outputs)


def resnet20(channels: int, side: int, outputs: int) -> nn.Module:
    """`ResNet` of 20 layers."""
    return ResNet(3, channels, outputs)


def resnet32(channels: int, side: int, outputs: int) -> nn.Module:
    """`ResNet` of 32 layers."""
    return ResNet(5, channels, outputs)


def resnet8_wide(channels: int, side: int, outputs: int) -> nn.Module:
    """`WideResNet` of 8 layers."""
    return _wide(1, channels, side, outputs)


def resnet20_wide(channels: int, side: int, outputs: int) -> nn.Module:
    """`WideResNet` of 20 layers."""
    return _wide(3, channels, side, outputs)


def resnet32_wide(channels: int, side: int, outputs: int) -> nn.Module:
    """`WideResNet` of 32 layers."""
    return _wide(5, channels, side, outputs)


def _wide(blocks: int, channels: int, side: int, outputs: int) -> nn.Module:
    if side != 32:
        raise ValueError(f"L2T-DLN's wide networks take images of 32×32 pixels, found {side}×{side}; use 'resnet8'")
    return WideResNet(blocks, channels, outputs)
