"""What reports of benchmarks have in common: tables as text and on the terminal, and figures as files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from teachenv.experiment.rows import Row, write_atomically


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body)]


def print_table(title: str, header: Sequence[str], body: Sequence[Sequence[str]], caption: str | None = None) -> None:
    """Prints a table on the terminal; where it is narrow, the names of the lines stay whole."""
    shown = Table(title=title, caption=caption)
    for number, name in enumerate(header):
        shown.add_column(name, no_wrap=number == 0, overflow="fold")
    for line in body:
        shown.add_row(*line)
    Console().print(shown)


def in_precision(rows: Iterable[Row]) -> str:
    """`"; networks in bfloat16"`, say, to end a caption with; empty where all rows are in float32."""
    found = {row.versions.get("precision", "float32") for row in rows}
    return "" if found <= {"float32"} else f"; networks in {' or '.join(sorted(found))}"


def panels(titles: Sequence[str], width: float = 6.4) -> tuple[Figure, list[Any]]:
    """A figure with axes side by side, in lines of three, one for each title."""
    columns = min(3, len(titles))
    lines = -(-len(titles) // columns)
    figure = Figure(figsize=(width * columns, 4.4 * lines), dpi=130, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    axes = axes[: len(titles)]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def color(number: int) -> Any:
    """One of twenty colours, that of the method with this number: ten strong ones, then ten light ones."""
    pairs = colormaps["tab20"]
    return pairs(2 * (number % 10) + number // 10 % 2)


def write_figures(folder: Path, figures: Mapping[str, Figure | None]) -> None:
    """Writes those that there are as NAME.png."""
    for name, figure in figures.items():
        if figure is not None:
            picture = io.BytesIO()
            FigureCanvasAgg(figure)
            figure.savefig(picture, format="png")
            write_atomically(folder / f"{name}.png", picture.getvalue())
