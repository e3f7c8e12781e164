"""A small one-stage detector of torchvision's parts: convolution blocks and SSD's head (Liu et al. 2016)."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops.misc import Conv2dNormActivation

RATIOS = [[2], [2], [2]]
"""Proportions of default boxes on each grid, besides squares of two sizes: four boxes a place."""

_PLACES = [2 + 2 * len(ratios) for ratios in RATIOS]


def grids(size: int) -> list[int]:
    """Sides of the grids on which default boxes stand, for square images: an eighth, a sixteenth, a thirty-second."""
    return [size // 8, size // 16, size // 32]


class SSD(nn.Module):
    """Three maps of features, each with a classifier and a mover of default boxes.

    Args:
        channels: channels of the images.
        outputs: C + 4, for C classes and the four numbers that move a box.
        width: channels of the first block; they grow with depth.
    """

    def __init__(self, channels: int, outputs: int, width: int = 16) -> None:
        """PyTorch's initialisation of the body, torchvision's of the head."""
        super().__init__()
        block = Conv2dNormActivation
        self.stages = nn.ModuleList(
            [
                nn.Sequential(
                    block(channels, width, stride=2),
                    block(width, 2 * width, stride=2),
                    block(2 * width, 4 * width, stride=2),
                    block(4 * width, 4 * width),
                ),
                block(4 * width, 4 * width, stride=2),
                block(4 * width, 4 * width, stride=2),
            ]
        )
        self.head = SSDHead([4 * width] * len(RATIOS), _PLACES, outputs - 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, channels, side, side) to (batch, C + 4, boxes): logits, and codes of how a box moves."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        predictions = self.head(maps)
        return torch.cat([predictions["cls_logits"], predictions["bbox_regression"]], 2).movedim(2, 1)


def ssd(channels: int, side: int, outputs: int, width: int = 16) -> nn.Module:
    """The detector `SSD`, for square images whose side is a multiple of 32."""
    if side % 32:
        raise ValueError(f"student 'ssd' takes images whose side is a multiple of 32, found {side}")
    return SSD(channels, outputs, width)
