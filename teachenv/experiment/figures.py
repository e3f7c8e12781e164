"""Figures of the standard kinds: panels, bars with seeds, curves with bands, heat maps; and their files."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from teachenv.experiment.statistics import bootstrap_interval, mean
from teachenv.experiment.tables import Group, Measure

# Imported where something is drawn: each process of a comparison imports this module, and only one of them draws.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve: TypeAlias = Sequence[Sequence[float | None]]
"""Points of one seed: the place and one or more numbers."""


def panels(titles: Sequence[str], size: tuple[float, float] = (6.4, 4.4)) -> tuple[Figure, list[Any]]:
    """A figure with axes side by side, in lines of three, one for each title.

    Args:
        titles: one for each panel, at least one.
        size: width and height of a panel in inches.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(titles))
    lines = -(-len(titles) // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * lines), dpi=130, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    axes = axes[: len(titles)]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(as_it_is(title, _LONGEST_TITLE), fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


# In characters: more leave no room for what is drawn.
_LONGEST_NAME, _LONGEST_TITLE = 40, 80


def as_it_is(text: str, longest: int = _LONGEST_NAME) -> str:
    """A text for Matplotlib to write as it is, though it would take dollars for formulas; of a long one the ends."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest // 2 - 1) :]}"
    shown = (letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
    text = "".join(shown).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # legends leave out what begins like that


def color(number: int) -> Any:
    """One of twenty colours, that of the method with this number: ten strong ones, then ten light ones."""
    from matplotlib import colormaps

    pairs = colormaps["tab20"]
    return pairs(2 * (number % 10) + number // 10 % 2)


def describe(axis: Any, x: str, y: str = "", **legend: Any) -> None:
    """Names the axes and, where something has a label, shows the legend.

    Args:
        axis: Matplotlib's axes.
        x: what runs to the right.
        y: what runs upwards.
        legend: Matplotlib's options of the legend.
    """
    axis.set_xlabel(x)
    axis.set_ylabel(textwrap.fill(y, 48))  # what a panel is high enough for
    if axis.get_legend_handles_labels()[0]:
        axis.legend(**{"fontsize": 7, **legend})


def bars(
    axis: Any, groups: Sequence[Group], measure: Measure, colors: Callable[[Group], Any], logarithmic: bool = False
) -> None:
    """Draws a line for each group: a dot for each seed, the mean and, of several seeds, its bootstrap interval."""
    shown = [group for group in groups if measure.values(group)]
    for place, group in enumerate(reversed(shown)):
        values, color = list(measure.values(group).values()), colors(group)
        middle = mean(values)
        axis.plot(values, [place] * len(values), "o", color=color, alpha=0.35, markersize=4)
        if len(values) > 1:
            axis.plot(bootstrap_interval(values), [place, place], "-", color=color, linewidth=3)
        axis.plot([middle], [place], "D", color=color, markersize=7)
        above = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        axis.annotate(measure(middle), (middle, place), **above)
    axis.set_yticks(range(len(shown)), [as_it_is(group.name) for group in reversed(shown)], fontsize=9)
    axis.set_ylim(-0.6, len(shown) - 0.2)
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="both", labelsize=8)


def curve(
    axis: Any,
    curves: Sequence[Curve],
    *,
    column: int = 1,
    scale: tuple[float, float] = (1.0, 1.0),
    style: str = "-",
    band: Literal["range", "interval"] | None = None,
    **line: Any,
) -> NDArray[np.float64]:
    """Draws the mean over seeds, along the points that all of them have.

    Args:
        axis: Matplotlib's axes.
        curves: one for each seed; longer ones are cut off where the shortest ends.
        column: which of their numbers.
        scale: what places and numbers are multiplied by.
        style: the line's style, as Matplotlib writes it.
        band: around it: from the lowest to the highest seed, or the bootstrap interval of the mean.
        line: what else Matplotlib takes, such as `color` and `label`.

    Returns:
        The means, without points at which a seed has no number; nothing is drawn if none are left.
    """
    points = np.array([curve[: min(map(len, curves))] for curve in curves], dtype=float)
    values = points[:, :, column] * scale[1]
    whole = ~np.isnan(values).any(0)
    places, values = points[0, whole, 0] * scale[0], values[:, whole]
    if "label" in line:
        line["label"] = as_it_is(line["label"])
    if values.size:
        axis.plot(places, values.mean(0), style, **line)
    if values.size and band is not None and len(values) > 1:
        if band == "range":
            low, high = values.min(0), values.max(0)
        else:
            low, high = np.array([bootstrap_interval(seeds, mean, resamples=1000) for seeds in values.T]).T
        axis.fill_between(places, low, high, color=line.get("color"), alpha=0.15, linewidth=0)
    return values.mean(0) if values.size else np.empty(0)


def curves(
    parts: Mapping[str, Sequence[Group]],
    x: str,
    y: str,
    curves_of: Callable[[Group], Sequence[Curve]] | None = None,
    *,
    colors: Callable[[Group], Any] | None = None,
    style: Callable[[Group], str] = lambda group: "-",
    dashed: int | None = None,
    legend: Mapping[str, Any] | None = None,
    **options: Any,
) -> Figure | None:
    """Draws a panel for each part, with a curve for each of its groups that has one; None if none has.

    Args:
        parts: groups by the titles of their panels.
        x: what runs to the right.
        y: what runs upwards.
        curves_of: gives the curves of a group's seeds; by default the `curve` of each row's data.
        colors: gives the colour of a group; by default each place has its own.
        style: gives the style of a group's line, as `curve` takes it.
        dashed: which of a point's numbers is drawn as a dashed line besides; None: none is.
        legend: Matplotlib's options of the legend.
        options: what else `curve` takes.
    """
    shown: dict[str, list[tuple[Group, Sequence[Curve]]]] = {}
    for title, groups in parts.items():
        for group in groups:
            if seeds := (curves_of or _curves)(group):
                shown.setdefault(title, []).append((group, seeds))
    if not shown:
        return None
    figure, axes = panels(list(shown))
    for axis, pairs in zip(axes, shown.values(), strict=True):
        for place, (group, seeds) in enumerate(pairs):
            line = {"color": colors(group) if colors else color(place), **options}
            curve(axis, seeds, style=style(group), label=group.name, **line)
            if dashed is not None:
                curve(axis, seeds, style="--", column=dashed, **line)
        describe(axis, x, y, **(legend or {}))
    return figure


def _curves(group: Group) -> list[Curve]:
    return [row.data["curve"] for row in group.with_data]


def heat_maps(
    lines: Mapping[str, Sequence[tuple[str, Any]]],
    title: str,
    size: tuple[float, float] = (2.3, 2.4),
    finish: Callable[[Any, int], None] = lambda axis, column: None,
    **image: Any,
) -> Figure:
    """Draws matrices whose zero means something, in lines that share their colours: red above zero, blue below.

    Args:
        lines: (title, matrix) of each map in a line, by the line's name.
        title: stands above the figure.
        size: width and height of a map in inches.
        finish: called with the axes and the column of each map.
        image: what Matplotlib's `imshow` takes.
    """
    from matplotlib.figure import Figure

    columns = max(len(maps) for maps in lines.values())
    shape = (size[0] * columns + 1.2, size[1] * len(lines) + 0.5)
    figure = Figure(figsize=shape, dpi=130, layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (name, maps) in zip(axes, lines.items(), strict=True):
        limit = max(1e-6, *(float(np.abs(matrix).max()) for _, matrix in maps))
        for column, (axis, (caption, matrix)) in enumerate(zip(line, maps, strict=False)):
            drawn = axis.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, **image)
            axis.set_title(caption, fontsize=9)
            finish(axis, column)
        for axis in line[len(maps) :]:
            axis.set_visible(False)
        line[0].set_ylabel(as_it_is(name))
        figure.colorbar(drawn, ax=list(line), shrink=0.8)
    figure.suptitle(as_it_is(title, _LONGEST_TITLE), fontsize=11)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's content."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, format="png")
    figure.set_layout_engine("none")  # it is laid out, which takes long
    return picture.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page: letters stay letters, and every id begins with the figure's name.

    Args:
        figure: Matplotlib's figure.
        name: the figure's name on its page: letters, digits, and dashes.
    """
    import matplotlib

    picture = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # the reader's fonts matter
        figure.savefig(picture, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawn = picture.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", drawn)
    # As wide as the page has room for, but not so wide that its letters are larger than the page's.
    return re.sub(r' width="([\d.]+)pt" height="[\d.]+pt"', r' style="max-width: \1pt"', drawn, count=1)
