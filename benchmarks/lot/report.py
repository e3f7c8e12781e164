"""Tables and figures of learning from teaching with labels, from result rows alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.lot.methods import METHODS
from teachenv.experiment import evidence, tables
from teachenv.experiment.cases import DIVERGED
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.statistics import iqm
from teachenv.experiment.tables import Column, Group, Measure, Section, deviation, grouped
from teachenv.plot import style
from teachenv.plot.series import bar_panels, bars, curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE, TERM = "teacher-only", "term_share"
_KINDS = ("test_", "student_test_", "student_kl_", "uniform_kl_", "valid_", "last_test_", TERM, "recall_at_1")
_FURTHER = {"recall_at_1": "recall at 1, %"}
"""What `Problem.further` measures, in percent, by the rows' metric."""


def _has_student(group: Group) -> bool:
    """Whether the model of the line trained together with another network."""
    return any(row.metric.startswith("student_test_") for row in group.rows)


TERM_SHARE = evidence.share("LoT's term, % of the loss", TERM, _has_student)
"""The column of how large the term was that students add."""


def make(rows: Sequence[Row], name: str) -> Report:
    """The report of a benchmark of this name."""
    tasks = tasks_of(rows)
    sections = [section for task, task_rows in tasks.items() for section in _sections(rows, task, task_rows)]
    captions = {"curves": "What is kept and its student on validation data: mean and range over seeds"}
    drawn = {"curves": partial(_curves, tasks)}
    report = Report(f"Learning from teaching: {name}", sections, drawn, rows, captions)
    report.unproven = unproven(tasks, METHODS)
    return report


def unproven(tasks: Mapping[str, Sequence[Row]], order: Collection[str]) -> list[str]:
    """The lines with students of which no row says how large LoT's term was."""
    return [
        f"{task}: {group.name}"
        for task, rows in tasks.items()
        for group in grouped(rows, order)
        if _has_student(group) and not group.of(TERM)
    ]


def of_regularisers(rows: Sequence[Row], name: str, order: Sequence[str]) -> Report:
    """The report of `benchmarks.lot.regularisers`, from the rows of its training runs.

    Args:
        rows: those of the training runs, without what tuned them.
        name: the benchmark's.
        order: names of what is compared.
    """
    tasks = tasks_of(rows)
    sections = [_regularised(task_rows, order) for task_rows in tasks.values()]
    captions = {
        "regularisers": "Test at the best epoch on validation data: mean, 95 % interval, and a dot a seed",
        "regularisers_last": "Test at the last epoch",
    }
    drawn = {
        "regularisers": partial(_bars, tasks, order, ""),
        "regularisers_last": partial(_bars, tasks, order, "last_"),
    }
    report = Report(f"Learning from teaching beside other regularisers: {name}", sections, drawn, rows, captions)
    report.unproven = unproven(tasks, order)
    return report


