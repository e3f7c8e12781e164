"""Preactivated residual networks (He et al. 2016, "Identity mappings") for CIFAR, as LoT's code has them."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from teachenv.students.preactivation import Preactivated
from teachenv.students.wide_resnet import PreactivationBlock


def preresnet(channels: int, side: int, outputs: int, depth: int = 20, width: int = 16) -> nn.Module:
    """PreResNet-20, or another depth 6n + 2: three stages of n blocks with `width`, 2 · and 4 · `width` channels.

    Where the number of channels changes, the shortcut is a 1×1 convolution of the activated input (He et al.'s
    recommendation); in LoT's code it is of the input itself.

    Raises:
        ValueError: a depth of another form, or a width below 1.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"a PreResNet has a depth of 6n + 2 (8, 14, 20, ...), found {depth}")
    if width < 1:
        raise ValueError(f"width must be at least 1, found {width}")
    widths = [width, *(factor * width for factor in (1, 2, 4) for _ in range(blocks))]
    strides = [2 if i in (blocks, 2 * blocks) else 1 for i in range(3 * blocks)]
    layers = [PreactivationBlock(a, b, stride) for (a, b), stride in zip(pairwise(widths), strides, strict=True)]
    return Preactivated(channels, width, layers, 4 * width, outputs)
