"""Image classifiers by name, and those of other widths.

`"mlp-200"` is a network as it is, `"mlp-200:width-50"` the same with another width.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.lot.problem import nearest_width, parameters_of
from teachenv.errors import unknown_name
from teachenv.students import make_student

Shape = tuple[int, ...]


def _perceptron(shape: Shape, outputs: int, dropout: float, width: int) -> nn.Module:
    """Hidden units, as many as the width, which are dropped in training with this probability."""
    hidden = nn.Linear(math.prod(shape), width), nn.ReLU(), nn.Dropout(dropout)
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, outputs))


def _convolutional(shape: Shape, outputs: int, dropout: float, width: int) -> nn.Module:
    """Three convolutions of `width` and twice as many channels, and 4 · `width` hidden units, which are dropped."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((shape[0], width, 2 * width, 2 * width)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    flat = 2 * width * (shape[1] // 8) * (shape[2] // 8)
    hidden = nn.Linear(flat, 4 * width), nn.ReLU(), nn.Dropout(dropout)
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Linear(4 * width, outputs))


class Plain(NamedTuple):
    """A small network without a regulariser of its own; dropout is an option of it.

    Attributes:
        make: makes it from the images' shape, the number of classes, dropout and width.
        width: its width as it is.
    """

    make: Callable[[Shape, int, float, int], nn.Module]
    width: int


PLAIN: Mapping[str, Plain] = {"mlp-200": Plain(_perceptron, 200), "cnn": Plain(_convolutional, 32)}
_PRERESNETS = {f"preresnet-{depth}": depth for depth in (8, 14, 20, 32, 56, 110)}
# The library's students, with their options.
_STUDENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: ("preresnet", {"depth": depth}) for name, depth in _PRERESNETS.items()},
    **{name: (name, {}) for name in ("resnet-18", "resnet-50", "mobilenet-v2", "vit", "swin")},
}
NETWORKS = (*_STUDENTS, *PLAIN)
_WIDTHS: Mapping[str, int] = {**{name: plain.width for name, plain in PLAIN.items()}, **dict.fromkeys(_PRERESNETS, 16)}
_WIDTH = ":width-"


def make_network(name: str, shape: Shape, outputs: int, dropout: float = 0.0) -> nn.Module:
    """The classifier of a name in `NETWORKS`, or of another width; see `make_student` for the rest.

    Raises:
        ValueError: an unknown name, or dropout in a network that has none.
    """
    kind, _, width = name.partition(_WIDTH)
    if kind in PLAIN:
        return PLAIN[kind].make(shape, outputs, dropout, int(width or PLAIN[kind].width))
    if kind not in _STUDENTS or (width and kind not in _WIDTHS):
        raise unknown_name("network", name, NETWORKS)
    if dropout:
        raise ValueError(f"network {name!r} has no dropout; choose one of {', '.join(PLAIN)}")
    student, options = _STUDENTS[kind]
    return make_student(student, shape, outputs, {**options, "width": int(width)} if width else options)()


def of_share(name: str, share: float, shape: Shape, outputs: int) -> str:
    """The name of the same network in the width at which it has a share of its parameters, as nearly as it can.

    Raises:
        ValueError: the network has no width to choose.
    """
    if name not in _WIDTHS:
        raise ValueError(f"network {name!r} has one width; students of a share of its size need {', '.join(_WIDTHS)}")
    width = nearest_width(lambda width: _parameters(f"{name}{_WIDTH}{width}", shape, outputs), _WIDTHS[name], share)
    return name if width == _WIDTHS[name] else f"{name}{_WIDTH}{width}"


@functools.cache
def _parameters(name: str, shape: Shape, outputs: int) -> int:
    with torch.device("meta"):
        return parameters_of(make_network(name, shape, outputs))
