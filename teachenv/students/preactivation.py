"""What networks of preactivated blocks (batch norm and ReLU before each convolution) for 32×32 images share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.students.resnet import initialise_convolutions


class Preactivated(nn.Module):
    """A 3×3 stem, blocks, batch norm and ReLU, global average pooling, and a linear head."""

    def __init__(self, channels: int, stem: int, blocks: Iterable[nn.Module], width: int, outputs: int) -> None:
        """Puts the blocks between their ends, and draws all convolutions as in He et al. 2015.

        Args:
            channels: channels of the images.
            stem: channels of the first convolution.
            blocks: from `stem` to `width` channels.
            width: channels at the end.
            outputs: number of classes.
        """
        super().__init__()
        self.stem = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, outputs)
        initialise_convolutions(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, 32, 32) to logits (n, outputs)."""
        x = F.relu(self.norm(self.blocks(self.stem(x)))).mean(dim=(2, 3))
        logits: torch.Tensor = self.head(x)
        return logits


def sixths(kind: str, depth: int, **widths: int) -> int:
    """The number n of a network whose depth is 6n + 4.

    Raises:
        ValueError: a depth of another form, or a width below 1.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"a {kind} has a depth of 6n + 4 (10, 16, 22, ...), found {depth}")
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"{name} must be at least 1, found {width}")
    return blocks
