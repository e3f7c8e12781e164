"""Image classifiers by name, and those of other sizes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from teachenv.errors import unknown_name
from teachenv.students import make_student

# The library's students, with their options.
_STUDENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{f"preresnet-{depth}": ("preresnet", {"depth": depth}) for depth in (8, 14, 20, 32, 56, 110)},
    **{name: (name, {}) for name in ("resnet-18", "resnet-50", "mobilenet-v2", "vit", "swin")},
}
NETWORKS = tuple(_STUDENTS)


def make_network(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The classifier of a name in `NETWORKS`; see `make_student` for the rest."""
    if name not in _STUDENTS:
        raise unknown_name("network", name, NETWORKS)
    student, options = _STUDENTS[name]
    return make_student(student, shape, outputs, options)()


def other_sizes(name: str, shape: tuple[int, ...], outputs: int) -> dict[str, str]:
    """The next networks with at most half of its parameters ("smaller") and with at least twice as many ("larger")."""
    parameters = _parameters(name, shape, outputs)
    counts = {}
    for other in NETWORKS:
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
