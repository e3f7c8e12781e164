"""Tables and figures of throughput, from result rows alone."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Section, grouped, number
from teachenv.plot import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP_TARGETS = {"mlp": 1.25, "resnet8": 1.05}
VECTOR_TARGET = 10.0
DIFFERENCE_TARGET = 1e-4


class Kind(NamedTuple):
    """What a measurement is a ratio of.

    Attributes:
        metric: the ratio's name in rows.
        what: which two contenders; `{method}` is replaced.
        keeps: what the ratio keeps to its target by.
    """

    metric: str
    what: str
    keeps: str = ""


KINDS = {
    "step": Kind("step_ratio", "env.step / plain PyTorch loop", "<="),
    "vector": Kind("vector_speedup", "vector / single environments (speed)", ">="),
    "paths": Kind("vmap_speedup", "vmap / loop (speed)"),
    "gradient": Kind("gradient_ratio", "episode with {method} / without"),
}
_KEEPS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}


def lines(rows: Sequence[Row]) -> list[Group]:
    """A group for each case, with its repetitions."""
    return grouped(rows, key=lambda r: repr((r.task, r.dataset, r.student, r.method, sorted(r.config.items()))))


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    columns = [
        Column("ratio of", what),
        Column("student", label),
        Column("median [range]", lambda g: f"{ratio(g):.2f} [{min(ratios(g)):.2f}, {max(ratios(g)):.2f}]"),
        Column("target", verdict),
        number("student steps/s", "student_steps_per_second", ",.0f"),
        Column("", note),
    ]
    captions = {"throughput": "Ratios of time and speed: medians, ranges over repetitions, and targets"}
    drawn = {"throughput": partial(_figure, lines(rows))}
    return Report("Throughput", [Section.of("", columns, lines(rows))], drawn, rows, captions)


def _kind(group: Group) -> Kind:
    return KINDS[group.config["measurement"]]


def what(group: Group) -> str:
    """Which two contenders' times the ratio is of."""
    return _kind(group).what.format(method=group.first.method)


def label(group: Group) -> str:
    """The student, the data and the number of students, as text."""
    row = group.first
    return f"{row.student}, {row.dataset}, {row.config['students']} × batch {row.config['batch_size']}"


def ratios(group: Group) -> list[float]:
    """The ratio in each repetition."""
    return list(group.values(_kind(group).metric).values())


def ratio(group: Group) -> float:
    """The median of the ratio over repetitions."""
    return statistics.median(ratios(group))


def target(group: Group) -> float | None:
    """What the ratio should keep to, if the project promises it."""
    return {"<=": STEP_TARGETS.get(group.first.student), ">=": VECTOR_TARGET}.get(_kind(group).keeps)


def verdict(group: Group) -> str:
    """The target, and whether it was reached."""
    limit, sign = target(group), _kind(group).keeps
    if limit is None:
        return ""
    return f"{sign} {limit:g}: {'reached' if _KEEPS[sign](ratio(group), limit) else 'missed'}"


def note(group: Group) -> str:
    """What else was measured, as text."""
    if differences := group.values("largest_difference"):
        within = "within" if max(differences.values()) <= DIFFERENCE_TARGET else "NOT within"
        return f"largest difference {max(differences.values()):.1e}, {within} {DIFFERENCE_TARGET:g}"
    return "".join(f"auto: {'vmap' if row.value else 'loop'}" for row in group.of("auto_is_vmap")[:1])


def _figure(groups: Sequence[Group]) -> Figure:
    """Horizontal bars of the ratios, on a logarithmic axis around 1, with the targets as marks."""
    from matplotlib.ticker import LogLocator

    figure, (axes,) = style.panels([""], (7.0, 0.42 * len(groups) + 1.2))
    for y, group in enumerate(groups):
        values, middle, limit = ratios(group), ratio(group), target(group)
        axes.barh(y, middle - 1, left=1, color=style.PALETTE[1] if limit else style.GREY, height=0.6)
        axes.plot([min(values), max(values)], [y, y], color="black", linewidth=1)
        if limit:
            axes.plot([limit] * 2, [y - 0.4, y + 0.4], color=style.PALETTE[2], linewidth=2)
        axes.annotate(f" {middle:.2f}", (max(*values, 1), y), va="center", fontsize=style.SMALL - 1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(
        range(len(groups)), [f"{what(group)}\n{label(group)}" for group in groups], fontsize=style.SMALL - 1
    )
    axes.invert_yaxis()
    axes.margins(x=0.1)
    style.describe(axes, "ratio (median; black: range over repetitions; red: target)")
    return figure
