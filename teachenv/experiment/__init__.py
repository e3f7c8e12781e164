"""Experiments: methods compared over tasks and seeds, from cases to rows, tables, figures and a page.

`teachenv.compare` is the whole of it in one call; the parts are for benchmarks of other kinds. Names are imported when
they are first used, so that `import teachenv` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teachenv.experiment.backends import make_backend
    from teachenv.experiment.cases import Case, CasesFailed, Outcome, Session, execute
    from teachenv.experiment.comparing import compare
    from teachenv.experiment.comparison import Comparison
    from teachenv.experiment.contest import Contest, Effort, Rung
    from teachenv.experiment.jobs import Backend, Failure, Job, Kept, Shared
    from teachenv.experiment.methods import Candidate, Method, fixed
    from teachenv.experiment.naming import Named
    from teachenv.experiment.processes import alone
    from teachenv.experiment.report import Report
    from teachenv.experiment.row import Row
    from teachenv.experiment.rows import ResultsFile, read_rows
    from teachenv.experiment.teaching import teach

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
    "compare": "comparing",
    "execute": "cases",
    "fixed": "methods",
    "make_backend": "backends",
    "read_rows": "rows",
    "teach": "teaching",
}

__all__ = [
    "Backend",
    "Candidate",
    "Case",
    "CasesFailed",
    "Comparison",
    "Contest",
    "Effort",
    "Failure",
    "Job",
    "Kept",
    "Method",
    "Named",
    "Outcome",
    "Report",
    "ResultsFile",
    "Row",
    "Rung",
    "Session",
    "Shared",
    "alone",
    "compare",
    "execute",
    "fixed",
    "make_backend",
    "read_rows",
    "teach",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
