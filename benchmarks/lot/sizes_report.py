"""Tables and figures of learning from teaching by the size of students, from result rows alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.lot.report import BASELINE, TERM_SHARE, evidence_of, in_words, measure_of, name_of, tasks_of, unproven
from benchmarks.lot.sizes import ORDINARY
from teachenv.experiment import evidence, tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.statistics import bootstrap_interval
from teachenv.experiment.tables import Column, Group, Measure, Section, deviation, difference, grouped
from teachenv.plot import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOT, _WATCHED = "lot:size-", "watched:size-"
_COLORS = style.PALETTE[1:3]
_UNIFORM = Measure("uniform_kl_valid", digits=4)
_KL = {split: Measure(f"student_kl_{split}", digits=4) for split in ("train", "valid")}


def make(rows: Sequence[Row], name: str, order: Sequence[str]) -> Report:
    """The report of a benchmark of this name.

    Args:
        rows: those of the training runs, without what tuned them.
        name: the benchmark's.
        order: names of what is compared.
    """
    tasks = tasks_of(rows)
    sections = [_section(task_rows, order) for task_rows in tasks.values()]
    captions = {
        "sizes": "Test by the size of LoT's student, against the model that is trained alone: means and 95 % intervals "
        "over pairs of one seed. Above 0 is better. Dashed: what is the best on validation data without a student",
        "sizes_kl": "How far students of each size are from their models at the end, on validation data: means and "
        "95 % intervals over seeds",
    }
    drawn = {"sizes": partial(_gains, tasks, order), "sizes_kl": partial(_distances, tasks, order)}
    report = Report(f"Learning from teaching by the size of students: {name}", sections, drawn, rows, captions)
    report.unproven = unproven(tasks, order)
    return report


def share_of(group: Group) -> float | None:
    """The share of the model's parameters that the line's student really has; None: it has no student."""
    parameters: list[int] = next((row.data.get("parameters", []) for row in group.rows if row.data), [])
    return parameters[1] / parameters[0] if len(parameters) > 1 else None


def _section(rows: Sequence[Row], order: Sequence[str]) -> Section:
    test = measure_of(rows)
    last, taught = replace(test, metric=f"last_{test.metric}"), evidence_of(test)
    groups = [group for group in grouped(rows, order) if group.of(test.metric)]
    best = _best_ordinary(groups, _on_dev(test))
    columns = [
        Column("method", lambda group: evidence.marked(group, taught)),
        Column("student's share", lambda group: f"{share:.2g}" if (share := share_of(group)) else ""),
        tables.interval(f"test {name_of(test)}, best epoch", test),
        tables.against(BASELINE, f"against {BASELINE} [95 %]", test),
        tables.interval("last epoch", last),
        tables.against(BASELINE, f"last epoch, against {BASELINE} [95 %]", last),
        *(() if best is None else (tables.against(best, f"best epoch, against {best} [95 %]", test),)),
        deviation("its student's score", Measure(f"student_{test.metric}", test.scale)),
        deviation("student's KL, training data", _KL["train"], ".3g", ".2g"),
        deviation("validation data", _KL["valid"], ".3g", ".2g"),
        Column("KL from a model trained alone, validation data", _watched),
        deviation("the model's KL from uniform, validation data", _UNIFORM, ".3g", ".2g"),
        TERM_SHARE,
        tables.seeds(test),
        tables.steps(test, "steps, model and student"),
        Column("selected settings", lambda group: in_words(group.config)),
    ]
    shown = [group for group in groups if not group.name.startswith(_WATCHED)]
    text = (
        "Each line was tuned on validation data, in equally many training runs. Mean over seeds with a bootstrap\n"
        "interval; mean difference over pairs of one seed, with Student's interval. The best epoch is that on\n"
        "validation data. KL in nats is that of the student from the model at the end; beside it stands that of a\n"
        "student of a model that is trained alone (α = 0). The model's KL from the uniform distribution says how much\n"
        f"there is to imitate{_alone(groups)}{tables.in_precision(rows)}{evidence.meaning(shown, taught)}."
    )
    return Section.of(tables.heading(groups[0].first), columns, shown, text, shown=4)


def _on_dev(test: Measure) -> Measure:
    """The same measure on validation data."""
    return replace(test, metric=test.metric.replace("test_", "valid_"))


def _best_ordinary(groups: Sequence[Group], valid: Measure) -> str | None:
    """The line of `ORDINARY` that is the best on validation data; None: there is none."""
    means = {g.name: float(np.mean(list(valid.values(g).values()))) for g in groups if g.name in ORDINARY}
    return (max if valid.metric == "valid_accuracy" else min)(means, key=means.__getitem__, default=None)


def _alone(groups: Sequence[Group]) -> str:
    """What there is to imitate in a model that is trained alone, in words; empty if nobody watched one."""
    watched = next((group for group in groups if group.name.startswith(_WATCHED) and _UNIFORM.values(group)), None)
    return "" if watched is None else f"; it is {deviation('', _UNIFORM, '.3g', '.2g').cell(watched)} of a model alone"


def _watched(group: Group) -> str:
    other = group.beside.get(group.name.replace(_LOT, _WATCHED))
    return "" if other is None or other is group else deviation("", _KL["valid"], ".3g", ".2g").cell(other)


def _gains(tasks: Mapping[str, Sequence[Row]], order: Sequence[str]) -> Figure | None:
    """Draws the gain by the student's share at the best and at the last epoch, beside the best without a student."""

    def panel(axis: Any, groups: Mapping[str, Group], rows: Sequence[Row]) -> None:
        test = measure_of(rows)
        better = 1 if test.metric == "test_accuracy" else -1
        name = _best_ordinary(list(groups.values()), _on_dev(test))
        for number, (which, label) in enumerate((("", "best epoch"), ("last_", "last epoch"))):
            measure = replace(test, metric=which + test.metric, scale=better * test.scale)
            gains = _by_share(groups, _LOT, lambda group, m=measure: difference(group, BASELINE, m))  # type: ignore[misc]
            points = [(share, gain.mean, gain.low, gain.high) for share, gain in gains]
            _draw(axis, points, number, f"LoT, {label}")
            beside = None if name is None else difference(groups[name], BASELINE, measure)
            if beside is not None:
                line = {"color": _COLORS[number], "linestyle": "--", "linewidth": 1}
                axis.axhline(beside.mean, label=f"{name}, {label}", **line)
        axis.axhline(0.0, color="black", linewidth=0.6)
        unit = "points of accuracy" if better > 0 else "perplexity, less is above"
        style.describe(axis, "student's share of the model's parameters", f"gain over {BASELINE}, {unit}")

    return _panels(tasks, order, panel)


