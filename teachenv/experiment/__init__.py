"""Experiments: methods compared over tasks and seeds, from cases to rows, tables, figures and a page.

What is exported is imported when it is used, since most of a command's names need none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teachenv.experiment.jobs import Backend, Failure, Job, Kept, Shared, make_backend
    from teachenv.experiment.processes import alone

__all__ = ["Backend", "Failure", "Job", "Kept", "Shared", "alone", "make_backend"]

_MODULES = {
    "jobs": ("Backend", "Failure", "Job", "Kept", "Shared", "make_backend"),
    "processes": ("alone",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
