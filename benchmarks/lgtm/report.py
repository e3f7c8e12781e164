"""Tables and figures of distillation, from result rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.lgtm.methods import METHODS, TABLE
from teachenv.experiment import evidence, tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Measure, Section, deviation, grouped, number
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Averages over six tasks of GLUE, BERT-base into a student of six layers (Ren et al. 2023; the other entries of its
# table 1 are lost in the text that we have).
PUBLISHED = {"kd": 81.6, "lgtm": 83.4}

ACCURACY, F1 = Measure("test_accuracy", 100, 1), Measure("test_f1", 100, 1)
ORDER = ("fine-tuned-teacher", *METHODS)

# LGTM whose influence term is left out.
UNTAUGHT = "prokt"

# Two samples whose influence is followed.
FOLLOWED = 2


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    columns = [
        Column("method", lambda group: evidence.marked(group, _evidence)),
        deviation("test accuracy %", ACCURACY),
        deviation("test F1 %", F1),
        Column("influence term, % of the rest", _term),
        tables.against(lambda g: UNTAUGHT if _taught(g) else None, f"against {UNTAUGHT}, points (95 %)", ACCURACY),
        tables.seeds(ACCURACY),
        tables.steps(ACCURACY),
        tables.seconds(ACCURACY),
        tables.published("the paper's average", PUBLISHED, 1),
    ]
    tests = [row for row in rows if row.task != "cost" and row.metric.startswith("test_")]
    parts = {title: grouped(part, ORDER) for title, part in tables.by(tests, tables.heading).items()}
    about, shown = "Mean ± standard deviation over seeds", ("method", "test accuracy %", "test F1 %", "seeds")
    sections = [
        Section.of(title, columns, groups, f"{about}{evidence.meaning(groups, _evidence)}.", shown)
        for title, groups in parts.items()
    ]
    drawn = {"curves": partial(_curves, tests), "influence": partial(_influence, tests)}
    captions = {"curves": "Students on dev as they are distilled: means over seeds"}
    report = Report("LGTM: distillation of text", [*sections, *_costs(rows)], drawn, rows, captions)
    report.unproven = evidence.unproven(parts, _taught, _evidence)
    return report


def _taught(group: Group) -> bool:
    """Whether the teacher follows influence."""
    return group.name.startswith("lgtm")


def _evidence(group: Group) -> evidence.Evidence | None:
    """The influence term, and the difference to the same without it."""
    return evidence_of(group, UNTAUGHT) if _taught(group) else None


def evidence_of(group: Group, untaught: str, measure: Measure = ACCURACY) -> evidence.Evidence | None:
    """The influence term, as a share of the rest of the teacher's gradient, and the difference to the same without.

    Args:
        group: a line whose teacher follows influence.
        untaught: the name of the line that is the same without influence.
        measure: what students are compared by.
    """
    logged = [[n["influence_ratio"] for _, n in r.data["logged"] if "influence_ratio" in n] for r in group.with_data]
    ratios = [float(np.mean(numbers)) for numbers in logged if numbers]
    if not ratios or not _taught(group):
        return None
    return evidence.Evidence(float(np.mean(ratios)), tables.difference(group, untaught, measure))


def _term(group: Group) -> str:
    shown = _evidence(group)
    return "" if shown is None else f"{100 * shown.moved:.2g}"


def _costs(rows: Sequence[Row]) -> list[Section]:
    costs = [row for row in rows if row.task == "cost"]
    if not costs:
        return []
    about = costs[0].config
    columns = [
        Column("matrix products", lambda group: group.config["matmul_precision"]),
        Column("influence", lambda group: group.first.method),
        number("seconds", "seconds", ".2f"),
        number("of finite differences", "time_ratio", ".2f"),
        number("extra memory, MB", "extra_bytes", ".0f", 1e-6),
        number("relative error", "relative_error", ".0e"),
    ]
    title = f"Influence of a batch of {about['batch_size']}, length {about['length']}, on {costs[0].student}"
    return [Section.of(title, columns, grouped(costs, key=lambda r: f"{r.config['matmul_precision']} {r.method}"))]


def _curves(rows: Sequence[Row]) -> Figure | None:
    """Draws students on dev as they are distilled, means over seeds; the studies' methods have panels of their own."""
    parts = tables.by(rows, lambda row: f"{row.task}, {row.student}" + ("" if row.method in TABLE else ": studies"))
    return series.curves(
        {title: grouped(panel_rows, ORDER) for title, panel_rows in parts.items()},
        "student steps",
        "student on dev, % (F1 where the task has it)",
        style=lambda group: "-" if group.name.startswith("lgtm") else "--",
        scale=(1, 100),
    )


def _influence(rows: Sequence[Row]) -> Figure | None:
    """Draws distillation influence as training goes on: its mean size over the watched samples, and two of them."""
    followed = [row for row in rows if row.data and row.data["influences"] and row.seed == 0]
    if not followed:
        return None
    figure, axes = style.panels(["mean |influence| of the watched samples", "two samples"])
    for color, row in zip(style.PALETTE[1:], followed, strict=False):
        places, values = [point[0] for point in row.data["curve"]], np.array(row.data["influences"], dtype=float)
        draw, label = partial(axes[1].plot, color=color, marker="o", markersize=3), f"{row.task}: {row.method}"
        axes[0].plot(places, np.abs(values).mean(1), "-o", color=color, markersize=3, label=label)
        # The two that moved most.
        for dashes, sample in zip(("-", "--"), np.argsort(-np.ptp(values, axis=0))[:FOLLOWED], strict=False):
            draw(places, values[:, sample], dashes, label=f"{label}, sample {sample}")
    axes[1].axhline(0, color=style.GREY, linewidth=0.7)
    for axis, y in zip(axes, ("influence on the loss of feedback", ""), strict=True):
        style.describe(axis, "student steps", y)
    return figure
