"""Two small towers, one for images and one for texts, whose outputs are compared: CLIP (Radford et al. 2021) in small.

The towers of the paper (arXiv 2103.00020) are a ResNet or ViT and a transformer. Here they are two convolutions of
images of half the side with a wide hidden layer, which can memorise many images, and the mean of the embeddings of
a caption's words with a hidden layer.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

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
        width: channels of the first convolution; the second has twice as many, the common space four times, and the
            hidden layer of images sixteen times.
        dropout: share of the hidden units that are dropped in training.
    """

    def __init__(self, shape: tuple[int, ...], words: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        common, drop = 4 * width, nn.Dropout(dropout)
        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        for before, after in ((shape[0], width), (width, 2 * width)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        flat = 2 * width * (shape[1] // 8) * (shape[2] // 8)
        hidden = nn.Flatten(), nn.Linear(flat, 16 * width), nn.ReLU(), drop
        self.images = nn.Sequential(*layers, *hidden, nn.Linear(16 * width, common))
        words_to_hidden = nn.EmbeddingBag(words, common, padding_idx=0), nn.Linear(common, common), nn.ReLU(), drop
        self.texts = nn.Sequential(*words_to_hidden, nn.Linear(common, common))
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
