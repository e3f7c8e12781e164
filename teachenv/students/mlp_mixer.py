"""MLP-Mixer (Tolstikhin et al. 2021), in the size of small images."""

from __future__ import annotations

import torch
from torch import nn


def _perceptron(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class MixerBlock(nn.Module):
    """One layer of the paper: a perceptron over the patches and one over the channels, each normalised and skipped.

    With x of shape (patches, channels) and σ for GELU, the paper's eq. 1 is

        u = x + W₂ σ(W₁ LayerNorm(x))  along the patches,      y = u + W₄ σ(W₃ LayerNorm(u))  along the channels
    """

    def __init__(self, patches: int, width: int) -> None:
        """Has the paper's proportions: width/2 hidden units along the patches, 4·width along the channels."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.patches = _perceptron(patches, max(1, width // 2))
        self.channels = _perceptron(width, 4 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, patches, width) to the same shape."""
        x = x + self.patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        total: torch.Tensor = x + self.channels(self.norm2(x))
        return total


class MlpMixer(nn.Module):
    """A linear map of each patch, blocks, a last normalisation, the mean over the patches, and a linear layer."""

    def __init__(self, channels: int, side: int, outputs: int, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock((side // patch) ** 2, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, channels, side, side) to logits (n, outputs)."""
        x = self.blocks(self.stem(images).flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(self.norm(x).mean(1))
        return logits


def mlp_mixer(channels: int, side: int, outputs: int, patch: int = 4, width: int = 64, depth: int = 4) -> nn.Module:
    """A small Mixer: patches of 4×4 pixels, 64 channels and 4 blocks (the paper's S/16: 16, 512 and 8).

    Layers are initialised as PyTorch does it; the paper's head begins at zero.

    Raises:
        ValueError: the images' side is no multiple of the patches'.
    """
    if side % patch:
        raise ValueError(f"student 'mlp-mixer' needs images whose side is a multiple of patch={patch}, found {side}")
    return MlpMixer(channels, side, outputs, patch, width, depth)
