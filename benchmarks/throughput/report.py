"""The table and the figure, made from the rows alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from rich.console import Console

from benchmarks.presentation import markdown, print_table, write_figures
from teachenv.experiment.rows import Row, write_atomically

STEP_TARGETS = {"mlp": 1.25, "resnet8": 1.05}
VECTOR_TARGET = 10.0
DIFFERENCE_TARGET = 1e-4


@dataclass(frozen=True)
class Line:
    """One line of the table: a case's repetitions together.

    Attributes:
        what: Which two contenders.
        label: Student, data, and how many students.
        values: The ratio in each repetition.
        bound: What the ratio should keep to, ``("<=", 1.25)``, if the project promises it.
        speed: Median student steps per second of the contender that the line is about.
        note: What else was measured.
    """

    what: str
    label: str
    values: tuple[float, ...]
    bound: tuple[Literal["<=", ">="], float] | None
    speed: float
    note: str

    @property
    def ratio(self) -> float:
        """The median over repetitions."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """The target, and whether it was reached."""
        if self.bound is None:
            return ""
        sign, limit = self.bound
        reached = self.ratio <= limit if sign == "<=" else self.ratio >= limit
        return f"{sign} {limit:g}: {'reached' if reached else 'missed'}"

    def cells(self) -> tuple[str, ...]:
        """The line as the table shows it."""
        spread = f"{self.ratio:.2f} [{min(self.values):.2f}, {max(self.values):.2f}]"
        return self.what, self.label, spread, self.verdict, f"{self.speed:,.0f}", self.note


HEADER = ("ratio of", "student", "median [range]", "target", "student steps/s", "")
_RATIOS = {"step": "step_ratio", "vector": "vector_speedup", "paths": "vmap_speedup", "gradient": "gradient_ratio"}


def lines(rows: list[Row]) -> list[Line]:
    """The table's lines, made from the rows alone."""
    groups: dict[str, dict[str, list[float]]] = {}
    firsts: dict[str, Row] = {}
    for row in rows:
        key = repr((row.task, row.dataset, row.student, row.method, sorted(row.config.items())))
        firsts.setdefault(key, row)
        groups.setdefault(key, {}).setdefault(row.metric, []).append(row.value)
    return [_line(firsts[key], metrics) for key, metrics in groups.items()]


def _line(row: Row, metrics: Mapping[str, list[float]]) -> Line:
    measurement = row.config["measurement"]
    bound: tuple[Literal["<=", ">="], float] | None = None
    note = ""
    if measurement == "step":
        what, bound = "env.step / plain PyTorch loop", ("<=", STEP_TARGETS[row.student])
    elif measurement == "vector":
        what, bound = "vector / single environments (speed)", (">=", VECTOR_TARGET)
        difference = max(metrics["largest_difference"])
        within = "within" if difference <= DIFFERENCE_TARGET else "NOT within"
        note = f"largest difference {difference:.1e}, {within} {DIFFERENCE_TARGET:g}"
    elif measurement == "paths":
        what, note = "vmap / loop (speed)", f"auto: {'vmap' if metrics['auto_is_vmap'][0] else 'loop'}"
    else:
        what = f"episode with {row.method} / without"
    students = row.config["students"]
    label = f"{row.student}, {row.dataset}, {students} × batch {row.config['batch_size']}"
    speed = statistics.median(metrics["student_steps_per_second"])
    return Line(what, label, tuple(metrics[_RATIOS[measurement]]), bound, speed, note)


def report(rows: list[Row], folder: Path) -> None:
    """Writes ``table.md`` and ``throughput.png`` into the folder and prints the table."""
    table = lines(rows)
    write_atomically(folder / "table.md", "\n".join([*markdown(HEADER, [line.cells() for line in table]), ""]))
    write_figures(folder, {"throughput": _figure(table)})
    shown = [
        (
            "\n  ".join(filter(None, (line.what, line.label, line.note))),
            f"{line.ratio:.2f}",
            line.verdict,
            f"{line.speed:,.0f}",
        )
        for line in table
    ]
    print_table("throughput", ("ratio of", "median", "target", "steps/s"), shown)
    Console().print(f"rows, table and figure: {folder}", highlight=False, markup=False)


def _figure(table: list[Line]) -> Figure:
    """Horizontal bars of the ratios, on a logarithmic axis around 1, with the targets as marks."""
    figure = Figure(figsize=(11, 0.45 * len(table) + 1.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for y, line in enumerate(table):
        axes.barh(y, line.ratio - 1, left=1, color="tab:blue" if line.bound else "tab:gray", height=0.6)
        axes.plot([min(line.values), max(line.values)], [y, y], color="black", linewidth=1)
        if line.bound:
            axes.plot([line.bound[1]] * 2, [y - 0.4, y + 0.4], color="tab:red", linewidth=2)
        axes.annotate(f" {line.ratio:.2f}", (max(*line.values, 1), y), va="center", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(table)), [f"{line.what}\n{line.label}" for line in table], fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("ratio (median; line: range over repetitions; red: target)")
    return figure
