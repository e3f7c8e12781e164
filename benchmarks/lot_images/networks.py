"""Image classifiers by name: the library's students, and torchvision's fitted to the size of the images."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

from teachenv.errors import unknown_name
from teachenv.students import make_student

# Below this side, networks made for photographs of 224 pixels lose all places in their first layers.
_SMALL = 64


def _resnet(build: Callable[..., Any]) -> Callable[[int, int, int], nn.Module]:
    def made(channels: int, side: int, outputs: int) -> nn.Module:
        network: nn.Module = build(num_classes=outputs)
        small = side < _SMALL
        network.conv1 = nn.Conv2d(channels, 64, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        # As torchvision draws the others.
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        if small:
            network.maxpool = nn.Identity()
        return network

    return made


def _mobilenet(channels: int, side: int, outputs: int) -> nn.Module:
    network: Any = torchvision.models.mobilenet_v2(num_classes=outputs)
    stem = nn.Conv2d(channels, 32, 3, 1 if side < _SMALL else 2, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    network.features[0][0] = stem
    return _module(network)


def _vit(channels: int, side: int, outputs: int) -> nn.Module:
    base = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    small = {"num_layers": 6, "num_heads": 6, "hidden_dim": 192, "mlp_dim": 384}
    patch, widths = (max(1, side // 8), small) if side < _SMALL else (16, base)
    if side % patch:
        raise ValueError(f"vit takes images whose side is a multiple of its patches' ({patch}), found {side}")
    return _module(torchvision.models.VisionTransformer(side, patch, **widths, num_classes=outputs))


def _swin(channels: int, side: int, outputs: int) -> nn.Module:
    small = side < _SMALL
    made = torchvision.models.SwinTransformer(
        patch_size=[2, 2] if small else [4, 4],
        embed_dim=48 if small else 96,
        depths=[2, 2, 2] if small else [2, 2, 6, 2],
        num_heads=[3, 6, 12] if small else [3, 6, 12, 24],
        window_size=[4, 4] if small else [7, 7],
        stochastic_depth_prob=0.2,
        num_classes=outputs,
    )
    return _module(made)


def _module(network: Any) -> nn.Module:
    """Torchvision has no types."""
    found: nn.Module = network
    return found


_TORCHVISION: dict[str, Callable[[int, int, int], nn.Module]] = {
    "resnet-18": _resnet(torchvision.models.resnet18),
    "resnet-50": _resnet(torchvision.models.resnet50),
    "mobilenet-v2": _mobilenet,
    "vit": _vit,
    "swin": _swin,
}
_DEPTHS = {f"preresnet-{depth}": depth for depth in (8, 14, 20, 32, 56, 110)}
NETWORKS = (*_DEPTHS, *_TORCHVISION)
_COLOUR = ("vit", "swin")  # made for images of three channels


def make_network(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A classifier, initialised from torch's global generator.

    For images of less than 64 pixels a side ResNets begin with a 3×3 convolution and no pooling, MobileNetV2 with a
    stride of 1, ViT is small (6 layers of 192) with 8×8 patches to an image, Swin small with patches of 2×2; for larger
    ones they are torchvision's (ViT-B/16, Swin-T).

    Args:
        name: one of `NETWORKS`.
        shape: of an image, (channels, side, side).
        outputs: classes.

    Raises:
        ValueError: an unknown name, or images that the network cannot take.
    """
    if name in _DEPTHS:
        return make_student("preresnet", shape, outputs, {"depth": _DEPTHS[name]})()
    if name not in _TORCHVISION:
        raise unknown_name("network", name, NETWORKS)
    channels, side, width = shape
    if side != width:
        raise ValueError(f"{name} takes square images, found {shape}")
    if name in _COLOUR and channels != 3:
        raise ValueError(f"{name} takes images of three channels, found {channels}")
    return _TORCHVISION[name](channels, side, outputs)


def other_sizes(name: str, shape: tuple[int, ...], outputs: int) -> dict[str, str]:
    """The next networks with at most half of its parameters ("smaller") and with at least twice as many ("larger").

    Args:
        name: one of `NETWORKS`.
        shape: see `make_network`, by which the size of some is chosen.
        outputs: classes.
    """
    own = _parameters(name, shape, outputs)
    counts = {}
    for other in NETWORKS:
        with contextlib.suppress(ValueError):  # it cannot take these images
            counts[other] = _parameters(other, shape, outputs)
    smaller = [other for other, count in counts.items() if 2 * count <= own]
    larger = [other for other, count in counts.items() if count >= 2 * own]
    found = {"smaller": max(smaller, key=counts.__getitem__, default=None)}
    found["larger"] = min(larger, key=counts.__getitem__, default=None)
    return {label: other for label, other in found.items() if other is not None}


@functools.cache
def _parameters(name: str, shape: tuple[int, ...], outputs: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make_network(name, shape, outputs).parameters())
