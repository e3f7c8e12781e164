"""Tables and figures of attribution, from result rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.attribution.methods import METHODS
from teachenv.experiment import figures
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Measure, Section, by, grouped, heading, interval, number, seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARES = {"lds_1": "LDS, 1 % left out", "lds_5": "5 %", "lds_20": "20 %", "lds_50": "50 %"}


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    parts = by(rows, heading)
    sections = [_section(title, grouped(of_task, METHODS)) for title, of_task in parts.items()]
    drawn = {"lds": partial(_figure, {title: grouped(of_task, METHODS) for title, of_task in parts.items()})}
    return Report("Data attribution", sections, drawn, rows, {"lds": "How well attribution foretells retraining"})


def _section(title: str, groups: Sequence[Group]) -> Section:
    config = groups[0].config
    text = (
        f"{config['horizon']} steps with minibatches of {config['batch_size']}, learning rate "
        f"{config['learning_rate']}, momentum {config['momentum']}; {config['tests']} tests, {config['retrainings']} "
        "retrainings for each share of samples left out. The last score is of other trainings: random halves, each "
        "with a seed of its own. Costs are in plain trainings, those that a method needs beforehand included."
    )
    columns = [
        Column("method", _name),
        *(interval(header, Measure(metric)) for metric, header in _SHARES.items()),
        interval("50 %, other seeds", Measure("lds_50_other")),
        number("cost of one test", "time_ratio_one", ".1f"),
        number("of all tests", "time_ratio", ".1f"),
        seeds(Measure("lds_1")),
    ]
    if any(map(_failure, groups)):
        columns.append(Column("why there is none", _failure))
    return Section.of(title, columns, groups, text)


def _name(group: Group) -> str:
    trainings = group.config.get("trainings")
    return f"attribute, mean of {trainings} other trainings" if trainings else group.name


def _failure(group: Group) -> str:
    """Why a method has no score; empty if it has one."""
    reasons = [row.data["failed"] for row in group.rows if row.metric == "failed"]
    return str(reasons[-1]) if reasons and not group.values("lds_1") else ""


def _figure(parts: dict[str, list[Group]]) -> Figure | None:
    """The score against the share of samples left out, a panel for each training."""
    if not any(group.values("lds_1") for groups in parts.values() for group in groups):
        return None
    figure, axes = figures.panels(list(parts), (4.6, 4.0))
    names = list(METHODS)
    for axis, groups in zip(axes, parts.values(), strict=True):
        for group in groups:
            if group.values("lds_1"):
                values = [float(np.mean(list(group.values(metric).values()))) for metric in _SHARES]
                color = figures.color(names.index(group.name))
                axis.plot([1, 5, 20, 50], values, "-o", markersize=3, color=color, label=_name(group))
        axis.set_xscale("log")
        axis.set_xticks([1, 5, 20, 50], ["1", "5", "20", "50"])
        axis.minorticks_off()
        axis.set_ylim(-0.2, 1.02)
        figures.describe(axis, "samples left out, %", "LDS, trainings of the same seed")
    return figure
