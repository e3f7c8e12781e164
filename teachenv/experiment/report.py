"""A report: tables and figures made from rows alone, as files, on the terminal, and as a page that needs no network."""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import html
import io
import json
import re
import shlex
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from teachenv.experiment.naming import file_name
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Section, leaves
from teachenv.experiment.writing import write_atomically
from teachenv.plot import files

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

# Rows of more bytes are compressed on the page.
_LARGE = 100_000


class Report:
    """Tables, figures and rows of an experiment.

    Attributes:
        name: title of the page.
        sections: the parts of the report, with the tables.
        rows: all that the tables and figures are made from.
        html: path of the page; None before it is written.
        beside: further reports that are written with it, by the names of their files.
        animations: functions that draw them, by the names of their files.
        unproven: lines of the tables that are called after a teacher, and have nothing that shows that it taught.

    Args:
        name: title of the page.
        sections: the parts of the report, with the tables.
        figures: functions that draw them, or return None where there is nothing to show, by the names of their files.
        rows: all that the tables and figures are made from.
        captions: what figures show, for those whose name does not say it.
        command: with which it is made again; by default this process's own.
    """

    def __init__(
        self,
        name: str,
        sections: Sequence[Section],
        figures: Mapping[str, Callable[[], Figure | None]],
        rows: Sequence[Row],
        captions: Mapping[str, str] | None = None,
        command: str | None = None,
    ) -> None:
        """Keeps what is handed over; figures are drawn when they are asked for."""
        self.name, self.sections, self.rows = name, sections, rows
        self._draw = figures
        self.html: Path | None = None
        self.beside: dict[str, Report] = {}
        self.animations: dict[str, Callable[[], FuncAnimation]] = {}
        self.unproven: list[str] = []
        self._captions = captions or {}
        self._command = command or shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])

    @functools.cached_property
    def figures(self) -> dict[str, Figure]:
        """Matplotlib's figures, by the names of their files."""
        drawn = {name: draw() for name, draw in self._draw.items()}
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def table(self) -> str:
        """The report's sections as Markdown."""
        return "\n".join(line for section in self.sections for line in section.markdown())

    def write(self, folder: Path, table: str = "table", page: str = "report") -> None:
        """Writes the table, figures (NAME.png), animations (NAME.gif) and page into the folder, and prints the tables.

        Args:
            folder: where the files go.
            table: name of the table's file, without suffix.
            page: name of the page's file, without suffix.

        Raises:
            OutputNotWritable: a file could not be written.
        """
        from rich.console import Console

        write_atomically(folder / f"{table}.md", self.table())
        for name, figure in self.figures.items():
            write_atomically(folder / f"{file_name(name)}.png", files.png(figure))
        for name, animation in self.animations.items():
            write_atomically(folder / f"{file_name(name)}.gif", files.gif(animation()))
        self.html = folder / f"{page}.html"
        write_atomically(self.html, self.page())
        for name, other in self.beside.items():
            other.write(folder, name, name)
        with _all_letters_printed():
            for section in self.sections:
                section.print(self.name)
            Console().print(f"rows, tables, figures and page: {folder}", highlight=False, markup=False)

    def page(self) -> str:
        """The page: all of the report in one HTML file."""
        template = resources.files("teachenv.experiment").joinpath("page.html").read_text()
        count = f"{len(self.rows):,} rows of {len({row.method for row in self.rows})} methods"
        return string.Template(template).substitute(
            title=html.escape(self.name),
            summary=f"{count}, seeds {_span(row.seed for row in self.rows)}",
            tables="\n".join(_section(section) for section in self.sections),
            figures="\n".join(self._figure(name) for name in self.figures),
            command=html.escape(self._command),
            configurations=_table(("task", "student", "method", "tried", "last"), _configurations(self.rows)),
            origins=_table(("commit", "versions", "rows"), _origins(self.rows)),
            download=self._download(),
        )

    def _figure(self, name: str) -> str:
        caption = html.escape(self._captions.get(name, re.sub("[-_]", " ", name)))
        drawn = files.svg(self.figures[name], re.sub(r"\W", "-", name))
        drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
        return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"

    def _download(self) -> str:
        lines = "".join(f"{row.to_json()}\n" for row in self.rows).encode()
        kind, name = "application/jsonl", "results.jsonl"
        if len(lines) > _LARGE:
            lines, kind, name = gzip.compress(lines, mtime=0), "application/gzip", "results.jsonl.gz"
        link = f"data:{kind};base64,{base64.b64encode(lines).decode()}"
        return f'<a download="{name}" href="{link}">{name}</a> ({len(lines) / 1000:,.0f} kB)'


@contextlib.contextmanager
def _all_letters_printed() -> Iterator[None]:
    """Prints a question mark for what the terminal's or log's encoding lacks: not every one is UTF-8."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        stream.reconfigure(errors="strict")


def _section(section: Section) -> str:
    title = f"<h2>{_text(section.title)}</h2>" if section.title else ""
    text = f"<p>{_text(section.text)}</p>" if section.text else ""
    return title + text + (_table(section.header, section.body) if section.header else "")


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    # A table that is wider than the screen is moved by touch or keys within its frame.
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in header)
    lines = "".join(f"<tr>{_cells(line)}</tr>" for line in body)
    frame = f'<div class="wide" role="region" tabindex="0" aria-label="table: {html.escape(", ".join(header))}">'
    return f"{frame}<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def _cells(line: Sequence[str]) -> str:
    return f'<th scope="row">{_text(line[0])}</th>' + "".join(f"<td>{_text(cell)}</td>" for cell in line[1:])


def _text(text: str) -> str:
    """A text as HTML: escaped, with what stands in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _configurations(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """How many settings were tried, and the last of them, by task, student and method."""
    configs: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        configs.setdefault((row.task, row.student, row.method), {})[json.dumps(row.config, sort_keys=True)] = row
    return [
        (*names, str(len(tried)), ", ".join(f"{k} {v}" for k, v in leaves(list(tried.values())[-1].config)))
        for names, tried in configs.items()
    ]


def _origins(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    counts = Counter((row.git_commit, ", ".join(f"{k} {v}" for k, v in sorted(row.versions.items()))) for row in rows)
    return [(commit, versions, f"{number:,}") for (commit, versions), number in counts.most_common()]


def _span(numbers: Iterable[int]) -> str:
    ordered = sorted(set(numbers)) or [0]
    return f"{ordered[0]} to {ordered[-1]}" if len(ordered) > 1 else str(ordered[0])
