"""Small networks that label every pixel, of torchvision's parts: convolution blocks, FCN head, DeepLab's ASPP."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops.misc import Conv2dNormActivation


class DenseLabels(nn.Module):
    """An encoder, a head, and a bilinear enlargement to the size of the input.

    Args:
        encoder: (batch, channels, h, w) to features.
        head: features to logits.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, channels, h, w) to logits (batch, C, h, w)."""
        logits = self.head(self.encoder(images))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def encoder(channels: int, width: int) -> tuple[nn.Sequential, int]:
    """(Four blocks of convolution, batch norm and ReLU that halve the image twice, their last width).

    The last two blocks are dilated in place of halving it further, as in DeepLab.
    """
    blocks = [
        Conv2dNormActivation(channels, width, stride=2),
        Conv2dNormActivation(width, 2 * width, stride=2),
        Conv2dNormActivation(2 * width, 4 * width, dilation=2),
        Conv2dNormActivation(4 * width, 4 * width, dilation=4),
    ]
    return nn.Sequential(*blocks), 4 * width


def fcn(channels: int, outputs: int, width: int = 16) -> nn.Module:
    """A fully convolutional network (Long et al. 2015): the encoder and torchvision's FCN head.

    Args:
        channels: channels of the images.
        outputs: number of classes C.
        width: channels of the encoder's first block.
    """
    body, features = encoder(channels, width)
    return DenseLabels(body, FCNHead(features, outputs))


def deeplab(channels: int, outputs: int, width: int = 16) -> nn.Module:
    """DeepLabv3 (Chen et al. 2017) in small: the encoder, torchvision's ASPP with rates 2, 4, 6, and a 1×1 classifier.

    Args:
        channels: channels of the images.
        outputs: number of classes C.
        width: channels of the encoder's first block.
    """
    body, features = encoder(channels, width)
    return DenseLabels(body, nn.Sequential(ASPP(features, [2, 4, 6], features), nn.Conv2d(features, outputs, 1)))
