"""Whether the teacher of a row taught: how far it moved what it teaches with, and what that did to students.

A row that is called after a method of teaching says little of the method if its teacher stayed where it began. So
taught rows have two numbers beside their result: a share by which the teacher moved (of the neutral coefficients, or
its term as a part of the loss that it is added to), and the difference to students of the same seeds whom nobody
taught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from teachenv.experiment.cases import DIVERGED
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.experiment.statistics import Paired, paired
from teachenv.experiment.tables import Column, Group, Measure, difference

MOVED, MOVED_MOST, EFFECT = "teacher_moved", "teacher_moved_most", "teacher_effect"
"""Metrics: the mean and the largest change of a coefficient of the loss, as shares of the neutral ones (see
`teachenv.experiment.teaching.Moved`); J of fresh students on dev, minus that of untaught ones of the same seeds."""

LEAST_MOVE = 0.01
"""A teacher that moved by a smaller share, without a measurable effect, has not taught."""

UNTAUGHT, UNDECIDED = "untaught", "untaught?"
"""The marks of a line whose teacher did not teach, and of one where too few seeds say whether it did."""


class Evidence(NamedTuple):
    """What shows that a teacher taught.

    Attributes:
        moved: by which share it moved, the mean over seeds.
        effect: the difference from untaught students over pairs of one seed; None: of fewer than two pairs.
    """

    moved: float
    effect: Paired | None

    @property
    def mark(self) -> str:
        """What the line is called beside its name: `UNTAUGHT`, `UNDECIDED`, or nothing.

        Untaught: the teacher hardly moved and had no significant effect, so that the row says nothing of its method.
        Undecided: the teacher moved as little, and one seed has no interval that could say whether it had an effect.
        """
        if self.moved >= LEAST_MOVE:
            return ""
        if self.effect is None:
            return UNDECIDED if self.moved else UNTAUGHT
        return UNTAUGHT if self.effect.low <= 0.0 <= self.effect.high else ""


EvidenceOf = Callable[[Group], Evidence | None]
"""The evidence of a table's line; None: there is no teacher, or the rows have no evidence."""


def beside(baseline: Callable[[Group], str | None], moved: str, measure: Measure) -> EvidenceOf:
    """Evidence by comparison with an untaught line of the same table.

    Args:
        baseline: gives the name of the untaught line; None: nobody teaches the line itself.
        moved: the metric of the share by which the teacher moved.
        measure: what students are compared by.
    """

    def evidence(group: Group) -> Evidence | None:
        shares, untaught = list(group.values(moved).values()), baseline(group)
        if not shares or untaught is None:
            return None
        return Evidence(float(np.mean(shares)), difference(group, untaught, measure))

    return evidence


def measured(group: Group) -> Evidence | None:
    """Evidence that the rows of a comparison of teachers have themselves."""
    moves, effects = (list(group.values(metric).values()) for metric in (MOVED, EFFECT))
    if not moves or not effects:
        return None
    effect = paired(effects, [0.0] * len(effects)) if len(effects) > 1 else None
    return Evidence(float(np.mean(moves)), effect)


def marked(group: Group, evidence: EvidenceOf = measured) -> str:
    """The method's name, with "(untaught)" or "(untaught?)" where the evidence says so."""
    mark = _mark(group, evidence)
    return f"{group.name} ({mark})" if mark else group.name


def meaning(groups: Iterable[Group], evidence: EvidenceOf = measured) -> str:
    """What the marks of these lines mean, with a semicolon before it, to end a caption with; empty without marks."""
    marks = {_mark(group, evidence) for group in groups}
    little = (
        f"teacher changed what its actions set by less than {100 * LEAST_MOVE:g} %, or added less than that to the "
        "loss, and"
    )
    said, judged = "", "J of fresh students" if evidence is measured else "students"
    if UNTAUGHT in marks:
        said = f"; a line is called untaught if its {little} had no significant effect on {judged}"
        little = "teacher did as little, and"
    if UNDECIDED in marks:
        said += f'; "untaught?" means that the {little} one seed cannot say whether its effect is significant'
    return said


def _mark(group: Group, evidence: EvidenceOf) -> str:
    shown = evidence(group)
    return "" if shown is None else shown.mark


def unproven(
    parts: Mapping[str, Sequence[Group]], taught: Callable[[Group], bool], evidence: EvidenceOf = measured
) -> list[str]:
    """The lines whose students a teacher taught, and that have no evidence of it, as "table: line".

    Args:
        parts: the lines of each table, by its title.
        taught: whether a line is called after a teacher.
        evidence: gives what the line has.
    """
    return [
        f"{title}: {group.name}"
        for title, groups in parts.items()
        for group in groups
        if taught(group) and evidence(group) is None
    ]


