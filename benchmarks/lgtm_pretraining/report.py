"""Tables and figures of the two phases, from result rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.lgtm_pretraining.methods import (
    ALL,
    FIRST,
    METHODS,
    NONE,
    UNTAUGHT,
    Cell,
    cell_of,
    name_of,
    untaught,
)
from benchmarks.lgtm_pretraining.study import TEACHER
from teachenv.experiment import evidence, tables
from teachenv.experiment.evidence import Evidence, EvidenceOf
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.statistics import bootstrap_interval
from teachenv.experiment.tables import Column, Group, Measure, Section, grouped
from teachenv.plot import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERPLEXITY, ACCURACY = Measure("test_perplexity"), Measure("test_accuracy", 100, 1)
_TERM = "influence_ratio"
_PHASES = "pre-training", "fine-tuning"
_ABOUT = (
    "Intervals are over seeds: bootstrap intervals of means, and Student's of differences over pairs of one seed. "
    "Rates are the student's, that of a teacher that learns, and the factor of influence; steps and seconds are of "
    "this phase alone"
)


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows of training runs that were measured."""
    first, second = ([row for row in rows if row.config["phase"] == phase] for phase in _PHASES)
    models = {title: grouped(part, (TEACHER, *METHODS)) for title, part in tables.by(first, tables.heading).items()}
    names = (TEACHER, *map(name_of, ALL))
    cells = {title: grouped(part, names) for title, part in tables.by(second, tables.heading).items()}
    taught = _influences([group for groups in models.values() for group in groups])
    sections, unproven = [], []
    for phase, parts in zip(_PHASES, (models, cells), strict=True):
        for title, groups in parts.items():
            if phase == _PHASES[0]:
                columns, evidence_of, lower, matrix = _of_models(), _of_model, "; lower is better", []
            else:
                columns, evidence_of, lower, matrix = _of_cells(taught), _of_cell(taught), "", [_matrix(title, groups)]
            sections += matrix
            about = f"{_ABOUT}{lower}{evidence.meaning(groups, evidence_of)}."
            sections.append(Section.of(f"{phase}: {title}", columns, groups, about, shown=4))
            unproven += [f"{title}: {g.name}" for g in groups if _follows(g) and evidence_of(g) is None]
    report = Report(
        "Distillation influence in pre-training and in fine-tuning",
        sections,
        {"cells": partial(_cells, cells), "perplexity": partial(_perplexities, models)},
        rows,
        {
            "cells": "Test accuracy by pre-training and fine-tuning: a dot for each seed, means with 95 % intervals",
            "perplexity": "Test perplexity after pre-training: a dot for each seed, means with 95 % intervals",
        },
    )
    report.unproven = unproven
    return report


def _without(group: Group) -> str | None:
    """The line beside a language model's that is the same without influence."""
    return UNTAUGHT if group.name.startswith("lgtm") else None


_of_model: EvidenceOf = evidence.beside(_without, _TERM, PERPLEXITY)


def _follows(group: Group) -> bool:
    """Whether a teacher of the line follows influence."""
    return "lgtm" in group.name


def _of_models() -> list[Column]:
    return [
        Column("method", lambda group: evidence.marked(group, _of_model)),
        tables.interval("test perplexity [95 %]", PERPLEXITY),
        tables.against(
            lambda g: None if g.name in (NONE, TEACHER) else NONE, f"against {NONE} (95 %), p", PERPLEXITY, ", {:.2g}"
        ),
        tables.against(_without, f"against {UNTAUGHT} (95 %), p", PERPLEXITY, ", {:.2g}"),
        Column("influence term, % of the rest", _term),
        Column("rates", _rates),
        tables.seeds(PERPLEXITY),
        tables.steps(PERPLEXITY),
        tables.seconds(PERPLEXITY),
    ]


def _influences(models: Sequence[Group]) -> Mapping[str, float]:
    """The influence term's share by method of pre-training."""
    shares = {group.name: list(group.values(_TERM).values()) for group in models}
    return {name: float(np.mean(values)) for name, values in shares.items() if values}


def _of_cell(taught: Mapping[str, float]) -> EvidenceOf:
    """The evidence of cells: the larger of the terms in both phases, and the difference to the same without them."""

    def of_cell(group: Group) -> Evidence | None:
        plain = untaught(cell_of(group.name))
        shares = [taught.get(cell_of(group.name)[0], 0.0), *group.values(_TERM).values()]
        if plain is None or not any(shares):
            return None
        return Evidence(max(shares), tables.difference(group, name_of(plain), ACCURACY))

    return of_cell


