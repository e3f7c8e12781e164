"""Tables and figures of what hypergradients cost, from result rows alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Section, by, grouped, number
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    tasks = by(rows, lambda row: row.task)
    lengths = tasks.get("length", [])
    sections = [*usual(tasks.get("usual", [])), *by_length(lengths), *_batches(tasks.get("batched", []))]
    captions = {"lengths": "Time and memory of a hypergradient by the length of the training"}
    return Report("Hypergradients", sections, {"lengths": partial(_figure, lengths)}, rows, captions)


def usual(rows: Sequence[Row], title: str = "") -> list[Section]:
    """A line a contender and training: medians over repetitions."""
    time = number("", "time_ratio", ".2f")
    columns = [
        Column("student", lambda group: group.first.student),
        Column("T", lambda group: str(group.config["steps"])),
        Column("contender", lambda group: group.first.method),
        Column("time / plain", lambda group: _shortly(reason) if (reason := failed(group)) else time.cell(group)),
        number("extra memory, MB", "extra_bytes", ",.0f", 1e-6),
        number("relative error", "relative_error", ".1e"),
        number("bytes: predicted / held", "bytes_ratio", ".2f"),
        number("time: predicted / taken", "seconds_ratio", ".2f"),
    ]
    groups = grouped(rows, key=lambda row: f"{row.student} {row.config['steps']} {row.method}")
    return [Section.of(title, columns, groups)] if groups else []


def by_length(rows: Sequence[Row]) -> list[Section]:
    """A line a contender and length of the perceptron's training."""
    sections = usual(rows, "By length")
    growth = exponents(rows)
    return [*sections, Section(text=f"Extra memory grows like T to the power of {growth}.")] if growth else sections


def failed(group: Group, metric: str = "time_ratio") -> str:
    """Why a contender failed; empty if it did not, or the metric was measured later."""
    reasons = [row.data["failed"] for row in group.rows if row.metric == "failed"]
    return str(reasons[-1]) if reasons and not group.values(metric) else ""


def _shortly(reason: str) -> str:
    return "memory limit passed" if "allocate memory" in reason else f"failed: {reason}"


def _batches(rows: Sequence[Row]) -> list[Section]:
    columns = [
        Column("students", lambda group: group.name),
        Column("T", lambda group: str(group.config["steps"])),
        Column("batched by", lambda group: str(group.with_data[0].data["path"])),
        number("loop / batch (time)", "speedup", ".2f"),
        number("relative difference", "relative_error", ".1e"),
    ]
    groups = grouped(rows, key=lambda row: f"{row.method.split()[0]} {row.student}")
    groups = [group for group in groups if group.values("speedup")]
    return [Section.of("Many students at once", columns, groups)] if groups else []


def _by_length(rows: Sequence[Row], metric: str) -> dict[str, list[tuple[int, float]]]:
    """The lengths of training runs and the medians over repetitions, by contender."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for group in grouped(rows, key=lambda row: f"{row.method} {row.config['steps']}"):
        points, values = curves.setdefault(group.first.method, []), group.values(metric)
        if values and not failed(group):
            points.append((int(group.config["steps"]), statistics.median(values.values())))
    return {name: sorted(points) for name, points in curves.items()}


def exponents(rows: Sequence[Row]) -> str:
    """The slope of log memory over log T of each contender of ours, by least squares; empty without lengths."""
    slopes = []
    for contender, points in _by_length(rows, "extra_bytes").items():
        if len(points) > 2:
            steps, sizes = zip(*points, strict=True)
            logarithms = [math.log(s) for s in steps], [math.log(max(1.0, size)) for size in sizes]
            slope = statistics.linear_regression(*logarithms).slope
            slopes.append(f"{slope:.2f} ({contender}, T = {steps[0]} to {steps[-1]:,})")
    return ", ".join(slopes)


def _figure(rows: Sequence[Row]) -> Figure | None:
    """Time and memory of the perceptron against T, both axes logarithmic."""
    if not rows:
        return None
    figure, axes = style.panels(["time over plain training", "extra memory, MB"])
    looks = style.distinct([list(_by_length(rows, "time_ratio"))])
    for axis, (metric, factor) in zip(axes, (("time_ratio", 1.0), ("extra_bytes", 1e-6)), strict=True):
        for contender, points in _by_length(rows, metric).items():
            # At least 10 kB, since an axis of logarithms has no zero.
            shown = [[(steps, max(0.01, factor * value)) for steps, value in points]]
            line = "--" if ":" not in contender else "-"
            if points:
                series.curve(axis, shown, style=line, label=contender, **looks[contender].line("o"))
        axis.set_xscale("log")
        axis.set_yscale("log", base=2 if metric == "time_ratio" else 10)  # times differ by less than a power of ten
        for formatted in (axis.xaxis, axis.yaxis):
            formatted.set_major_formatter("{x:,g}")
        style.describe(axis, "length of the training T, student steps")
    figure.suptitle("Hypergradients of a 784-500-10 perceptron", fontsize=style.TEXT)
    return figure
