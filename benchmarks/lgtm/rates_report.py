"""What the study of the influence term's factor shows, from result rows alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.lgtm.methods import ALONE
from benchmarks.lgtm.rates import FOLLOWED, MODES, RATES, SHARES, influenced, lines, mixed, untaught
from benchmarks.lgtm.report import ACCURACY, evidence_of
from teachenv.experiment import evidence, tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.statistics import bootstrap_interval
from teachenv.experiment.tables import Column, Group, Measure, Section, grouped
from teachenv.plot import style
from teachenv.plot.series import Curve, curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = lines()
_DEV = Measure("dev_accuracy", 100, 1)

# Lines whose losses on dev, and whose entropies, are drawn.
_LOSSES = ("cross-entropy", "kd", "prokt", FOLLOWED, "lgtm:released-1", "lgtm:reweight-1")
_GAPS = tuple(f"{name}{way}" for way in ("", ":student-first", ":fine-tuned") for name in ("prokt", FOLLOWED))
_FORETOLD = ("cross-entropy", "prokt", FOLLOWED)


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows that judge."""
    tests = [row for row in rows if row.metric in ("test_accuracy", "dev_accuracy")]
    parts = {title: grouped(part, _LINES) for title, part in tables.by(tests, tables.heading).items()}
    sections = [_section(title, groups) for title, groups in parts.items()]
    figures = {"rates": partial(_rates, parts), "rates_on_the_way": partial(_on_the_way, parts)}
    captions = {
        "rates": "Students on test by the factor of the influence term: means over seeds with 95 % intervals",
        "rates_on_the_way": "Students on dev, with its right labels, as they are distilled: means over seeds",
    }
    report = Report("LGTM: the factor of its influence term", sections, figures, rows, captions)
    report.unproven = evidence.unproven(parts, lambda group: untaught(group.name) is not None, _evidence)
    return report


def _section(title: str, groups: Sequence[Group]) -> Section:
    control = best_control(groups, _DEV)
    columns = [
        Column("method", lambda group: evidence.marked(group, _evidence)),
        tables.interval("test accuracy % [95 %]", ACCURACY),
        tables.against(lambda group: untaught(group.name), "against ProKT, points [95 %]", ACCURACY),
        tables.against(
            lambda group: control if untaught(group.name) else None, "against the best control [95 %]", ACCURACY
        ),
        Column("influence term, % of the rest", _term),
        Column("loss on dev, lowest → last", losses),
        Column("rates", _chosen),
        tables.seeds(ACCURACY),
        tables.steps(ACCURACY),
        tables.seconds(ACCURACY),
    ]
    best = "" if control is None else f" ({control})"
    text = (
        "Mean over seeds with a bootstrap interval, each student at its best evaluation on dev; mean differences over\n"
        "pairs of one seed with Student's interval: from ProKT with the same minibatches, and from the control that\n"
        f"is best on dev{best}. The loss is measured with dev's right labels, which select nothing; rates are the\n"
        f"student's and the teacher's{evidence.meaning(groups, _evidence)}."
    )
    return Section.of(title, columns, groups, text, shown=5)


def best_control(groups: Sequence[Group], dev: Measure) -> str | None:
    """The line without influence that is best on dev, by a measure; None: there is none."""
    controls = [group for group in groups if untaught(group.name) is None and dev.values(group)]
    best = max(controls, key=lambda group: float(np.mean(list(dev.values(group).values()))), default=None)
    return None if best is None else best.name


def _evidence(group: Group) -> evidence.Evidence | None:
    """The influence term, and the difference from ProKT with the same minibatches, order and teacher."""
    baseline = untaught(group.name)
    return None if baseline is None else evidence_of(group, baseline)


def _term(group: Group) -> str:
    shown = _evidence(group)
    return "" if shown is None else f"{100 * shown.moved:.3g}"


def _chosen(group: Group) -> str:
    """The student's rate, and the teacher's if there is one."""
    chosen = group.config["tuned"]
    alone = _LINES[group.name].distiller == ALONE
    return f"{chosen['student_rate']:g}" + ("" if alone else f" and {chosen['teacher_rate']:g}")


def losses(group: Group) -> str:
    """The least loss on dev, and that at the end, of the mean over seeds."""
    losses_of_seeds = np.array([[point[1] for point in row.data["measured"]] for row in group.with_data])
    return f"{losses_of_seeds.mean(0).min():.3f} → {losses_of_seeds.mean(0)[-1]:.3f}" if losses_of_seeds.size else ""