def share(header: str, metric: str, taught: Callable[[Group], object], most: str | None = None) -> Column:
    """A column of shares in percent, means over seeds, as in `1.8 (7.3); 3 of 10 seeds`.

    Args:
        header: the column's.
        metric: the share's.
        taught: true of lines that should have the share: without it their cell is "not measured".
        most: the metric of a largest share, for the brackets.
    """
    return Column(header, lambda group: _percent(group, metric, most) or ("not measured" if taught(group) else ""))


def _percent(group: Group, metric: str, most: str | None) -> str:
    shares, largest = group.values(metric), group.values(most or "")
    if not shares:
        return ""
    cell = f"{100 * np.mean(list(shares.values())):.3g}"
    cell += f" ({100 * np.mean(list(largest.values())):.3g})" if largest else ""
    return cell + _of_seeds(group, metric)


def _of_seeds(group: Group, metric: str) -> str:
    """`; 3 of 10 seeds` where a line has a metric of some of its seeds: older rows need not all be trained again."""
    measured, seeds = group.values(metric), {row.seed for row in group.rows if row.metric != DIVERGED}
    return "" if len(measured) == len(seeds) else f"; {len(measured)} of {len(seeds)} seeds"


def _effect(group: Group) -> str:
    shown = measured(group)
    if shown is None:
        return ""
    if shown.effect is None:
        return f"{next(iter(group.values(EFFECT).values())):+.4f}"
    return shown.effect.interval(4) + _of_seeds(group, EFFECT)


COLUMNS: Mapping[str, Callable[[Group], str]] = {
    "change by the teacher, % mean (max)": lambda group: _percent(group, MOVED, MOVED_MOST),
    "J minus J without a teacher (95 %)": _effect,
}
"""What the rows of a comparison of teachers say of them, by the column's header; cells are empty without such rows."""


def check(benchmark: str, folder: Path, tables: Mapping[str, Callable[[list[Row]], Report]]) -> None:
    """Reads the rows of a folder, and says on stdout what is well.

    Args:
        benchmark: whose rows they are to be.
        folder: where rows and tables are.
        tables: makes the report of rows, by the name of the table's file without suffix. Those of the folder are looked
            at; a table has its rows in a file of its own name, if there is one.

    Raises:
        ValueError: there are no rows, or those of another benchmark, or no table of them; a line of the tables is
            called after a teacher, and no row shows that it taught; or a table beside the rows is another than theirs,
            so that it may lack a mark.
    """
    written = {name: folder / f"{name}.md" for name in tables}
    rows = {
        name: _rows_of(benchmark, folder, name)
        for name, path in written.items()
        if path.exists() or path.with_suffix(".jsonl").exists()
    }
    lacking = [str(path) for name, path in written.items() if name in rows and not path.exists()]
    if lacking:
        raise ValueError(f"found rows without their table {lacking[0]}; the command without --check writes it")
    reports = {name: tables[name](each) for name, each in rows.items()}
    if not reports:
        raise ValueError(
            f"found no table {' or '.join(f'{name}.md' for name in tables)} in {folder}; run the benchmark first, or "
            "name its folder with --out"
        )
    unproven = [line for each in reports.values() for line in each.unproven]
    if unproven:
        raise ValueError(
            f"found {len(unproven)} lines with a teacher of which no row says how far it acted "
            f"({', '.join(unproven)}): the rows are older than this measurement; run these methods again"
        )
    for name, each in reports.items():
        if written[name].read_text() != each.table():
            raise ValueError(
                f"{written[name]} does not agree with the rows beside it: a row was changed, or the table was written "
                "for fewer seeds or methods, or for another preset; the command without --check writes it again"
            )
    shown = ", ".join(f"{name}.md" for name in reports)
    print(f"{folder}: {shown}: every line with a teacher says how far it acted, and each untaught one is marked")


def _rows_of(benchmark: str, folder: Path, table: str) -> list[Row]:
    """The rows of a table.

    Raises:
        ValueError: there are none, or those of another benchmark.
    """
    path = folder / f"{table}.jsonl"
    path = path if path.exists() else folder / "results.jsonl"
    if not path.exists():
        raise ValueError(f"found no rows at {path}; run the benchmark first, or name its folder with --out")
    rows = read_rows(path)
    if others := {row.benchmark for row in rows} - {benchmark}:
        raise ValueError(f"{path} holds results of {min(others)}, expected those of {benchmark}; choose another --out")
    return rows
