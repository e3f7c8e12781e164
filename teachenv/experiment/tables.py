"""Tables, made from rows alone: groups of rows, columns that are declared, and their Markdown and terminal forms.

A line of a table is a `Group` of rows, a `Column` a header and a function from a group to a cell::

    error = Measure("test_error", scale=100)
    columns = [METHOD, interval("test error %", error), against("cross-entropy", "difference", error), seeds(error)]
    section = Section.of("digits", columns, grouped(rows))
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from teachenv.experiment.row import Row
from teachenv.experiment.statistics import Paired, Statistic, bootstrap_interval, mean, paired

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The rows of one line of a table, those of a task and method, say.

    Attributes:
        name: what the line is called, mostly the method.
        rows: the rows of the line, at least one.
        beside: all groups of the table, by name.
    """

    name: str
    rows: tuple[Row, ...]
    beside: Mapping[str, Group]

    def of(self, metric: str) -> list[Row]:
        """The rows of a metric, by seed and student steps."""
        return sorted((r for r in self.rows if r.metric == metric), key=lambda r: (r.seed, r.student_steps))

    def values(self, metric: str) -> dict[int, float]:
        """The number of each seed, the newest one; empty if the metric was not measured."""
        return {row.seed: row.value for row in self.rows if row.metric == metric}

    @property
    def first(self) -> Row:
        """The row that says what all of them have in common."""
        return self.rows[0]

    @property
    def config(self) -> dict[str, Any]:
        """The first row's config."""
        return self.first.config

    @property
    def with_data(self) -> list[Row]:
        """The rows that have what a figure needs."""
        return [row for row in self.rows if row.data]

    def student_steps(self, metric: str) -> int:
        """The most student steps that a seed spent."""
        return max(row.student_steps for row in self.of(metric))

    def seconds(self, metric: str) -> float:
        """The median of the seconds over seeds."""
        return statistics.median(row.seconds for row in self.of(metric))


def by(rows: Iterable[Row], key: Callable[[Row], T]) -> dict[T, list[Row]]:
    """Rows by the key that the function gives each; keys are in the order in which they first appear."""
    parts: dict[T, list[Row]] = {}
    for row in rows:
        parts.setdefault(key(row), []).append(row)
    return parts


def heading(row: Row) -> str:
    """The title of a row's table, where each has one task, student and data set."""
    return f"{row.task}, {row.student} ({row.dataset})"


def grouped(
    rows: Iterable[Row], order: Collection[str] = (), key: Callable[[Row], str] = lambda row: row.method
) -> list[Group]:
    """Groups of rows, by method unless told otherwise.

    Args:
        rows: the rows of one table.
        order: names that come first, in this order; the others follow as they first appear.
        key: what the groups are called.
    """
    parts, groups = by(rows, key), dict[str, Group]()
    for name in dict.fromkeys([*(name for name in order if name in parts), *parts]):
        groups[name] = Group(name, tuple(parts[name]), groups)
    return list(groups.values())


