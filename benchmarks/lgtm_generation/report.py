"""Table and figures of the distillation of translation, from result rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.lgtm.rates import untaught
from benchmarks.lgtm.rates_report import best_control, losses
from benchmarks.lgtm.report import evidence_of
from benchmarks.lgtm_generation.lines import lines
from teachenv.experiment import evidence, tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Measure, Section, grouped
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLEU, _DEV = Measure("test_bleu", 100, 2), Measure("dev_bleu", 100, 2)
_ORDER = tuple(lines(0.0))


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows that judge."""
    shown = [row for row in rows if row.metric in (BLEU.metric, _DEV.metric)]
    parts = {title: grouped(part, _ORDER) for title, part in tables.by(shown, tables.heading).items()}
    figures = {"bleu": partial(_bleu, parts), "loss": partial(_loss, parts)}
    captions = {
        "bleu": "BLEU of students on test: a dot for each seed, means with 95 % intervals",
        "loss": "Cross-entropy of students on dev, nats a token, as they are distilled: means over seeds",
    }
    sections = [_section(title, groups) for title, groups in parts.items()]
    report = Report("LGTM for generation: distillation of translation", sections, figures, rows, captions)
    report.unproven = evidence.unproven(parts, lambda group: untaught(group.name) is not None, _evidence)
    return report


def _section(title: str, groups: Sequence[Group]) -> Section:
    control = best_control(groups, _DEV)
    columns = [
        Column("method", lambda group: evidence.marked(group, _evidence)),
        tables.interval("test BLEU [95 %]", BLEU),
        tables.against(lambda group: _baseline(group.name), "against cross-entropy or ProKT [95 %]", BLEU),
        tables.against(lambda group: control if untaught(group.name) else None, "against the best control", BLEU),
        Column("influence term, % of the rest", _term),
        Column("dev loss, lowest → last", losses),
        Column("teacher's dev BLEU, first → last", _teachers),
        Column("chosen", lambda group: ", ".join(f"{n} {v}" for n, v in tables.leaves(_chosen(group)))),
        tables.seeds(BLEU),
        tables.steps(BLEU),
        tables.seconds(BLEU),
    ]
    best = "" if control is None else f" ({control})"
    text = (
        "Means over seeds with a bootstrap interval, each student at its best evaluation on dev; mean differences\n"
        "over pairs of one seed with Student's interval: LGTM's lines from ProKT with the same minibatches and\n"
        "teacher, the others from the student alone; and from the line without influence that is best on\n"
        f"dev{best}. BLEU is sacrebleu's, of greedy translations{evidence.meaning(groups, _evidence)}."
    )
    return Section.of(title, columns, groups, text, shown=5)


def _baseline(name: str) -> str | None:
    """The line that differs in influence alone; without influence the student alone."""
    return untaught(name) or ("cross-entropy" if name != "cross-entropy" else None)


def _evidence(group: Group) -> evidence.Evidence | None:
    """The influence term, and the difference from ProKT with the same minibatches and teacher."""
    baseline = untaught(group.name)
    return None if baseline is None else evidence_of(group, baseline, BLEU)


def _term(group: Group) -> str:
    shown = _evidence(group)
    return "" if shown is None else f"{100 * shown.moved:.3g}"


def _chosen(group: Group) -> Mapping[str, float]:
    """The student's rate, and the other number by its name."""
    chosen = group.config["tuned"]
    return {"rate": chosen["student_rate"], chosen["option"].replace("_", " "): chosen["value"]}


def _teachers(group: Group) -> str:
    """BLEU of the teachers on dev at the first evaluation and the last; of fixed ones once."""
    teachers = [(row.data["curve"][0][2], row.data["curve"][-1][2]) for row in group.with_data]
    if not teachers or teachers[0][0] is None:
        return ""
    first, last = 100 * np.mean(teachers, axis=0)
    return f"{first:.1f}" if first == last else f"{first:.1f} → {last:.1f}"


def _bleu(parts: Mapping[str, Sequence[Group]]) -> Figure | None:
    """Draws BLEU on test by method, with a dot for each seed: a panel for each student."""
    if not parts:
        return None
    figure, axes = series.bar_panels([groups[0].first.student for groups in parts.values()], list(parts.values()))
    looks = style.distinct([[group.name for group in groups] for groups in parts.values()])
    for axis, groups in zip(axes, parts.values(), strict=True):
        series.bars(axis, groups, BLEU, lambda group: looks[group.name])
        style.describe(axis, "BLEU on test")
    return figure


def _loss(parts: Mapping[str, Sequence[Group]]) -> Figure | None:
    """Draws the loss on dev over steps."""
    return series.curves(
        {groups[0].first.student: groups for groups in parts.values()},
        "student steps",
        "cross-entropy on dev",
        lambda group: [[point[:2] for point in row.data["measured"]] for row in group.with_data],
        style=lambda group: "-" if untaught(group.name) else "--",
    )