def tasks_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows that tables show, by task; tasks without a training run that was measured on test have none."""
    tasks = tables.by((row for row in rows if row.metric.startswith(_KINDS)), lambda row: row.task)
    return {task: part for task, part in tasks.items() if any(row.metric.startswith("test_") for row in part)}


def _regularised(rows: Sequence[Row], order: Sequence[str]) -> Section:
    test = measure_of(rows)
    last, taught = replace(test, metric=f"last_{test.metric}"), evidence_of(test)
    columns = [
        Column("method", lambda group: evidence.marked(group, taught)),
        tables.interval(f"test {name_of(test)}, best epoch", test),
        tables.against(BASELINE, f"against {BASELINE} [95 %]", test),
        tables.interval("last epoch", last),
        tables.against(BASELINE, f"last epoch, against {BASELINE} [95 %]", last),
        *_further(rows),
        deviation("its student's score", Measure(f"student_{test.metric}", test.scale)),
        TERM_SHARE,
        tables.seeds(test),
        tables.steps(test, "steps, model and student"),
        Column("selected settings", lambda group: in_words(group.config)),
    ]
    groups = [group for group in grouped(rows, order) if group.of(test.metric)]
    text = (
        "Each line was tuned on validation data. Mean over seeds with a bootstrap interval; mean difference over\n"
        "pairs of one seed, with Student's interval. The best epoch is that on validation data"
        f"{tables.in_precision(rows)}{evidence.meaning(groups, taught)}."
    )
    return Section.of(tables.heading(rows[0]), columns, groups, text, shown=4)


def _further(rows: Sequence[Row]) -> list[Column]:
    """Two columns for each further measure that the rows have."""
    columns = []
    for metric in [name for name in _FURTHER if any(row.metric == name for row in rows)]:
        measure = Measure(metric, 100)
        columns += [
            tables.interval(f"{_FURTHER[metric]}, best epoch", measure),
            tables.against(BASELINE, f"{_FURTHER[metric]}, against {BASELINE} [95 %]", measure),
        ]
    return columns


def in_words(config: Mapping[str, Any]) -> str:
    """Says what tuning chose: `adam 0.003, alpha 8`."""
    chosen, option = config["tuned"], config["tried"]["option"]
    strength = "" if option is None else f", {option.replace('_', ' ')} {chosen['strength']:g}"
    return f"{chosen['optimizer_name']} {chosen['learning_rate']:g}{strength}"


def _bars(tasks: Mapping[str, Sequence[Row]], order: Sequence[str], which: str) -> Figure | None:
    """Draws what is compared, a panel a task."""
    if not tasks:
        return None
    parts = {task: grouped(rows, order) for task, rows in tasks.items()}
    measure = measure_of([row for rows in tasks.values() for row in rows])
    shown = replace(measure, metric=which + measure.metric)
    figure, axes = bar_panels(list(parts), list(parts.values()))
    for axis, groups in zip(axes, parts.values(), strict=False):
        bars(axis, groups, shown, lambda group: style.Look(style.PALETTE[group.name.startswith("lot")]))
        style.describe(axis, f"test {name_of(measure)} (dots: seeds)")
    return figure


def _sections(rows: Sequence[Row], task: str, task_rows: Sequence[Row]) -> list[Section]:
    """The table, and what is said of training runs whose numbers are not finite, and of which it has nothing."""
    test = measure_of(task_rows)
    taught = evidence_of(test)
    columns = [
        Column("method", lambda group: evidence.marked(group, taught)),
        deviation(f"test {name_of(test)}", test),
        tables.interval("interquartile mean [95 %]", test, iqm),
        tables.against(BASELINE, f"against {BASELINE} [95 %]", test),
        deviation("its student's score", Measure(f"student_{test.metric}", test.scale)),
        TERM_SHARE,
        tables.seeds(test),
        Column("teacher steps", lambda group: f"{group.of(test.metric)[0].data['teacher_steps']:,}"),
        tables.steps(test, "steps, model and student"),
        tables.seconds(test),
    ]
    groups = [group for group in grouped(task_rows, METHODS) if group.of(test.metric)]
    text = (
        "Mean ± standard deviation over seeds, each network at its best epoch on the validation data; the\n"
        "interquartile mean with a bootstrap interval; the mean difference over pairs of one seed, with Student's\n"
        f"interval{tables.in_precision(task_rows)}{evidence.meaning(groups, taught)}."
    )
    trainings = sorted(f"{row.method} (seed {row.seed})" for row in rows if (row.task, row.metric) == (task, DIVERGED))
    diverged = [Section(text=f"Diverged: {', '.join(trainings)}.")] if trainings else []
    return [Section.of(tables.heading(task_rows[0]), columns, groups, text, shown=5), *diverged]


def evidence_of(test: Measure) -> evidence.EvidenceOf:
    """The share of LoT's term in the loss, and the difference to the model that is trained alone."""
    return evidence.beside(lambda group: BASELINE, TERM, test)


def measure_of(rows: Sequence[Row]) -> Measure:
    """What models are compared by: accuracy on test in percent, or perplexity."""
    metric = next(row.metric for row in rows if row.metric.startswith("test_"))
    return Measure(metric, 100 if metric == "test_accuracy" else 1)


def name_of(measure: Measure) -> str:
    """The name of such a measure: `accuracy %`."""
    return measure.metric.removeprefix("test_") + (" %" if measure.scale == 100 else "")


def _curves(tasks: Mapping[str, Sequence[Row]]) -> Figure | None:
    """Draws the model (solid) and its student (dashed) on validation data: means and ranges over seeds."""
    parts = {f"{task}, {rows[0].student}": grouped(rows, METHODS) for task, rows in tasks.items()}
    measure = measure_of([row for rows in tasks.values() for row in rows]) if tasks else Measure("")
    x, y = "epochs of the model that is kept (dashed: its student)", f"{name_of(measure)} on validation data"
    figure = curves(parts, x, y, dashed=2, scale=(1, measure.scale), band="range")
    for axis in figure.axes if figure and measure.metric == "test_perplexity" else []:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
    return figure