def _of_cells(taught: Mapping[str, float]) -> list[Column]:
    base = name_of((NONE, NONE))

    def plain(group: Group) -> str | None:
        cell = untaught(cell_of(group.name))
        return None if cell is None else name_of(cell)

    return [
        Column("pre-training x fine-tuning", lambda group: evidence.marked(group, _of_cell(taught))),
        tables.interval("test accuracy % [95 %]", ACCURACY),
        tables.against(
            lambda g: None if g.name in (base, TEACHER) else base, f"against {base} (95 %), p", ACCURACY, ", {:.2g}"
        ),
        tables.against(plain, f"against {UNTAUGHT} in the place of lgtm (95 %), p", ACCURACY, ", {:.2g}"),
        Column("influence term when fine-tuned, % of the rest", _term),
        Column("rates", _rates),
        tables.seeds(ACCURACY),
        tables.steps(ACCURACY),
        tables.seconds(ACCURACY),
    ]


def _term(group: Group) -> str:
    shares = list(group.values(_TERM).values())
    return f"{100 * np.mean(shares):.2g}" if shares else ""


def _rates(group: Group) -> str:
    """What tuning chose: the student's rate, and what a teacher that learns has of its own."""
    tuned, method = group.config["tuned"], cell_of(group.name)[1] or group.name
    learns = method.partition(":")[0] in ("prokt", "lgtm")
    return ", ".join(f"{value:g}" for value in list(tuned.values())[: 3 if learns else 1] if value is not None)


def _matrix(title: str, groups: Sequence[Group]) -> Section:
    """Both factors at a glance: a line for each way to pre-train, a column for each way to fine-tune."""
    by_cell = {cell_of(group.name): group for group in groups}
    lines = [first for first in FIRST if any(cell[0] == first for cell in by_cell)]
    columns = [second for second in METHODS if any(cell[1] == second for cell in by_cell)]

    def shown(cell: Cell) -> str:
        values = list(ACCURACY.values(by_cell[cell]).values()) if cell in by_cell else []
        return ACCURACY(float(np.mean(values))) if values else ""

    body = [[first, *(shown((first, second)) for second in columns)] for first in lines]
    text = "Mean test accuracy in %: down how students were pre-trained, across how they are fine-tuned."
    return Section(f"both phases: {title}", text, ["", *columns], body)


def _cells(parts: Mapping[str, Sequence[Group]]) -> Figure | None:
    """Draws a panel for each task: places are ways to pre-train, colours ways to fine-tune."""
    if not parts:
        return None
    figure, axes = style.panels([groups[0].first.task for groups in parts.values()], (7.0, 3.4))
    for axis, groups in zip(axes, parts.values(), strict=True):
        by_cell = {cell_of(group.name): group for group in groups}
        lines = [first for first in FIRST if any(cell[0] == first for cell in by_cell)]
        for number, (second, color) in enumerate(zip(METHODS, style.PALETTE, strict=False)):
            shift, label = 0.15 * (number - (len(METHODS) - 1) / 2), second
            for place, first in enumerate(lines):
                if (first, second) in by_cell:
                    _dots(axis, place + shift, by_cell[first, second], ACCURACY, color, label)
                    label = ""  # once in the legend
        axis.set_xticks(range(len(lines)), lines, fontsize=style.SMALL)
        axis.set_xlim(-0.5, len(lines) - 0.5)
        style.describe(axis, "pre-training (colours: fine-tuning)", "test accuracy, %", ncols=len(METHODS))
    return figure


def _perplexities(parts: Mapping[str, Sequence[Group]]) -> Figure | None:
    """Draws the students' perplexity after each way to pre-train, and the mean of teachers that learned alone."""
    if not parts:
        return None
    figure, axes = style.panels([groups[0].first.task for groups in parts.values()], (5.4, 3.0))
    for axis, groups in zip(axes, parts.values(), strict=True):
        alone = [value for group in groups if group.name == TEACHER for value in PERPLEXITY.values(group).values()]
        if alone:
            axis.axhline(np.mean(alone), color=style.GREY, linestyle="--", linewidth=1, label="the teacher, alone")
        students = [group for group in groups if group.name != TEACHER]
        for place, (group, color) in enumerate(zip(students, style.PALETTE, strict=False)):
            _dots(axis, place, group, PERPLEXITY, color, "")
        axis.set_xticks(range(len(students)), [group.name for group in students], fontsize=style.SMALL)
        axis.set_xlim(-0.6, len(students) - 0.4)
        style.describe(axis, "pre-training", "test perplexity")
    return figure


def _dots(axis: object, place: float, group: Group, measure: Measure, color: str, label: str) -> None:
    """Draws a dot for each seed, and the mean with its interval."""
    values = list(measure.values(group).values())
    draw = partial(axis.plot, color=color)  # type: ignore[attr-defined]
    draw([place] * len(values), values, "o", alpha=0.35, markersize=4)
    draw([place], [np.mean(values)], "D", markersize=6, label=label or "_")
    if len(values) > 1:
        draw([place, place], bootstrap_interval(values), "-", linewidth=2)
