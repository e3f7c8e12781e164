"""Two small towers, one for images and one for texts, whose outputs are compared: CLIP (Radford et al. 2021) in small.

The towers of the paper (arXiv 2103.00020) are a ResNet or ViT and a transformer; here they are three convolutions of
images of half the side, and the mean of the embeddings of a caption's words with a hidden layer.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.lot_images.networks import make_network

Pairs = tuple[torch.Tensor, torch.Tensor]
"""(images (N, channels, height, width), captions (N, L)): the i-th caption belongs to the i-th image."""

# Of the learned factor on cosines, as in the paper: where it begins, and where it ends.
_FIRST_SCALE, _LAST_SCALE = 1 / 0.07, 100.0


class TwoTowers(nn.Module):
    """Matches images and texts: a network whose logits on a minibatch of pairs are a matrix, read in both directions.

    A cross-entropy with the targets 0 to N − 1 in either direction is the paper's symmetric contrastive loss, and a
    student imitates by row and by column the distribution of which text belongs to an image, and which image to a text.

    Args:
        shape: the images' shape.
        words: number of words.
        width: channels of the first convolution; all other widths are twice and four times as many.
        dropout: share of the hidden units that are dropped in training.
    """

    def __init__(self, shape: tuple[int, ...], words: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        half = (shape[0], shape[1] // 2, shape[2] // 2)
        self.images = nn.Sequential(nn.AvgPool2d(2), make_network(f"cnn:width-{width}", half, 4 * width, dropout))
        hidden = nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Dropout(dropout)
        self.texts = nn.Sequential(
            nn.EmbeddingBag(words, 4 * width, padding_idx=0), *hidden, nn.Linear(4 * width, 4 * width)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    def embedded(self, images: torch.Tensor) -> torch.Tensor:
        """Puts images into the common space: (N, 4 · width), of length one."""
        return F.normalize(self.images(images), dim=-1)

    def embedded_texts(self, texts: torch.Tensor) -> torch.Tensor:
        """Puts texts (N, L) there."""
        return F.normalize(self.texts(texts), dim=-1)

    def forward(self, pairs: Pairs) -> torch.Tensor:
        """(2, N, N) logits: of each image for all texts, and of each text for all images."""
        scale = self.log_scale.exp().clamp(max=_LAST_SCALE)
        logits = scale * self.embedded(pairs[0]) @ self.embedded_texts(pairs[1]).T
        return torch.stack([logits, logits.T])