@dataclass(frozen=True)
class Measure:
    """A metric as a table shows it.

    Attributes:
        metric: a row's `metric`.
        scale: what values are multiplied by; 100 for percent.
        digits: digits after the point.
    """

    metric: str
    scale: float = 1.0
    digits: int = 2

    def values(self, group: Group) -> dict[int, float]:
        """The measure of each seed, scaled."""
        return {seed: self.scale * value for seed, value in group.values(self.metric).items()}

    def __call__(self, value: float) -> str:
        """Writes a number that is already scaled."""
        return f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        header: the column's name.
        cell: from a group to the cell; empty where there is nothing to say.
    """

    header: str
    cell: Callable[[Group], str]


METHOD = Column("method", lambda group: group.name)


def number(
    header: str, metric: str, form: str, scale: float = 1.0, statistic: Callable[..., Any] = np.median
) -> Column:
    """One number over the seeds, the median unless told otherwise; the form is that of `format`."""

    def cell(group: Group) -> str:
        values = list(group.values(metric).values())
        return format(scale * float(statistic(values)), form) if values else ""

    return Column(header, cell)


def interval(header: str, measure: Measure, statistic: Statistic = mean) -> Column:
    """The mean over seeds, or the interquartile mean, with its bootstrap interval: `5.48 [5.45, 5.50]`."""

    def cell(group: Group) -> str:
        values = list(measure.values(group).values())
        if not values:
            return ""
        shown = measure(float(statistic(np.array(values))))
        if len(values) == 1:
            return shown
        low, high = map(measure, bootstrap_interval(values, statistic))
        return f"{shown} [{low}, {high}]"

    return Column(header, cell)


def deviation(header: str, measure: Measure, form: str | None = None, spread: str | None = None) -> Column:
    """The mean over seeds ± their standard deviation: `74.9 ± 2.3`.

    Args:
        header: the column's name.
        measure: what is shown.
        form: how `format` writes the mean; by default with the measure's digits.
        spread: how `format` writes the deviation; by default like the mean.
    """
    form = form or f".{measure.digits}f"

    def cell(group: Group) -> str:
        values = list(measure.values(group).values())
        if not values:
            return ""
        beside = f" ± {format(np.std(values, ddof=1), spread or form)}" if len(values) > 1 else ""
        return format(np.mean(values), form) + beside

    return Column(header, cell)


def against(baseline: str | Callable[[Group], str | None], header: str, measure: Measure, p: str = "") -> Column:
    """The mean difference from a baseline over pairs of one seed, with Student's interval.

    Args:
        baseline: name of a group beside; or a function that gives the name for a group, or None for an empty cell.
        header: the column's name.
        measure: what is compared.
        p: how the p-value of the paired t-test is written, such as `", p {:.2g}"`; by default not at all.
    """

    def cell(group: Group) -> str:
        name = baseline(group) if callable(baseline) else baseline
        gap = None if name is None else difference(group, name, measure)
        return "" if gap is None else gap.interval(measure.digits) + p.format(gap.p)

    return Column(header, cell)


def difference(group: Group, baseline: str, measure: Measure) -> Paired | None:
    """How much a line lies above another one beside it, over pairs of one seed; None: of fewer than two pairs."""
    if baseline not in group.beside or group.name == baseline:
        return None
    values, others = measure.values(group), measure.values(group.beside[baseline])
    both = sorted(values.keys() & others.keys())
    return paired([values[seed] for seed in both], [others[seed] for seed in both]) if len(both) > 1 else None


def published(header: str, numbers: Mapping[str, float], digits: int = 2) -> Column:
    """A column with the numbers of a paper, by method."""
    return Column(header, lambda group: f"{numbers[group.name]:.{digits}f}" if group.name in numbers else "")


def seeds(measure: Measure) -> Column:
    """A column with the number of seeds."""
    return Column("seeds", lambda group: str(len(measure.values(group))))


def steps(measure: Measure, header: str = "student steps") -> Column:
    """A column with the most student steps that a seed spent."""
    return Column(header, lambda group: f"{group.student_steps(measure.metric):,}")


def seconds(measure: Measure) -> Column:
    """A column with the median of the seconds over seeds."""
    return Column("seconds", lambda group: f"{group.seconds(measure.metric):.0f}")


def leaves(options: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Names and values of nested options, as a cell shows them: without what they are nested in, or are empty."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from leaves(value)
        elif isinstance(value, bool) or value is None:
            yield name, str(value)
        elif isinstance(value, int | float):
            yield name, f"{value:g}"
        elif value:
            yield name, value if isinstance(value, str) else "-".join(str(v) for v in value)


def in_precision(rows: Iterable[Row]) -> str:
    """`"; networks in bfloat16"`, say, to end a caption with; empty where all rows are in float32."""
    precisions = {row.versions.get("precision", "float32") for row in rows}
    return "" if precisions <= {"float32"} else f"; networks in {' or '.join(sorted(precisions))}"


@dataclass(frozen=True)
class Section:
    """A part of a report: a title, a text and a table, any of which it may lack.

    Attributes:
        title: stands above the section; empty if it goes on from the one before.
        text: before the table; may have `code` in backticks.
        header: the names of the table's columns.
        body: the table's lines.
        shown: headers of the columns that fit on a terminal; by default all.
    """

    title: str = ""
    text: str = ""
    header: Sequence[str] = ()
    body: Sequence[Sequence[str]] = ()
    shown: Collection[str] | None = None

    @classmethod
    def of(
        cls,
        title: str,
        columns: Sequence[Column],
        groups: Iterable[Group],
        text: str = "",
        shown: Collection[str] | int | None = None,
    ) -> Section:
        """A section with a line for each group; `shown` may also be the number of first columns that fit."""
        body = [[column.cell(group) for column in columns] for group in groups]
        header = [column.header for column in columns]
        return cls(title, text, header, body, header[:shown] if isinstance(shown, int) else shown)

    def markdown(self) -> list[str]:
        """The section's lines as Markdown, with an empty one after each part."""
        lines = [f"## {self.title}", ""] if self.title else []
        lines += [self.text, ""] if self.text else []
        return lines + ([*markdown(self.header, self.body), ""] if self.header else [])

    def print(self, title: str) -> None:
        """Prints the table on the terminal; where that is narrow, the names of the lines stay whole.

        Args:
            title: the report's, for a section that has none.
        """
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        if not self.header:
            Console().print(Text(self.text))
            return
        columns = [n for n, name in enumerate(self.header) if self.shown is None or name in self.shown]
        table = Table(title=Text(self.title or title), caption=Text(self.text))
        for place, number in enumerate(columns):
            # A long header is broken at its spaces, so that there is room for the cells; "95 %" stays together.
            header = self.header[number].replace(" %)", "\u00a0%)")
            width = max((len(line[number]) for line in self.body), default=len(header))
            header = textwrap.fill(header, max(width, 1), break_long_words=False)
            name = place == 0 and width <= 40  # a line's name stays whole, a sentence does not
            table.add_column(Text(header), no_wrap=name, overflow="fold")
        for line in self.body:
            table.add_row(*(Text(line[number]) for number in columns))
        Console().print(table)


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    # A bar or the end of a line would end a cell.
    cells = [[" ".join(cell.split("\n")).replace("|", "\\|") for cell in line] for line in (header, *body)]
    return [f"| {' | '.join(line)} |" for line in (cells[0], ["---"] * len(header), *cells[1:])]
