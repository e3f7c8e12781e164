"""Image classifiers by name, and those of other sizes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from teachenv.errors import unknown_name
from teachenv.students import make_student


def _perceptron(shape: tuple[int, ...], outputs: int, dropout: float) -> nn.Module:
    """200 hidden units, which are dropped in training with this probability."""
    hidden = nn.Linear(math.prod(shape), 200), nn.ReLU(), nn.Dropout(dropout)
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(200, outputs))


def _convolutional(shape: tuple[int, ...], outputs: int, dropout: float) -> nn.Module:
    """Three convolutions and 128 hidden units, which are dropped in training with this probability."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((shape[0], 32, 64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    hidden = nn.Linear(64 * (shape[1] // 8) * (shape[2] // 8), 128), nn.ReLU(), nn.Dropout(dropout)
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Linear(128, outputs))


# Small networks without a regulariser of their own; dropout is an option of theirs.
PLAIN: Mapping[str, Callable[[tuple[int, ...], int, float], nn.Module]] = {
    "mlp-200": _perceptron,
    "cnn": _convolutional,
}
# The library's students, with their options.
_STUDENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{f"preresnet-{depth}": ("preresnet", {"depth": depth}) for depth in (8, 14, 20, 32, 56, 110)},
    **{name: (name, {}) for name in ("resnet-18", "resnet-50", "mobilenet-v2", "vit", "swin")},
}
NETWORKS = (*_STUDENTS, *PLAIN)


def make_network(name: str, shape: tuple[int, ...], outputs: int, dropout: float = 0.0) -> nn.Module:
    """The classifier of a name in `NETWORKS`; see `make_student` for the rest.

    Raises:
        ValueError: an unknown name, or dropout in a network that has none.
    """
    if name in PLAIN:
        return PLAIN[name](shape, outputs, dropout)
    if name not in _STUDENTS:
        raise unknown_name("network", name, NETWORKS)
    if dropout:
        raise ValueError(f"network {name!r} has no dropout; choose one of {', '.join(PLAIN)}")
    student, options = _STUDENTS[name]
    return make_student(student, shape, outputs, options)()


def other_sizes(name: str, shape: tuple[int, ...], outputs: int) -> dict[str, str]:
    """The next networks with at most half of its parameters ("smaller") and with at least twice as many ("larger")."""
    parameters = _parameters(name, shape, outputs)
    counts = {}
    for other in _STUDENTS:
        with contextlib.suppress(ValueError):  # it cannot take these images
            counts[other] = _parameters(other, shape, outputs)
    smaller = [other for other, count in counts.items() if 2 * count <= parameters]
    larger = [other for other, count in counts.items() if count >= 2 * parameters]
    nearest = {"smaller": max(smaller, key=counts.__getitem__, default=None)}
    nearest["larger"] = min(larger, key=counts.__getitem__, default=None)
    return {label: other for label, other in nearest.items() if other is not None}


@functools.cache
def _parameters(name: str, shape: tuple[int, ...], outputs: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make_network(name, shape, outputs).parameters())
