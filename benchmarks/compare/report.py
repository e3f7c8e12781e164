"""Table and figures of the comparison, from its rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparison import report
from benchmarks.comparison.report import Results
from teachenv.experiment.rows import Row

COLORS = {
    "prokt": "#7f7f7f",
    "lgtm:reweight": "#2ca02c",
    "cross-entropy": "#7f7f7f",
    "smooth-01": "#a6a6a6",
    "large-margin": "#8c6d31",
    "label-smoothing": "#4d4d4d",
    "focal": "#bdb76b",
    "random": "#bcbd22",
    "ddpg": "#d62728",
    "ddpg:default": "#ff9896",
    "rmd": "#1f77b4",
    "finite-difference": "#17becf",
    "evolution-strategies": "#9467bd",
}
FIXED = ("prokt", "cross-entropy", "smooth-01", "large-margin", "label-smoothing", "focal")


def write(rows: Sequence[Row], folder: Path, loss: str, seeds: int) -> None:
    """Writes table.md and the figures into the folder, and prints the table."""
    results = Results(rows, COLORS, FIXED, loss, seeds)
    figures = {
        "test_error": report.test_error(results),
        "teacher_training": report.teacher_training(results),
        "learning_curves": report.learning_curves(results),
        **{f"coefficients-{task}": report.coefficients(results, task) for task in results.tasks},
    }
    report.write(results, folder, figures)
