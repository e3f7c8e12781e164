"""Tables and figures of how well students imitate, from result rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.lot_images.imitation import KINDS
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Measure, Section, by, deviation, grouped, heading, in_precision, seeds
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = tuple(f"imitate:{kind}" for kind in KINDS)
_COLUMNS = {
    "knows its labels %": Measure("teacher_learned_accuracy", 100),
    "test accuracy %": Measure("teacher_test_accuracy", 100),
    "student's KL, training images": Measure("imitation_kl_train"),
    "test images": Measure("imitation_kl_test"),
}


def make(rows: Sequence[Row]) -> Report:
    """The report, with one table and one figure."""
    columns = [
        Column("teacher", lambda group: group.name.removeprefix("imitate:")),
        *(deviation(header, measure, ".3g", ".2g") for header, measure in _COLUMNS.items()),
        seeds(_COLUMNS["test images"]),
    ]
    about = f"Mean ± standard deviation over seeds{in_precision(rows)}."
    sections = [
        Section.of(f"{title}: who is easier to imitate?", columns, grouped(task_rows, ORDER), about)
        for title, task_rows in by(rows, heading).items()
    ]
    captions = {"imitation": "How far students are from the teachers that they imitate"}
    return Report("Learning from teaching: imitation", sections, {"imitation": partial(_figure, rows)}, rows, captions)


def _figure(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    figure, axes = style.panels(["training images", "test images"])
    for number, group in enumerate(grouped((row for row in rows if row.data), ORDER)):
        curves, label = [row.data for row in group.rows], f"{group.name.removeprefix('imitate:')} teacher"
        for axis, column in zip(axes, (1, 2), strict=True):
            series.curve(axis, curves, column=column, band="range", color=style.PALETTE[number], label=label)
    for axis, y in zip(axes, ("KL(teacher ‖ student), nats; band: all seeds", ""), strict=True):
        axis.set_yscale("log")
        style.describe(axis, "student steps", y)
    return figure
