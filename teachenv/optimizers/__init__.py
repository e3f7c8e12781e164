"""The students' optimisers by name. The table below is the list; each has a module with its formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from teachenv import checks
from teachenv.errors import UnknownOption
from teachenv.optimizers.adam import Adam
from teachenv.optimizers.base import Optimizer, Places, Rate, Step, Tensors, along, slots_of
from teachenv.optimizers.rmsprop import RMSprop
from teachenv.optimizers.sgd import SGD

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "Entry",
    "Optimizer",
    "Places",
    "RMSprop",
    "Rate",
    "Step",
    "Tensors",
    "along",
    "make_optimizer",
    "slots_of",
]


@dataclass(frozen=True)
class Entry:
    """How a name becomes an optimiser.

    Attributes:
        build: the optimiser's class.
        options: those of its fields that a user sets in `optimizer_kwargs`.
        settings: those of its fields that are options of the environment itself: `"momentum"`, `"nesterov"` and
            `"weight_decay"`.
        fixed: those of its fields that the name decides.
    """

    build: Callable[..., Optimizer]
    options: tuple[str, ...] = ()
    settings: tuple[str, ...] = ("weight_decay",)
    fixed: Mapping[str, Any] = field(default_factory=dict)


OPTIMIZERS: dict[str, Entry] = {
    "sgd": Entry(SGD, settings=("momentum", "weight_decay", "nesterov")),
    "adam": Entry(Adam, ("betas", "epsilon")),
    "adamw": Entry(Adam, ("betas", "epsilon"), fixed={"decoupled": True}),
    "rmsprop": Entry(RMSprop, ("alpha", "epsilon", "momentum")),
}


def make_optimizer(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """Makes the named optimiser.

    Args:
        name: a key of `OPTIMIZERS`.
        options: the optimiser's own, see its entry there.
        momentum: SGD's μ. The others leave it aside: Adam's β₁ and RMSprop's μ are among their options.
        weight_decay: weight decay λ.
        nesterov: whether SGD's momentum is Nesterov's.

    Raises:
        ValueError: an unknown name, a value out of its range, or `nesterov` of an optimiser that has no such form.
        TypeError: an option that the optimiser does not have.
    """
    checks.choice("optimizer", name, OPTIMIZERS)
    entry, chosen = OPTIMIZERS[name], dict(options or {})
    for option in chosen:
        if option in (*entry.settings, "learning_rate") and option not in entry.options:
            value = checks.shown(chosen[option])
            raise UnknownOption(
                f"optimizer_kwargs holds {option!r}, which is an option of the environment itself: give "
                f"{option}={value}, or optimizer={{'name': {name!r}, {option!r}: {value}}}"
            )
    checks.known_options(f"optimizer {name!r}", chosen, entry.options)
    settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    if nesterov and "nesterov" not in entry.settings:
        raise ValueError(f"optimizer {name!r} has no Nesterov momentum, found nesterov=True; 'sgd' has")
    return entry.build(**{option: settings[option] for option in entry.settings}, **entry.fixed, **chosen)
