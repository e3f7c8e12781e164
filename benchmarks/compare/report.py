"""The report of the comparison, from its rows alone."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.colors import COLORS
from teachenv.experiment import comparison_report
from teachenv.experiment.report import Report
from teachenv.experiment.rows import Row

LOSSES = ("cross-entropy", "smooth-01", "large-margin", "label-smoothing", "focal")
TEACHERS = ("random", "ddpg", "ddpg:default", "rmd", "finite-difference", "evolution-strategies")


def make(rows: Sequence[Row], loss: str, seeds: int) -> Report:
    """The report."""
    methods = ("prokt", "lgtm:reweight", *LOSSES, *TEACHERS)
    results = comparison_report.Results(rows, methods, ("prokt", *LOSSES), seeds, loss, COLORS)
    return comparison_report.make("Teachers compared", results)
