"""Tables and figures of L2T-DLF on translation, from result rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.l2t_dlf_translation.methods import METHODS
from teachenv.experiment import evidence, tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Measure, Section, deviation, grouped
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# BLEU on IWSLT-14 De-En (Wu et al. 2018, Table 3), by student and method; its LSTMs learn by SGD.
PUBLISHED = {
    "lstm-1": {
        "cross-entropy": 27.28, "rl": 27.53, "actor-critic": 27.75, "softmax-margin": 28.12, "l2t-dlf:sigmoid": 29.52,
    },
    "lstm-2": {
        "cross-entropy": 30.86, "rl": 31.03, "actor-critic": 31.21, "softmax-margin": 31.22, "l2t-dlf:sigmoid": 31.75,
    },
    "transformer-6": {
        "cross-entropy": 34.01, "rl": 34.32, "actor-critic": 34.34, "softmax-margin": 34.46, "l2t-dlf:sigmoid": 34.80,
    },
}  # fmt: skip

BLEU, DEV = Measure("test_bleu", 100), Measure("dev_bleu", 100)


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    final = [row for row in rows if row.config["stage"] == "training" and row.method in METHODS]
    parts = tables.by(final, lambda row: (row.task, row.student))
    sections = [section for part in parts.values() for section in _sections(part)]
    # By student, as the tables are.
    ordered = [row for part in parts.values() for group in grouped(part, METHODS) for row in group.rows]
    drawn = {"bleu": partial(_bars, parts), "coefficients": partial(_coefficients, ordered)}
    captions = {"bleu": "Test BLEU of each method", "coefficients": "Coefficients of tokens along the training"}
    report = Report("L2T-DLF: taught losses for translation", sections, drawn, rows, captions)
    report.unproven = [
        f"{tables.heading(part[0])}: {group.name}"
        for part in parts.values()
        for group in grouped(part, METHODS)
        if _untaught(group) is not None and _evidence(group) is None
    ]
    return report


def _sections(rows: Sequence[Row]) -> list[Section]:
    """A student's scores, and what its teachers decided to emphasise, of the first seed."""
    student = rows[0].student
    columns = [
        Column("method", lambda group: evidence.marked(group, _evidence)),
        deviation("test BLEU, greedy", BLEU),
        deviation("beam of 5", Measure("test_bleu_beam", 100)),
        tables.against("cross-entropy", "greedy against cross-entropy (95 %, paired t)", BLEU),
        evidence.share("change by the teacher, % mean (max)", evidence.MOVED, _untaught, evidence.MOVED_MOST),
        tables.against(_untaught, "dev BLEU against the untaught loss (95 %)", DEV),
        deviation("token accuracy %", Measure("test_token_accuracy", 100)),
        tables.seeds(BLEU),
        tables.steps(BLEU),
        tables.seconds(BLEU),
        Column("the paper's BLEU (IWSLT-14)", lambda group: _published(student, group.name)),
    ]
    groups = grouped(rows, METHODS)
    about = (
        f"Mean ± standard deviation over seeds. BLEU: {rows[0].versions['bleu']}{evidence.meaning(groups, _evidence)}."
    )
    tokens = [
        Section(
            text=f"Coefficients of tokens under {group.name}, {student}:",
            header=("student step", "largest coefficients", "smallest"),
            body=[(str(step), *map(_listed, extremes)) for step, *extremes in row.data["tokens"]],
        )
        for group in groups
        for row in group.with_data
        if row.seed == 0
    ]
    return [Section.of(tables.heading(rows[0]), columns, groups, about, shown=4), *tokens]


def _untaught(group: Group) -> str | None:
    """The name of the same loss without a teacher, if the group has one."""
    return METHODS[group.name].untaught


_evidence = evidence.beside(_untaught, evidence.MOVED, DEV)


def _published(student: str, method: str) -> str:
    taught = method.replace("l2t-dlf:sgd", "l2t-dlf:sigmoid").removesuffix(":sgd")
    number = PUBLISHED.get(student, {}).get(taught)
    return "" if number is None else f"{number:.2f}"


def _listed(tokens: Mapping[str, float]) -> str:
    return ", ".join(f"`{token}` {value:.2f}" for token, value in tokens.items())


def _bars(parts: Mapping[Any, Sequence[Row]]) -> Figure | None:
    """Test BLEU by method, with each seed."""
    if not parts:
        return None
    groups = [grouped(rows, METHODS) for rows in parts.values()]
    figure, axes = series.bar_panels([f"{rows[0].student} ({rows[0].dataset})" for rows in parts.values()], groups)
    for axis, shown in zip(axes, groups, strict=True):
        series.bars(axis, shown, BLEU, lambda group: style.Look(style.PALETTE[1]))
        style.describe(axis, "test BLEU, greedy (dots: seeds)")
    return figure


def _coefficients(rows: Sequence[Row]) -> Figure | None:
    """Draws how far apart the coefficients of tokens are along the training."""
    shown = [row for row in rows if row.data is not None and row.seed == 0]
    if not shown:
        return None
    figure, axes = style.panels([f"{row.student}, {row.method}" for row in shown])
    for axis, row in zip(axes, shown, strict=True):
        places = [step for step, _ in row.data["spread"]]
        quantiles = np.array([values for _, values in row.data["spread"]])
        axis.fill_between(places, quantiles[:, 0], quantiles[:, -1], alpha=0.15, color=style.PALETTE[1], label="all")
        axis.fill_between(places, quantiles[:, 1], quantiles[:, -2], alpha=0.3, color=style.PALETTE[1], label="90 %")
        axis.plot(places, quantiles[:, 3], color=style.PALETTE[1], label="median")
        style.describe(axis, "student step after the warm start", "coefficient of a token")
    return figure
