"""The students: networks by name, and a network as a pure function."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.students.contract import functional_student
from teachenv.students.factories import StudentFactory
from teachenv.students.functional import FunctionalStudent
from teachenv.students.mlp import mlp
from teachenv.students.prediction import Prediction

__all__ = [
    "STUDENTS",
    "FunctionalStudent",
    "Prediction",
    "StudentFactory",
    "chosen_options",
    "functional_student",
    "make_student",
    "student_options",
]

# Strings: torchvision, of whose parts some are built, takes a second to import.
_FOLDER = "teachenv.students"
# Networks for square images, made from (channels, side, outputs).
_OF_IMAGES = {
    "densenet": "densenet:densenet",
    "lenet": "lenet:lenet",
    "mlp-mixer": "mlp_mixer:mlp_mixer",
    "mobilenet-v2": "of_torchvision:mobilenet_v2",
    "preresnet": "preresnet:preresnet",
    "resnet8": "resnet:resnet8",
    "resnet8-wide": "resnet:resnet8_wide",
    "resnet20": "resnet:resnet20",
    "resnet20-wide": "resnet:resnet20_wide",
    "resnet32": "resnet:resnet32",
    "resnet32-wide": "resnet:resnet32_wide",
    "resnet-18": "of_torchvision:resnet_18",
    "resnet-50": "of_torchvision:resnet_50",
    "ssd": "detection:ssd",
    "swin": "of_torchvision:swin",
    "vit": "of_torchvision:vit",
    "wrn": "wide_resnet:wide_resnet",
}
# Networks that label the pixels of images of any shape, made from (channels, outputs).
_OF_PIXELS = {"deeplab": "segmentation:deeplab", "fcn": "segmentation:fcn"}
# Networks that translate, made from (tokens of a sentence, words).
_OF_TOKENS = {"lstm": "translation:AttentiveLSTM", "transformer": "translation:Transformer"}
# Networks that predict each next word, made from (tokens of a piece of text, words).
_OF_TEXTS = {"causal-transformer": "causal_transformer:CausalTransformer"}
_BUILT = {**_OF_IMAGES, **_OF_PIXELS, **_OF_TOKENS, **_OF_TEXTS}
STUDENTS = ("mlp", *_BUILT)


def make_student(
    name: str, input_shape: tuple[int, ...], outputs: int, options: Mapping[str, Any] | None = None
) -> StudentFactory:
    """A factory for the named network, fitted to the data.

    Args:
        name: one of `STUDENTS`.
        input_shape: shape of one input: (features,), (channels, height, width), of translation (2L,), of language (L,).
        outputs: number of classes.
        options: the named network's own, such as `hidden` and `activation` of `"mlp"`; `student_options` lists them
            with their defaults, and the functions of the tables above say what they are. The hidden layer of `"mlp"`
            has 32 units for vectors of fewer than 100 features and 500 for all else, unless `hidden` says otherwise.

    Raises:
        ValueError: an unknown name, an option of another kind, or inputs that the network cannot take.
        TypeError: an unknown option.
    """
    size = math.prod(input_shape)
    options = _checked(name, options or {})
    if not input_shape:
        raise ValueError(f"student {name!r} takes arrays, found samples that are single numbers; reshape to (n, 1)")
    if name == "mlp":
        return partial(mlp, size, outputs, **{"hidden": _usual_hidden(size), **options})
    if name in _OF_TOKENS:
        if len(input_shape) != 1 or size % 2:
            raise ValueError(f"student {name!r} takes source and translation, (2L,) tokens, found inputs {input_shape}")
        return partial(_loaded(_OF_TOKENS[name]), size // 2, outputs, **options)
    if name in _OF_TEXTS:
        if len(input_shape) != 1:
            raise ValueError(f"student {name!r} takes pieces of text, (L,) tokens, found inputs {input_shape}")
        return partial(_loaded(_OF_TEXTS[name]), size, outputs, **options)
    if name in _OF_PIXELS:
        if len(input_shape) != 3:
            raise ValueError(f"student {name!r} takes images (channels, height, width), found inputs {input_shape}")
        return partial(_loaded(_OF_PIXELS[name]), input_shape[0], outputs, **options)
    if len(input_shape) != 3 or input_shape[1] != input_shape[2] or input_shape[1] < 16:
        raise ValueError(
            f"student {name!r} takes square images (channels, side, side) of at least 16 pixels a side, found inputs "
            f"of shape {input_shape}; use 'mlp' or pass your own network"
        )
    return partial(_loaded(_OF_IMAGES[name]), input_shape[0], input_shape[1], outputs, **options)


def chosen_options(name: str, input_shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a named network's options that are not at their defaults, each as the network gets it.

    Args:
        name: one of `STUDENTS`.
        input_shape: shape of one input.
        options: the options that a user gave.

    Raises:
        ValueError: an unknown name, or an option of another kind.
        TypeError: an unknown option.
    """
    usual = student_options(name)
    if name == "mlp":
        usual["hidden"] = _usual_hidden(math.prod(input_shape))
    return {option: value for option, value in _checked(name, options).items() if value != usual[option]}


def student_options(name: str) -> dict[str, Any]:
    """A named network's options, with their defaults.

    Raises:
        ValueError: an unknown name.
    """
    if name == "mlp":
        return {"hidden": (32,), "activation": "tanh"}
    if name not in STUDENTS:
        raise unknown_name("student", name, STUDENTS, "teachenv.STUDENTS")
    parameters = inspect.signature(_loaded(_BUILT[name])).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _usual_hidden(size: int) -> tuple[int, ...]:
    return (32,) if size < 100 else (500,)


def _checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the named network has, each of its default's kind: whole numbers, fractions, names."""
    known = student_options(name)
    checked: dict[str, Any] = {}
    checks.known_options(f"student {name!r}", options, known)
    for option, value in options.items():
        default = known[option]
        if isinstance(default, tuple):
            checked[option] = checks.integers(option, value, least=1)
        elif isinstance(default, int):
            checked[option] = checks.integer(option, value, least=1)
        elif isinstance(default, float):
            checked[option] = checks.number(option, value, least=0, below=1)
        else:
            checked[option] = value
    return checked


def _loaded(name: str) -> Callable[..., nn.Module]:
    """The function behind an entry of a table."""
    module, function = name.split(":")
    build: Callable[..., nn.Module] = getattr(importlib.import_module(f"{_FOLDER}.{module}"), function)
    return build
