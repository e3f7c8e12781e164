"""The house style: sizes, colours, titles and legends of every figure that the library draws.

A panel is 4.2 inches (10.7 cm) wide. Printed 8 cm wide its letters are 6.7 points or larger. Legends stand below their
panels, where they cover no data. A panel has at most eight lines, one for each colour of the palette; of more names in
a figure those of one colour have different markers.

Matplotlib is imported where something is drawn, so that `import teachenv` does not load it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise, product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
"""Eight colours that people with and without colour blindness can tell apart.

The first one, black, is for what others are compared with. They are those of Okabe and Ito, *Color Universal Design*
(2008), with a dark red of Paul Tol's in the place of the yellow, which is hard to see on white.
"""

MARKERS = ("", "s", "^", "v")
"""Of what has a palette's colour for the second time and further: squares and triangles; empty: the figure's own."""

GREY = "#888888"
"""For what is only context: a line at zero, samples in the background."""

DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
"""Colour maps of values around zero, and of values from low to high; both serve people with colour blindness."""


class Look(NamedTuple):
    """What tells a line, and a name, from others in a figure.

    Attributes:
        color: one of `PALETTE`.
        marker: one of `MARKERS`.
    """

    color: str
    marker: str = ""

    def line(self, marker: str = "") -> dict[str, Any]:
        """Matplotlib's options for a line of this look.

        Args:
            marker: the figure's own, for the looks that have none; empty: lines have none.
        """
        return {"color": self.color, "marker": self.marker or marker, "markersize": 4}


MOST_LINES = len(PALETTE)
"""How many lines a panel has at most."""

PANEL = (4.2, 3.0)
"""Width and height of a panel in inches; a legend comes below."""

TEXT, SMALL = 10, 9
"""Points of titles and names of axes; of numbers at ticks and legends."""

DPI = 160
"""Dots per inch of a PNG file."""

# In characters: more leave no room for what is drawn.
_LONGEST_NAME, _LONGEST_TITLE = 40, 80
_LETTER = 0.078  # inches: the mean width of a letter of `TEXT` points


def panels(titles: Sequence[str], size: tuple[float, float] = PANEL) -> tuple[Figure, list[Any]]:
    """A figure with axes side by side, in lines of three, one for each title.

    Args:
        titles: one for each panel, at least one.
        size: width and height of a panel in inches.
    """
    columns = min(3, len(titles))
    lines = -(-len(titles) // columns)
    figure = new_figure(size[0] * columns, size[1] * lines)
    axes = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    axes = axes[: len(titles)]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(wrapped(title, size[0] - 0.4, _LONGEST_TITLE), fontsize=TEXT)
        plain(axis)
    return figure, axes


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, which keeps all its letters inside."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def plain(axis: Any) -> None:
    """Gives axes the style's ticks, grid and spines."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", labelsize=SMALL)


def describe(axis: Any, x: str, y: str = "", **legend: Any) -> None:
    """Names the axes and, where something has a label, puts a legend below them, for which the figure grows.

    Args:
        axis: Matplotlib's axes.
        x: what runs to the right.
        y: what runs upwards.
        legend: Matplotlib's options of the legend.
    """
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import ScaledTranslation

    if axis.get_xscale() == "linear" and axis.get_xlim()[1] >= 10_000:  # whose names are so long that many would touch
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter("{x:,.0f}")
    figure, grid = axis.figure, axis.get_gridspec()
    # The name stands in the middle of the axis, which is shorter where names stand at its ticks.
    names = _LETTER * SMALL / TEXT * max((len(tick.get_text()) for tick in axis.get_yticklabels()), default=0)
    axis.set_xlabel(wrapped(x, figure.get_figwidth() / grid.ncols - max(0.7, 0.3 + names)), fontsize=TEXT)
    axis.set_ylabel(wrapped(y, figure.get_figheight() / grid.nrows - 0.6), fontsize=TEXT)
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    columns = 2 if len(labels) > 1 and max(map(len, labels)) <= 20 else 1
    height = PANEL[1] + 0.19 * -(-len(labels) // columns)
    figure.set_figheight(max(figure.get_figheight(), height * grid.nrows))
    # Inches below the axes: numbers at ticks, and the lines of the axis's name.
    below = 0.3 + 0.17 * (axis.get_xlabel().count("\n") + 1)
    place = axis.transAxes + ScaledTranslation(0, -below, figure.dpi_scale_trans)
    style = {"loc": "upper center", "fontsize": SMALL, "frameon": False, "ncols": columns, "borderaxespad": 0.2}
    axis.legend(handles, labels, bbox_to_anchor=(0.5, 0), bbox_transform=place, **{**style, **legend})


def wrapped(text: str, width: float, longest: int | None = None) -> str:
    """A text as Matplotlib writes it as it is, in lines of at most so many inches."""
    text = as_it_is(text, longest or max(1, len(text)))
    lines = (textwrap.fill(line, max(12, int(width / _LETTER))) for line in text.split("\n"))
    return "\n".join(lines)


def split(lines: Sequence[T], most: int = MOST_LINES) -> list[list[T]]:
    """Lines in panels of at most `most`; if there are several, each begins with the first line, to compare with."""
    if len(lines) <= most:
        return [list(lines)]
    first, *others = lines
    count = -(-len(others) // (most - 1))
    ends = [round(place * len(others) / count) for place in range(count + 1)]
    return [[first, *others[start:end]] for start, end in pairwise(ends)]


def distinct(panels: Sequence[Sequence[str]]) -> dict[str, Look]:
    """A look for each name, the same in all panels: no two are alike, and no two in one panel have one colour.

    Of 32 looks those without a marker come first. Further names share the look of others.

    Args:
        panels: the names of the lines in each panel, at most `MOST_LINES`. Rarely, names that stand in many panels with
            many different neighbours leave no colour; then two of a panel have the same, with different markers.
    """
    looks: dict[str, Look] = {}
    every = [Look(color, marker) for marker, color in product(MARKERS, PALETTE)]
    for name in dict.fromkeys(chain.from_iterable(panels)):
        taken = {looks[other].color for panel in panels if name in panel for other in panel if other in looks}
        used = Counter(looks.values())
        looks[name] = min(every, key=lambda look: (used[look], look.color in taken))
    return looks


def as_it_is(text: str, longest: int = _LONGEST_NAME) -> str:
    """A text for Matplotlib to write as it is, though it would take dollars for formulas; of a long one the ends."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest // 2 - 1) :]}"
    shown = (letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
    text = "".join(shown).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # legends leave out what begins like that
