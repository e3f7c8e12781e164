"""Tables and figure of DACBench beside this library, from result rows alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import METHOD, Column, Group, Measure, Section, by, deviation, grouped, number
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = 10.0
"""How many times as fast as DACBench's environment many students should be, in student steps per second."""

CONTENDERS: Mapping[str, str] = {
    "dacbench": "DACBench",
    "plain": "plain loop, data as tensors",
    "single": "TeachEnv",
    "vector": "TeachVectorEnv",
}
"""Whose speed is measured, by the beginning of the metric's name."""

_HOLDS = Column("an action holds for", lambda group: f"one {group.first.method}")
_STUDENT = Column("student", lambda group: group.first.student)


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    parts = by(rows, lambda row: str(row.config["measurement"]))
    sections = [
        *_trajectories(parts.get("trajectory", [])),
        *_speeds(parts.get("speed", [])),
        *_baselines(parts.get("baseline", [])),
    ]
    captions = {"speed": "Student steps per second: a dot for each repetition, their mean and its 95 % interval"}
    return Report(
        "DACBench's SGD environment", sections, {"speed": partial(_figure, parts.get("speed", []))}, rows, captions
    )


def lines(rows: Sequence[Row]) -> list[Group]:
    """A group for each case, with its repetitions."""
    return grouped(rows, key=lambda row: repr((row.dataset, row.student, row.method, sorted(row.config.items()))))


_IMAGES = Column("training images", lambda group: f"{group.config['train']:,}")


def _where(rows: Sequence[Row]) -> str:
    data = " and ".join(by(rows, lambda row: row.dataset))
    return f"{data}; a fifth of the training images is for validation; minibatches of {rows[0].config['batch_size']}"


def _trajectories(rows: Sequence[Row]) -> list[Section]:
    if not rows:
        return []
    names = {"parameters": "parameter", "loss": "training loss", "validation_loss": "validation loss"}
    columns = [
        _STUDENT,
        _HOLDS,
        Column("actions", lambda group: str(group.config["actions"])),
        *(
            number(f"difference in {what}", f"{name}_difference", ".0e", statistic=max)
            for name, what in {**names, "test_loss": "reward"}.items()
        ),
    ]
    text = f"The largest difference from DACBench after any action of any seed ({_where(rows)})."
    return [Section.of("The same trajectories", columns, lines(rows), text)]


def _speeds(rows: Sequence[Row]) -> list[Section]:
    if not rows:
        return []
    columns = [
        _STUDENT,
        _HOLDS,
        _IMAGES,
        *(Column(f"{name}, steps/s", partial(_speed, contender=key)) for key, name in CONTENDERS.items()),
        Column("students at once", lambda group: str(group.config["students"])),
        Column("TeachVectorEnv / DACBench", lambda group: _range(group, "vector_speedup")),
        Column(f"target: {TARGET:g}", verdict),
        number("TeachEnv / DACBench", "single_speedup", ".1f"),
        number("plain loop / DACBench", "plain_speedup", ".1f"),
        Column("TeachVectorEnv / plain loop", lambda group: _range(group, "vector_over_plain")),
    ]
    text = (
        f"Student steps per second, validation after each action included ({_where(rows)}); contenders take turns, "
        "medians over repetitions, in brackets their range."
    )
    return [Section.of("Speed", columns, lines(rows), text)]


def _speed(group: Group, contender: str) -> str:
    values = list(group.values(f"{contender}_steps_per_second").values())
    if not values:
        return ""
    median = statistics.median(values)
    return f"{median:,.0f}" if median >= 100 else f"{median:.2g}"


def _range(group: Group, metric: str) -> str:
    values = list(group.values(metric).values())
    return f"{statistics.median(values):.1f} [{min(values):.1f}, {max(values):.1f}]" if values else ""


def verdict(group: Group) -> str:
    """Whether many students at once are as much faster than DACBench as they should be."""
    values = list(group.values("vector_speedup").values())
    return ("reached" if statistics.median(values) >= TARGET else "missed") if values else ""


def _baselines(rows: Sequence[Row]) -> list[Section]:
    if not rows:
        return []
    loss, accuracy = Measure("test_loss", digits=4), Measure("test_accuracy", 100, 2)
    columns = [
        METHOD,
        deviation("test loss", loss),
        deviation("in DACBench", replace(loss, metric="dacbench_test_loss")),
        deviation("test accuracy %", accuracy),
        deviation("in DACBench", replace(accuracy, metric="dacbench_test_accuracy")),
        Column("seeds", lambda group: str(len(group.values(loss.metric)))),
    ]
    text = f"After {rows[0].config['actions']} epochs ({_where(rows)}), means over seeds ± standard deviations."
    return [Section.of("Its baselines on both", columns, grouped(rows), text)]


def _figure(rows: Sequence[Row]) -> Figure | None:
    """Student steps per second, a panel for each network and time that actions hold for."""
    panels = by(rows, lambda row: f"{row.student}, by {row.method}, {row.config['train']:,} images")
    parts = [_contenders(part) for part in panels.values()]
    if not parts:
        return None
    figure, axes = series.bar_panels(list(panels), parts)
    looks = dict(zip(CONTENDERS.values(), map(style.Look, style.PALETTE), strict=False))
    for axis, groups in zip(axes, parts, strict=True):
        series.bars(
            axis, groups, Measure("steps_per_second", digits=2), lambda group: looks[group.name], logarithmic=True
        )
        style.describe(axis, "student steps per second")
    return figure


def _contenders(rows: Sequence[Row]) -> list[Group]:
    """A group for each contender."""
    end = "_steps_per_second"
    speeds = [row for row in rows if row.metric.endswith(end)]
    called = [replace(row, method=CONTENDERS[row.metric.removesuffix(end)], metric=end[1:]) for row in speeds]
    return grouped(called, CONTENDERS.values())
