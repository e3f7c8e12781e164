"""The loss families: what a teacher's action means."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.losses.base import LossFamily
from teachenv.losses.bilinear import Bilinear, BilinearGeneralized, BilinearSigmoid
from teachenv.losses.class_weights import ClassWeights
from teachenv.losses.diagonal import Diagonal, DiagonalSigmoid
from teachenv.losses.distillation import Distillation
from teachenv.losses.domain_weights import DomainWeights
from teachenv.losses.dynamic_network import DynamicNetwork
from teachenv.losses.label_weights import LabelWeights
from teachenv.losses.mixture import Mixture
from teachenv.losses.plain import PLAIN_LOSSES, plain_loss
from teachenv.losses.sample_weights import DataWeights, SampleWeights

__all__ = [
    "LOSSES",
    "PLAIN_LOSSES",
    "Bilinear",
    "BilinearGeneralized",
    "BilinearSigmoid",
    "ClassWeights",
    "DataWeights",
    "Diagonal",
    "DiagonalSigmoid",
    "Distillation",
    "DomainWeights",
    "DynamicNetwork",
    "LabelWeights",
    "LossFamily",
    "Mixture",
    "SampleWeights",
    "make_loss",
    "plain_loss",
]

LOSSES: dict[str, type[LossFamily]] = {
    "bilinear": Bilinear,
    "bilinear-generalized": BilinearGeneralized,
    "bilinear-sigmoid": BilinearSigmoid,
    "class-weights": ClassWeights,
    "data-weights": DataWeights,
    "diagonal": Diagonal,
    "diagonal-sigmoid": DiagonalSigmoid,
    "distillation": Distillation,
    "domain-weights": DomainWeights,
    "dynamic-network": DynamicNetwork,
    "label-weights": LabelWeights,
    "mixture": Mixture,
    "sample-weights": SampleWeights,
}


def make_loss(name: str, options: Mapping[str, Any] | None = None) -> LossFamily:
    """The named family with its options (the constructor's arguments).

    Raises:
        ValueError: an unknown name or a bad option value.
        TypeError: an unknown option.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES, "teachenv.LOSSES")
    family, arguments = LOSSES[name], dict(options or {})
    parameters = inspect.signature(family).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):  # those that take any hand them on, to be checked there
        checks.known_options(f"loss {name!r}", arguments, [p.name for p in parameters])
    return family(**arguments)
