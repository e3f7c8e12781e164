"""Torchvision's classifiers, fitted to the size of the images.

They are made for photographs of 224 pixels, and would lose all places of small images in their first layers. For images
of less than 64 pixels a side, ResNets begin with a 3×3 convolution and no pooling, MobileNetV2 with a stride of 1; ViT
is small (6 layers of 192) with 8×8 patches to an image, Swin small with patches of 2×2. For larger ones they are
torchvision's (ViT-B/16, Swin-T).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn

_SMALL = 64


def resnet_18(channels: int, side: int, outputs: int) -> nn.Module:
    """ResNet-18 (He et al. 2016)."""
    return _resnet(torchvision.models.resnet18, channels, side, outputs)


def resnet_50(channels: int, side: int, outputs: int) -> nn.Module:
    """ResNet-50 (He et al. 2016)."""
    return _resnet(torchvision.models.resnet50, channels, side, outputs)


def _resnet(build: Callable[..., Any], channels: int, side: int, outputs: int) -> nn.Module:
    network: nn.Module = build(num_classes=outputs)
    small = side < _SMALL
    network.conv1 = nn.Conv2d(channels, 64, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
    # As torchvision draws the others.
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        network.maxpool = nn.Identity()
    return network


def mobilenet_v2(channels: int, side: int, outputs: int) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018)."""
    network: Any = torchvision.models.mobilenet_v2(num_classes=outputs)
    stem = nn.Conv2d(channels, 32, 3, 1 if side < _SMALL else 2, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    network.features[0][0] = stem
    return _module(network)


def vit(channels: int, side: int, outputs: int) -> nn.Module:
    """The vision transformer (Dosovitskiy et al. 2021)."""
    _coloured("vit", channels)
    base = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    small = {"num_layers": 6, "num_heads": 6, "hidden_dim": 192, "mlp_dim": 384}
    patch, widths = (side // 8, small) if side < _SMALL else (16, base)
    if side % patch:
        raise ValueError(f"student 'vit' takes images whose side is a multiple of its patches' ({patch}), found {side}")
    return _module(torchvision.models.VisionTransformer(side, patch, **widths, num_classes=outputs))


def swin(channels: int, side: int, outputs: int) -> nn.Module:
    """The Swin transformer (Liu et al. 2021)."""
    _coloured("swin", channels)
    small = side < _SMALL
    network = torchvision.models.SwinTransformer(
        patch_size=[2, 2] if small else [4, 4],
        embed_dim=48 if small else 96,
        depths=[2, 2, 2] if small else [2, 2, 6, 2],
        num_heads=[3, 6, 12] if small else [3, 6, 12, 24],
        window_size=[4, 4] if small else [7, 7],
        stochastic_depth_prob=0.2,
        num_classes=outputs,
    )
    return _module(network)


def _coloured(name: str, channels: int) -> None:
    if channels != 3:
        raise ValueError(f"student {name!r} takes images of three channels, found {channels}")


def _module(network: Any) -> nn.Module:
    """The network as a module, for type checkers: torchvision has no types."""
    module: nn.Module = network
    return module
