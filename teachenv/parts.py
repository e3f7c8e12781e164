"""Options of one part of an environment (its student, its optimizer, ...) written together, as one mapping.

    TeachEnv(student={"name": "mlp", "hidden": [64]}, optimizer={"name": "sgd", "momentum": 0.9})

is the same as

    TeachEnv(student="mlp", student_kwargs={"hidden": [64]}, optimizer="sgd", momentum=0.9)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teachenv.checks import shown
from teachenv.optimizers import OPTIMIZERS

_OPTIONS_OF = {part: f"{part}_kwargs" for part in ("task", "student", "teacher", "loss", "optimizer")}
"""The setting that holds the further options of each part."""

_SETTINGS_OF = {
    "optimizer": {name: name for name in ("learning_rate", "momentum", "nesterov", "weight_decay")},
    "teacher": {"learning_rate": "teacher_learning_rate"},
}
"""Options of a part that are settings of their own: their names in the mapping, and as settings."""


def spelled_out(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments in which each mapping with a `"name"` is taken apart into settings.

    Raises:
        ValueError: a mapping without a name, or an option that is given twice.
    """
    settings = dict(kwargs)
    for part, rest in _OPTIONS_OF.items():
        chosen = settings.get(part)
        if not isinstance(chosen, Mapping):
            continue
        options = dict(chosen)
        if not isinstance(options.get("name"), str):
            raise ValueError(
                f"{part}={shown(chosen)} has no name: expected {{'name': ..., ...}} with the name of a {part} and its "
                "options"
            )
        parts: dict[str, Any] = {part: options.pop("name")}
        entry = OPTIMIZERS.get(parts[part]) if part == "optimizer" else None
        # RMSprop's momentum is its own option: the setting `momentum` is SGD's.
        optimizer_options = () if entry is None else entry.options
        for option, setting in _SETTINGS_OF.get(part, {}).items():
            if option in options and option not in optimizer_options:
                parts[setting] = options.pop(option)
        if options:
            parts[rest] = options
        if twice := sorted((parts.keys() & settings.keys()) - {part}):
            raise ValueError(f"{twice[0]} is given twice, alone and within {part}={shown(chosen)}: leave one out")
        settings |= parts
    return settings