def _distances(tasks: Mapping[str, Sequence[Row]], order: Sequence[str]) -> Figure | None:
    """Draws students' distances from LoT's models, and from models that are trained alone, by the student's share."""

    def panel(axis: Any, groups: Mapping[str, Group], rows: Sequence[Row]) -> None:
        for number, (kind, label) in enumerate(((_LOT, "from LoT's model"), (_WATCHED, "from a model trained alone"))):
            distances = _by_share(groups, kind, lambda group: list(_KL["valid"].values(group).values()) or None)
            points = [(share, float(np.mean(values)), *_interval(values)) for share, values in distances]
            _draw(axis, points, number, label)
        axis.set_yscale("log")
        style.describe(axis, "student's share of the model's parameters", "KL at the end, validation data, nats")

    return _panels(tasks, order, panel)


def _panels(
    tasks: Mapping[str, Sequence[Row]],
    order: Sequence[str],
    draw: Callable[[Any, Mapping[str, Group], Sequence[Row]], None],
) -> Figure | None:
    """Draws a panel for each task."""
    from matplotlib.ticker import NullLocator

    if not tasks:
        return None
    figure, axes = style.panels(list(tasks))
    for axis, rows in zip(axes, tasks.values(), strict=True):
        axis.set_xscale("log", base=4)
        axis.xaxis.set_major_formatter(lambda share, _: str(Fraction(share).limit_denominator(4096)))
        axis.xaxis.set_minor_locator(NullLocator())
        draw(axis, {group.name: group for group in grouped(rows, order)}, rows)
    return figure


def _by_share(groups: Mapping[str, Group], kind: str, of: Callable[[Group], Any]) -> list[tuple[float, Any]]:
    """What there is of each line of a kind, by the share of its student, from small to large."""
    lines = [group for name, group in groups.items() if name.startswith(kind)]
    pairs = [(share, value) for group in lines if (share := share_of(group)) and (value := of(group)) is not None]
    return sorted(pairs, key=lambda pair: pair[0])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    return bootstrap_interval(values) if len(values) > 1 else (values[0], values[0])


def _draw(axis: Any, points: Sequence[tuple[float, float, float, float]], number: int, label: str) -> None:
    if points:
        shares, means, low, high = map(np.array, zip(*points, strict=True))
        look = {**style.Look(_COLORS[number]).line("o"), "capsize": 2}
        # A little apart, so that intervals do not hide each other.
        axis.errorbar(shares * 1.1**number, means, [means - low, high - means], label=label, **look)