def _rates(parts: Mapping[str, Sequence[Group]]) -> Figure | None:
    """Draws LGTM's modes over the factor, beside the controls: a panel for each task, without and with mixing."""
    shown = [
        (title, groups, share)
        for title, groups in parts.items()
        for share in (0.0, SHARES[0])
        if any(untaught(group.name) and group.config.get("mixed", 0.0) == share for group in groups)
    ]
    if not shown:
        return None
    names = ["0", *("η" if isinstance(rate, str) else f"{rate:g}" for rate in RATES)]
    figure, axes = style.panels(
        [f"{groups[0].first.task}{f', {100 * share:g} % feedback' if share else ''}"
         for _, groups, share in shown]
    )  # fmt: skip
    for axis, (_, groups, share) in zip(axes, shown, strict=True):
        by_name = {group.name: group for group in groups}

        def named(name: str, share: float = share) -> str:
            return mixed(name, share) if share else name

        for number, mode in enumerate(MODES):
            line = [named("prokt"), *(named(influenced(mode, rate)) for rate in RATES)]
            # Beside one another, so that no interval hides another.
            places = [place + 0.1 * (number - 1) for place in range(len(line))]
            placed = [(place, by_name[name]) for place, name in zip(places, line, strict=True) if name in by_name]
            _with_intervals(axis, placed, color=style.PALETTE[1 + number], label=f"LGTM, {mode}")
        controls = [named("cross-entropy"), named("kd"), *([] if share else ["kd:teacher-of-feedback"])]
        for dashes, name in zip(("--", ":", "-."), controls, strict=False):
            if name in by_name and ACCURACY.values(by_name[name]):
                middle = float(np.mean(list(ACCURACY.values(by_name[name]).values())))
                axis.axhline(middle, color=style.PALETTE[0], linestyle=dashes, linewidth=1.2, label=name)
        axis.set_xticks(range(len(names)), names, fontsize=style.SMALL)
        style.describe(axis, "factor of the influence term (0: ProKT; η: the teacher's rate)", "test accuracy, %")
    return figure


def _with_intervals(axis: Any, placed: Sequence[tuple[float, Group]], **look: Any) -> None:
    points = [(place, list(ACCURACY.values(group).values())) for place, group in placed]
    points = [(place, values) for place, values in points if values]
    middles = np.array([np.mean(values) for _, values in points])
    ends = np.array([bootstrap_interval(values) if len(values) > 1 else (np.mean(values),) * 2 for _, values in points])
    if points:
        errors = np.abs(ends.T - middles)
        axis.errorbar([place for place, _ in points], middles, errors, marker="o", markersize=4, capsize=2, **look)


@dataclass(frozen=True)
class _Panel:
    """What is drawn of each task's students as they are distilled.

    Attributes:
        title: what the panel shows.
        y: the name of its upright axis.
        names: the lines.
        curve: takes a row's data to a curve.
    """

    title: str
    y: str
    names: Sequence[str]
    curve: Callable[[Mapping[str, Any]], Curve]


_PANELS = (
    _Panel("loss on dev", "cross-entropy", _LOSSES, lambda data: data["measured"]),
    _Panel(
        "entropy, student's less teacher's",
        "nats",
        _GAPS,
        lambda data: [(step, student - teacher) for step, _, student, _, teacher in data["measured"]],
    ),
    _Panel(
        "predictions",
        "probability of the right label",
        _FORETOLD,
        lambda data: [
            (point[0], float(np.mean(shown)))
            for point, shown in zip(data["measured"], data["predictions"], strict=True)
        ],
    ),
)


def _on_the_way(parts: Mapping[str, Sequence[Group]]) -> Figure | None:
    """Draws losses, gaps of entropy and predictions over steps: a line of panels for each task."""
    if not parts:
        return None
    titles = [f"{groups[0].first.task}: {panel.title}" for groups in parts.values() for panel in _PANELS]
    figure, axes = style.panels(titles)
    places = iter(axes)
    looks = style.distinct([panel.names for panel in _PANELS])
    for groups in parts.values():
        by_name = {group.name: group for group in groups}
        for panel in _PANELS:
            axis = next(places)
            for name in panel.names:
                if name in by_name and by_name[name].with_data:
                    curves = [panel.curve(row.data) for row in by_name[name].with_data]
                    curve(axis, curves, label=name, band="interval", **looks[name].line())
            style.describe(axis, "student steps", panel.y)
    return figure
