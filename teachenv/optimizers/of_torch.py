"""Optimisers of PyTorch as this package's, which are equal to them step for step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from teachenv import checks
from teachenv.optimizers import Optimizer, make_optimizer

_NAMES: dict[Callable[..., torch.optim.Optimizer], str] = {
    torch.optim.SGD: "sgd",
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adamw",
    torch.optim.RMSprop: "rmsprop",
}
_WITHOUT_EFFECT = ("foreach", "fused", "capturable", "differentiable")
"""Options of PyTorch's that decide how a step is computed, and not what it is."""
_OPTIONS = {"betas": "betas", "eps": "epsilon", "alpha": "alpha"}
"""Options of an optimiser beside those of the environment itself: PyTorch's names and ours."""


def optimizer_settings(optimizer: Callable[..., torch.optim.Optimizer], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a teaching environment that make its student's optimiser equal to one of PyTorch's.

    Args:
        optimizer: a class of `torch.optim`.
        given: its settings, by PyTorch's names.

    Raises:
        TypeError: it is none of the classes that there are here.
        ValueError: a setting that PyTorch does not take, or that there is not here.
    """
    name = _NAMES.get(optimizer)
    if name is None:
        expected = ", ".join(f"torch.optim.{each}" for each in ("SGD", "Adam", "AdamW", "RMSprop"))
        raise TypeError(
            f"optimizer must be one of the classes {expected}, found {checks.shown(optimizer)}; give the class, "
            'and its settings as optimizer_kwargs={"lr": 0.1}'
        )
    given = checks.options("optimizer_kwargs", given)
    usual = optimizer([torch.zeros(1)]).defaults
    try:
        values = optimizer([torch.zeros(1)], **given).defaults
    except Exception as error:  # PyTorch raises what it meets
        raise ValueError(f"optimizer {name!r} of PyTorch does not take optimizer_kwargs={given}: {error}") from error
    known = {"lr", "weight_decay", "momentum", *_OPTIONS} | ({"nesterov"} if name == "sgd" else set())
    for option, value in values.items():
        if option not in known and option not in _WITHOUT_EFFECT and value != usual[option]:
            raise ValueError(
                f"found {option}={checks.shown(value)} of torch.optim.{optimizer.__name__}, of which there is no "
                f"derivative here: leave it out; known are {', '.join(sorted(known & usual.keys()))}"
            )
    settings: dict[str, Any] = {"weight_decay": values["weight_decay"], "learning_rate": float(values["lr"])}
    options = {ours: values[theirs] for theirs, ours in _OPTIONS.items() if theirs in values}
    if name == "sgd":
        settings |= {"momentum": values["momentum"], "nesterov": values["nesterov"]}
    elif "momentum" in values:
        options["momentum"] = values["momentum"]
    return {"optimizer": name, **settings} | ({"optimizer_kwargs": options} if options else {})


def optimizer_of_group(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> tuple[Optimizer, float]:
    """The (optimiser, learning rate) of one of PyTorch's parameter groups.

    Raises:
        TypeError: the optimiser is of no class that there is here.
        ValueError: a setting that there is not here.
    """
    if type(optimizer) not in _NAMES:
        raise TypeError(
            f"found an optimizer of class {type(optimizer).__name__}, whose steps have no derivative here; expected "
            f"torch.optim.{', '.join(each.__name__ for each in _NAMES if isinstance(each, type))}"
        )
    # What is as usual need not be given: AdamW's decoupled decay, for one, is no argument of its own.
    make: Callable[..., torch.optim.Optimizer] = type(optimizer)
    usual = make([torch.zeros(1)]).defaults
    given = {name: group[name] for name, value in usual.items() if group[name] != value}
    settings = optimizer_settings(type(optimizer), given)
    name, rate = settings.pop("optimizer"), settings.pop("learning_rate")
    return make_optimizer(name, settings.pop("optimizer_kwargs", {}), **settings), rate
