"""Tables and figures of distillation, from rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.lgtm.methods import METHODS, TABLE
from benchmarks.presentation import color, markdown, panels, print_table, write_figures
from teachenv.experiment.rows import Row, write_atomically

# Averages over six tasks of GLUE, BERT-base into a student of six layers (Ren et al. 2023; the other entries of its
# table 1 are lost in the text that we have).
PUBLISHED = {"kd": "81.6", "lgtm": "83.4"}

HEADER = (
    "method",
    "test accuracy %",
    "test F1 %",
    "influence / rest",
    "seeds",
    "student steps",
    "seconds",
    "the paper's average",
)
COST_HEADER = ("matrix products", "influence", "seconds", "of finite differences", "extra memory, MB", "relative error")

# Two samples whose influence is followed.
FOLLOWED = 2


def write(rows: Sequence[Row], folder: Path) -> None:
    """Writes table.md and the figures into the folder, and prints the tables."""
    lines: list[str] = []
    for (task, student), own in _groups(rows).items():
        body = _table(own)
        data = own[0].dataset
        lines += [
            f"## {task}, {student} ({data})",
            "",
            "Mean ± standard deviation over seeds.",
            "",
            *markdown(HEADER, body),
            "",
        ]
        print_table(f"{task}: {student}", HEADER[:3] + HEADER[4:5], [line[:3] + line[4:5] for line in body])
    if costs := [row for row in rows if row.task == "cost"]:
        body = _costs(costs)
        about = costs[0].config
        title = f"Influence of a batch of {about['batch_size']}, length {about['length']}, on {costs[0].student}"
        lines += [f"## {title}", "", *markdown(COST_HEADER, body), ""]
        print_table(title, COST_HEADER, body)
    write_atomically(folder / "table.md", "\n".join(lines))
    trained = [row for row in rows if row.metric == "test_accuracy" and row.data]
    write_figures(folder, {"curves": _curves(trained), "influence": _influence(trained)})
    Console().print(f"rows, table and figures: {folder}", highlight=False, markup=False)


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """By task and student, fine-tuned teachers first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.task != "cost" and row.metric.startswith("test_"):
            found.setdefault((row.task, row.student), []).append(row)
    return found


def _methods(rows: Sequence[Row]) -> list[str]:
    """Fine-tuned teachers, then methods as the studies name them."""
    order = ["fine-tuned-teacher", *METHODS]
    return sorted({row.method for row in rows}, key=order.index)


def _table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    body: list[tuple[str, ...]] = []
    for method in _methods(rows):
        own = [row for row in rows if row.method == method]
        accuracy = [row for row in own if row.metric == "test_accuracy"]
        ratios = [
            np.mean([numbers["influence_ratio"] for _, numbers in row.data["logged"] if "influence_ratio" in numbers])
            for row in accuracy
            if row.data and any("influence_ratio" in numbers for _, numbers in row.data["logged"])
        ]
        body.append(
            (
                method,
                _mean_and_deviation(accuracy),
                _mean_and_deviation([row for row in own if row.metric == "test_f1"]),
                f"{np.mean(ratios):.1e}" if ratios else "",
                str(len(accuracy)),
                f"{max(row.student_steps for row in accuracy):,}",
                f"{np.median([row.seconds for row in accuracy]):.0f}",
                PUBLISHED.get(method, ""),
            )
        )
    return body


def _mean_and_deviation(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    values = [100 * row.value for row in rows]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _costs(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    newest = {(row.config["matmul_precision"], row.method, row.metric): row.value for row in rows}
    body: list[tuple[str, ...]] = []
    for precision, method in dict.fromkeys((row.config["matmul_precision"], row.method) for row in rows):
        found = {metric: value for (*of, metric), value in newest.items() if of == [precision, method]}
        body.append(
            (
                precision,
                method,
                f"{found['seconds']:.2f}",
                f"{found['time_ratio']:.2f}",
                f"{found['extra_bytes'] / 1e6:.0f}" if "extra_bytes" in found else "",
                f"{found['relative_error']:.0e}",
            )
        )
    return body


def _curves(rows: Sequence[Row]) -> Figure | None:
    """Students on dev as they are distilled, the methods of the table apart from the studies': means over seeds."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        title = f"{row.task}, {row.student}" + ("" if row.method in TABLE else ": studies")
        groups.setdefault(title, []).append(row)
    if not groups:
        return None
    figure, axes = panels(list(groups))
    for axis, own in zip(axes, groups.values(), strict=True):
        for number, method in enumerate(_methods(own)):
            curves = [np.array(row.data["curve"], dtype=float) for row in own if row.method == method]
            mean = np.mean(curves, axis=0)
            style = "-" if method.startswith("lgtm") else "--"
            axis.plot(mean[:, 0], 100 * mean[:, 1], style, color=color(number), label=method)
        axis.set_xlabel("student steps")
        axis.set_ylabel("student on dev, % (F1 where the task has it)")
        axis.legend(fontsize=7, ncols=2)
    return figure


def _influence(rows: Sequence[Row]) -> Figure | None:
    """Distillation influence as training goes on: its mean size over the watched samples, and two of them."""
    followed = [row for row in rows if row.data["influences"] and row.seed == 0]
    if not followed:
        return None
    figure, axes = panels(["mean |influence| of the watched samples", "two samples"])
    for number, row in enumerate(followed):
        steps = [point[0] for point in row.data["curve"]]
        values = np.array(row.data["influences"], dtype=float)
        label = f"{row.task}: {row.method}"
        axes[0].plot(steps, np.abs(values).mean(1), "-o", color=color(number), markersize=3, label=label)
        # The two that moved most.
        for line, sample in zip(("-", "--"), np.argsort(-np.ptp(values, axis=0))[:FOLLOWED], strict=False):
            name = f"{label}, {sample}"
            axes[1].plot(steps, values[:, sample], line, color=color(number), marker="o", markersize=3, label=name)
    axes[1].axhline(0, color="black", linewidth=0.7)
    for axis in axes:
        axis.set_xlabel("student steps")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("influence on the loss of feedback")
    return figure
