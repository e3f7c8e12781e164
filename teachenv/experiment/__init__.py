"""Experiments: methods compared over tasks and seeds, from cases to rows, tables, figures and a page.

`teachenv.compare` is the whole of it in one call; the parts are for benchmarks of other kinds. Names are imported when
they are first used, so that `import teachenv` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Backend": "jobs",
    "Candidate": "methods",
    "Case": "cases",
    "CasesFailed": "cases",
    "Comparison": "comparison",
    "Contest": "contest",
    "Effort": "contest",
    "Failure": "jobs",
    "Job": "jobs",
    "Kept": "jobs",
    "Method": "methods",
    "Named": "naming",
    "Outcome": "cases",
    "Report": "report",
    "ResultsFile": "rows",
    "Row": "row",
    "Rung": "contest",
    "Session": "cases",
    "Shared": "jobs",
    "alone": "processes",
    "compare": "compare",
    "execute": "cases",
    "fixed": "methods",
    "make_backend": "backends",
    "read_rows": "rows",
    "teach": "teach",
}

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
