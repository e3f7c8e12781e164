"""Tables and figures of learning from teaching with labels, from rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.lot.methods import METHODS
from benchmarks.measurements import DIVERGED
from benchmarks.presentation import color, in_precision, markdown, panels, print_table, write_figures
from teachenv.experiment.rows import Row, by_method, write_atomically
from teachenv.experiment.statistics import iqm, paired, summarise

BASELINE = "teacher-only"


def write(rows: Sequence[Row], folder: Path) -> None:
    """Writes table.md and the figure into the folder, and prints the tables."""
    lines: list[str] = []
    groups: dict[str, list[Row]] = {}
    for row in by_method(rows, METHODS):
        if row.metric.startswith(("test_", "student_test_", "valid_")):
            groups.setdefault(row.task, []).append(row)
    groups = {task: own for task, own in groups.items() if any(row.metric.startswith("test_") for row in own)}
    for task, own in groups.items():
        metric = _metric(own)
        header = (
            "method",
            f"test {_shown(metric)}",
            "interquartile mean [95 %]",
            f"against {BASELINE} [95 %]",
            "its student",
            "seeds",
            "teacher steps",
            "all steps",
            "seconds",
        )
        body = _table(own, metric)
        lines += [
            f"## {task}, {own[0].student} ({own[0].dataset})",
            "",
            "Mean ± standard deviation over seeds, each network at its best epoch on the validation data; the",
            "interquartile mean with a bootstrap interval; the mean difference over pairs of one seed, with Student's",
            f"interval{in_precision(own)}.",
            "",
            *markdown(header, body),
            "",
            *_diverged(rows, task),
        ]
        print_table(f"{task}: {own[0].student}", header[:5], [line[:5] for line in body])
    write_atomically(folder / "table.md", "\n".join(lines))
    write_figures(folder, {"curves": _curves(groups)})
    Console().print(f"rows, table and figure: {folder}", highlight=False, markup=False)


def _diverged(rows: Sequence[Row], task: str) -> list[str]:
    """Lines about trainings whose numbers are not finite, and of which the table has nothing."""
    found = sorted(f"{row.method} (seed {row.seed})" for row in rows if (row.task, row.metric) == (task, DIVERGED))
    return [f"Diverged: {', '.join(found)}.", ""] if found else []


def _metric(rows: Sequence[Row]) -> str:
    return next(row.metric for row in rows if row.metric.startswith("test_")).removeprefix("test_")


def _shown(metric: str) -> str:
    return f"{metric} %" if metric == "accuracy" else metric


def _scaled(metric: str, value: float) -> float:
    return 100 * value if metric == "accuracy" else value


def _table(rows: Sequence[Row], metric: str) -> list[tuple[str, ...]]:
    body: list[tuple[str, ...]] = []
    values = {
        (row.method, row.metric, row.seed): _scaled(metric, row.value) for row in rows if row.metric.endswith(metric)
    }
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if (row.method, row.metric) == (method, f"test_{metric}")]
        if not own:
            continue
        seeds = [row.seed for row in own]
        found = [values[method, f"test_{metric}", seed] for seed in seeds]
        students = [v for (name, of, _), v in values.items() if (name, of) == (method, f"student_test_{metric}")]
        both = [seed for seed in seeds if (BASELINE, f"test_{metric}", seed) in values]
        against = ""
        if method != BASELINE and len(both) > 1:
            own_values, others = ([values[name, f"test_{metric}", s] for s in both] for name in (method, BASELINE))
            against = paired(own_values, others).interval()
        summary = summarise(found, statistic=iqm)
        body.append(
            (
                method,
                _mean(found),
                f"{summary.iqm:.2f} [{summary.low:.2f}, {summary.high:.2f}]" if len(found) > 1 else "",
                against,
                _mean(students) if students else "",
                str(len(found)),
                f"{own[0].data['teacher_steps']:,}",
                f"{own[0].student_steps:,}",
                f"{np.median([row.seconds for row in own]):.0f}",
            )
        )
    return body


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def _curves(groups: dict[str, list[Row]]) -> Figure | None:
    """What is kept (solid) and its student (dashed) on validation data as the teacher is trained: means over seeds."""
    shown = {task: [row for row in rows if row.data] for task, rows in groups.items()}
    shown = {task: rows for task, rows in shown.items() if rows}
    if not shown:
        return None
    figure, axes = panels([f"{task}, {rows[0].student}" for task, rows in shown.items()])
    for axis, rows in zip(axes, shown.values(), strict=True):
        metric = _metric(rows)
        for number, method in enumerate(dict.fromkeys(row.method for row in rows)):
            curves = [np.array(row.data["curve"], dtype=float) for row in rows if row.method == method]
            mean = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
            for column, style in ((1, "-"), (2, "--")):
                if not np.isnan(mean[:, column]).any():
                    line = mean[:, column] * _scaled(metric, 1.0)
                    label = method if column == 1 else None
                    axis.plot(mean[:, 0], line, style, color=color(number), label=label)
        if metric == "perplexity":
            axis.set_yscale("log")
        axis.set_xlabel("epochs of the model that is kept (dashed: its student)")
        axis.set_ylabel(f"{_shown(metric)} on validation data")
        axis.legend(fontsize=7)
    return figure
