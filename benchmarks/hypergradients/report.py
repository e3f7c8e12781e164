"""The table and the figures, made from the rows alone."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.presentation import markdown, print_table, write_figures
from teachenv.experiment.rows import Row, write_atomically

BATCH_HEADER = ("students", "T", "batched by", "loop / batch (time)", "relative difference")
HEADER = ("student", "T", "contender", "time / plain", "extra memory, MB", "relative error")

Group = dict[str, list[float]]


def write(rows: list[Row], folder: Path) -> None:
    """Writes ``table.md`` and the figures into the folder and prints the table."""
    cells = table(rows)
    tables = [(header, body) for header, body in ((HEADER, cells), (BATCH_HEADER, batches(rows))) if body]
    growth = exponents(rows)
    text = ["\n".join([*markdown(header, body), ""]) for header, body in tables]
    if growth:
        text.append("Extra memory grows like T to the power of " + growth + ".\n")
    write_atomically(folder / "table.md", "\n".join(text))
    lengths = [row for row in rows if row.task == "length"]
    write_figures(folder, {"lengths": _figure(lengths) if lengths else None})
    console = Console()
    for header, body in tables:
        print_table("hypergradients", header, body)
    if growth:
        console.print(f"extra memory grows like T to the power of {growth}", highlight=False)
    console.print(f"rows, table and figures: {folder}", highlight=False, markup=False)


def batches(rows: list[Row]) -> list[tuple[str, ...]]:
    """A line a batch: medians over repetitions."""
    groups, _ = _groups([row for row in rows if row.task == "batched"])
    paths = {row.student: row.data["path"] for row in rows if row.task == "batched" and row.data}
    return [
        (
            f"{contender.split()[0]} {student}",
            str(steps),
            paths[student],
            f"{statistics.median(metrics['speedup']):.2f}",
            f"{statistics.median(metrics['relative_error']):.1e}",
        )
        for (student, steps, contender), metrics in groups.items()
        if "speedup" in metrics
    ]


def exponents(rows: list[Row]) -> str:
    """The slope of log memory over log T of each contender of ours, by least squares; empty without lengths."""
    groups, failures = _groups([row for row in rows if row.task == "length"])
    found = []
    for contender in dict.fromkeys(key[2] for key in groups):
        points = [
            (math.log(steps), math.log(max(1.0, statistics.median(metrics["extra_bytes"]))))
            for (student, steps, name), metrics in groups.items()
            if name == contender and (student, steps, name) not in failures and "extra_bytes" in metrics
        ]
        if len(points) > 2:
            slope = statistics.linear_regression(*zip(*points, strict=True)).slope
            found.append(
                f"{slope:.2f} ({contender}, T = {math.exp(points[0][0]):.0f} to {math.exp(points[-1][0]):,.0f})"
            )
    return ", ".join(found)


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """A line a contender and training: medians over repetitions."""
    groups, failures = _groups([row for row in rows if row.task == "usual"])
    cells: list[tuple[str, ...]] = []
    for key, metrics in groups.items():
        student, steps, contender = key
        if key in failures:
            cells.append((student, str(steps), contender, f"failed: {failures[key]}", "", ""))
            continue
        memory = statistics.median(metrics["extra_bytes"]) / 1e6 if "extra_bytes" in metrics else None
        cells.append(
            (
                student,
                str(steps),
                contender,
                f"{statistics.median(metrics['time_ratio']):.2f}",
                "" if memory is None else f"{memory:,.0f}",
                f"{statistics.median(metrics['relative_error']):.1e}",
            )
        )
    return cells


def _groups(rows: list[Row]) -> tuple[dict[tuple[str, int, str], Group], dict[tuple[str, int, str], str]]:
    """Values by (student, T, contender) and metric, and what failed."""
    groups: dict[tuple[str, int, str], Group] = defaultdict(lambda: defaultdict(list))
    failures: dict[tuple[str, int, str], str] = {}
    for row in rows:
        key = row.student, int(row.config["steps"]), row.method
        groups[key][row.metric].append(row.value)
        if row.metric == "failed":
            assert row.data is not None
            failures[key] = row.data["failed"]
    # One that failed once and was measured later has not failed.
    return groups, {key: said for key, said in failures.items() if "time_ratio" not in groups[key]}


def _figure(rows: list[Row]) -> Figure:
    """Time and memory of the perceptron against T, both axes logarithmic."""
    groups, failures = _groups(rows)
    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    time, memory = figure.subplots(1, 2)
    for contender in dict.fromkeys(key[2] for key in groups):
        keys = sorted(key for key in groups if key[2] == contender and key not in failures)
        style = "--" if ":" not in contender else "-"
        for axes, metric, factor in ((time, "time_ratio", 1.0), (memory, "extra_bytes", 1e-6)):
            # At least 10 kB, since an axis of logarithms has no zero.
            points = [
                (k[1], max(0.01, statistics.median(groups[k][metric]) * factor)) for k in keys if metric in groups[k]
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=contender)
    time.set_ylabel("time over plain training")
    memory.set_ylabel("extra memory, MB")
    for axes in (time, memory):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("length of the training T, student steps")
        axes.grid(alpha=0.3)
        for formatted in (axes.xaxis, axes.yaxis):
            formatted.set_major_formatter("{x:,g}")
    time.yaxis.set_minor_formatter("{x:g}")
    memory.legend(fontsize=8)
    figure.suptitle("Hypergradients of a 784-500-10 perceptron; a line ends where the memory limit is passed")
    return figure
