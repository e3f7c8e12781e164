"""Options of one part of an environment (its student, its optimizer, ...) written together, as one mapping.

    TeachEnv(student={"name": "mlp", "hidden": [64]}, optimizer={"name": "sgd", "momentum": 0.9})

is the same as

    TeachEnv(student="mlp", student_kwargs={"hidden": [64]}, optimizer="sgd", momentum=0.9)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teachenv import checks
from teachenv.optimizers import OPTIMIZERS

PARTS = {part: f"{part}_kwargs" for part in ("task", "student", "teacher", "loss", "optimizer")}
"""The setting that holds the further options of each part."""

_OF_DATA = (
    "data_root",
    "dataset",
    "pool_size",
    "split_seed",
    "trusted_dev",
    "imbalance",
    "label_noise",
    "label_noise_kind",
    "dev_noise",
)
_OF_OPTIMIZERS = ("learning_rate", "momentum", "nesterov", "weight_decay")
_SETTINGS_OF = {
    "task": {name: name for name in _OF_DATA},
    "optimizer": {name: name for name in _OF_OPTIMIZERS},
    "teacher": {"learning_rate": "teacher_learning_rate"},
}
"""Options of a part that are settings of their own: their names in the mapping, and as settings."""


def spelled_out(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments in which each mapping with a `"name"` is taken apart into settings.

    Lists and other plain values are copies, which the caller does not change.

    Raises:
        ValueError: a mapping without a name, or an option that is given twice.
        TypeError: an option that the named optimizer does not have.
    """
    settings = {name: checks.copied(value) for name, value in kwargs.items()}
    for part, rest in PARTS.items():
        chosen = settings.get(part)
        if not isinstance(chosen, Mapping):
            continue
        options = dict(chosen)
        _check_name(part, chosen)
        name = options.pop("name")
        entry = OPTIMIZERS.get(name) if part == "optimizer" else None
        if entry is not None:
            known = {*entry.options, *entry.settings, "learning_rate"}
            # Momentum with Adam is a matter of `teachenv.idle`, which knows more of the reason.
            asked = [option for option in options if option not in _OF_OPTIMIZERS]
            checks.known_options(f"optimizer {name!r}", asked, sorted(known))
        parts: dict[str, Any] = {part: name}
        # RMSprop's momentum is its own option: the setting `momentum` is SGD's.
        optimizer_options = () if entry is None else entry.options
        for option, setting in _SETTINGS_OF.get(part, {}).items():
            if option in options and option not in optimizer_options:
                parts[setting] = options.pop(option)
        if options:
            parts[rest] = options
        if twice := sorted((parts.keys() & settings.keys()) - {part}):
            raise ValueError(
                f"{twice[0]} is given twice, alone and within {part}={checks.shown(chosen)}: leave one out"
            )
        settings |= parts
    return settings


def laid_over(
    kwargs: Mapping[str, Any], defaults: Mapping[str, Any], usual: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Settings of which some take the places of others, option by option.

    The options of a part (a student, say) are for the part that they were written for: where another one is chosen by
    name, or an object of one's own, they are left out.

    Args:
        kwargs: what was chosen.
        defaults: what it is laid over.
        usual: the parts that `defaults` are for where they name none; None: those that `kwargs` choose.

    Raises:
        ValueError: see `spelled_out`.
        TypeError: see `spelled_out`.
    """
    chosen, fitting, usual = spelled_out(kwargs), dict(defaults), usual or {}
    for part, rest in PARTS.items():
        if part not in chosen or (part not in fitting and part not in usual):
            continue
        default = fitting.get(part, usual.get(part))
        name = default.get("name") if isinstance(default, Mapping) else default
        if not (isinstance(name, str) and isinstance(chosen[part], str) and name == chosen[part]):
            fitting.pop(part, None)
            fitting.pop(rest, None)
    fitting = spelled_out(fitting)
    together = {
        rest: {**fitting[rest], **chosen[rest]}
        for rest in PARTS.values()
        if isinstance(fitting.get(rest), Mapping) and isinstance(chosen.get(rest), Mapping)
    }
    return {**fitting, **chosen, **together}


def _check_name(part: str, chosen: Mapping[str, Any]) -> None:
    name = chosen.get("name")
    if isinstance(name, str):
        return
    kind = f"{'an' if part[0] in 'aeiou' else 'a'} {part}"
    if name is not None and not isinstance(name, bool | int | float):
        raise ValueError(
            f"{part}={checks.shown(chosen)} names no {part}: expected the name of {kind} as a text, found "
            f"{checks.shown(name)}; {kind} of your own is given alone, with its options in place, as {part}=..."
        )
    raise ValueError(
        f"{part}={checks.shown(chosen)} has no name: expected {{'name': ..., ...}} with the name of {kind} and its "
        "options"
    )
