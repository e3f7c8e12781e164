"""Tables and figures of attribution, from result rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.attribution.labels import METHODS as LABELS
from benchmarks.attribution.methods import METHODS
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import (
    Column,
    Group,
    Measure,
    Section,
    by,
    grouped,
    heading,
    interval,
    number,
    seeds,
)
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AUC = Measure("auc", digits=3)
_SHARES = {"lds_1": "LDS, 1 % left out", "lds_5": "5 %", "lds_20": "20 %", "lds_50": "50 %"}


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    parts = {title: grouped(of_task, (*METHODS, *LABELS)) for title, of_task in by(rows, heading).items()}
    attributed = {title: groups for title, groups in parts.items() if "rate" not in groups[0].config}
    noisy = {groups[0].first.task: groups for title, groups in parts.items() if title not in attributed}
    sections = [_section(title, groups) for title, groups in attributed.items()]
    sections += [_labels(task, groups) for task, groups in noisy.items()]
    drawn = {"lds": partial(_figure, attributed), "labels": partial(_bars, noisy)}
    captions = {"lds": "How well attribution predicts retraining", "labels": "How well wrong labels are found"}
    return Report("Data attribution", sections, drawn, rows, captions)


def _section(title: str, groups: Sequence[Group]) -> Section:
    config = groups[0].config
    text = (
        f"{config['horizon']} steps with minibatches of {config['batch_size']}, learning rate "
        f"{config['learning_rate']}, momentum {config['momentum']}; {config['tests']} tests, {config['retrainings']} "
        "retrainings for each share of samples left out. The last score is for other training runs: random halves, "
        "each with a seed of its own. Costs are in plain training runs, including those that a method needs beforehand."
    )
    columns = [
        Column("method", _name),
        *(interval(header, Measure(metric, digits=3)) for metric, header in _SHARES.items()),
        interval("50 %, other seeds", Measure("lds_50_other", digits=3)),
        number("cost of one test", "time_ratio_one", ".1f"),
        number("of all tests", "time_ratio", ".1f"),
        seeds(Measure("lds_1")),
    ]
    return Section.of(title, [*columns, *_remark(groups)], groups, text)


def _labels(task: str, groups: Sequence[Group]) -> Section:
    config = groups[0].config
    trusted = f"beside {config['trusted']} samples with right labels" if config["trusted"] else "no label is trusted"
    text = f"{config['samples']:,} samples, {config['rate']:.0%} wrong labels ({config['kind']} noise); {trusted}."
    columns = [
        Column("method", _name),
        interval("AUC", _AUC),
        interval("wrong among the first 100, %", Measure("precision_at_100", 100, 1)),
        interval("among as many as are wrong, %", Measure("precision_at_wrong", 100, 1)),
        Column("seconds", lambda group: f"{group.seconds('auc'):.0f}" if group.values("auc") else ""),
        seeds(_AUC),
    ]
    return Section.of(task, [*columns, *_remark(groups)], groups, text)


def _remark(groups: Sequence[Group]) -> list[Column]:
    """A column that says why methods have no numbers, if there are such methods."""
    return [Column("why there is none", _failure)] if any(map(_failure, groups)) else []


def _name(group: Group) -> str:
    trainings = group.config.get("trainings")
    return f"attribute, mean of {trainings} other training runs" if trainings else group.name


def _failure(group: Group) -> str:
    """Why a method has no score; empty if it has one."""
    reasons = [row.data["failed"] for row in group.rows if row.metric == "failed"]
    return str(reasons[-1]) if reasons and not (group.values("lds_1") or group.values("auc")) else ""


def _figure(parts: dict[str, list[Group]]) -> Figure | None:
    """The score against the share of samples left out, a panel for each training run."""
    if not any(group.values("lds_1") for groups in parts.values() for group in groups):
        return None
    scored = {title: [group for group in groups if group.values("lds_1")] for title, groups in parts.items()}
    shown = series.parted(scored)
    looks = style.distinct([[group.name for group in groups] for _, _, groups in shown])
    figure, axes = series.parted_panels(shown)
    for axis, (_, _, groups) in zip(axes, shown, strict=True):
        for group in groups:
            values = [float(np.mean(list(group.values(metric).values()))) for metric in _SHARES]
            axis.plot([1, 5, 20, 50], values, label=style.as_it_is(group.name), **looks[group.name].line("o"))
        axis.set_xscale("log")
        axis.set_xticks([1, 5, 20, 50], ["1", "5", "20", "50"])
        axis.minorticks_off()
        axis.set_ylim(-0.2, 1.02)
        style.describe(axis, "samples left out, %", "LDS, training runs of the same seed")
    return figure


def _bars(parts: dict[str, list[Group]]) -> Figure | None:
    """The area under the curve of each method, a panel for each task."""
    if not any(group.values("auc") for groups in parts.values() for group in groups):
        return None
    figure, axes = series.bar_panels(list(parts), list(parts.values()))
    for axis, groups in zip(axes, parts.values(), strict=True):
        series.bars(axis, groups, _AUC, lambda group: style.Look(style.PALETTE[1]))
        style.describe(axis, "ROC AUC for wrong labels")
    return figure
