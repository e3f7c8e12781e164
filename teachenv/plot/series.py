"""Figures of result rows that reports are made of: bars with seeds, and curves with bands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from teachenv.experiment.statistics import bootstrap_interval, mean
from teachenv.experiment.tables import Group, Measure
from teachenv.plot.style import MOST_LINES, PANEL, SMALL, Look, as_it_is, describe, distinct, panels, split

# Imported where something is drawn: each process of a comparison imports this module, and only one of them draws.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

Curve: TypeAlias = Sequence[Sequence[float | None]]
"""Points of one seed: the place and one or more numbers."""


def bar_panels(titles: Sequence[str], parts: Sequence[Sequence[Any]]) -> tuple[Figure, list[Any]]:
    """Panels for `bars`, as high as the one with the most lines needs.

    Args:
        titles: one for each panel.
        parts: the lines of each panel.
    """
    most = max(map(len, parts), default=0)
    return panels(list(titles), (PANEL[0] + 0.4, 1.0 + 0.34 * max(most, 2)))


def bars(
    axis: Any, groups: Sequence[Group], measure: Measure, looks: Callable[[Group], Look], logarithmic: bool = False
) -> None:
    """Draws a line for each group: a dot for each seed, the mean and, of several seeds, its bootstrap interval.

    The axis is logarithmic, if that is wanted, where all values are above zero: on it a zero would not be seen.
    """
    shown = [group for group in groups if measure.values(group)]
    for place, group in enumerate(reversed(shown)):
        values, look = list(measure.values(group).values()), looks(group)
        middle = mean(values)
        axis.plot(values, [place] * len(values), "o", color=look.color, alpha=0.35, markersize=4)
        if len(values) > 1:
            axis.plot(bootstrap_interval(values), [place, place], "-", color=look.color, linewidth=3)
        axis.plot([middle], [place], **look.line("D") | {"markersize": 7})
        above = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "fontsize": SMALL}
        axis.annotate(measure(middle), (middle, place), **above)
    axis.set_yticks(range(len(shown)), [as_it_is(group.name) for group in reversed(shown)], fontsize=SMALL)
    axis.set_ylim(-0.6, len(shown) - 0.2)
    axis.margins(x=0.12)  # of the numbers above the means
    if logarithmic and all(value > 0 for group in shown for value in measure.values(group).values()):
        axis.set_xscale("log")
        few_ticks(axis)


def few_ticks(axis: Any) -> None:
    """Names so few places of a logarithmic x axis that their names do not touch."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(MaxNLocator(4) if high < 5 * low else LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="x", labelsize=SMALL)


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
        line: what else Matplotlib takes, such as `color`, `marker` and `label`.

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
    looks: Callable[[Group], Look] | None = None,
    style: Callable[[Group], str] = lambda group: "-",
    marker: str = "",
    dashed: int | None = None,
    **options: Any,
) -> Figure | None:
    """Draws a panel for each part, with a curve for each of its groups that has one; None if none has.

    Of more than eight curves there are several panels, each of which begins with the first group's.

    Args:
        parts: groups by the titles of their panels.
        x: what runs to the right.
        y: what runs upwards.
        curves_of: gives the curves of a group's seeds; by default the `curve` of each row's data.
        looks: gives the look of a group; by default each name has its own, the same in all panels.
        style: gives the style of a group's line, as `curve` takes it, without a marker.
        marker: of the lines whose look has none.
        dashed: which of a point's numbers is drawn as a dashed line besides; None: none is.
        options: what else `curve` takes.
    """
    seeds = {title: [(group, (curves_of or _curves)(group)) for group in groups] for title, groups in parts.items()}
    shown = parted(
        {title: [pair for pair in pairs if pair[1]] for title, pairs in seeds.items()}, 1 + (dashed is not None)
    )
    if not shown:
        return None
    distinct_looks = distinct([[group.name for group, _ in pairs] for _, _, pairs in shown])
    figure, axes = parted_panels(shown)
    for axis, (_, _, pairs) in zip(axes, shown, strict=True):
        for group, of_seeds in pairs:
            line = {**(looks(group) if looks else distinct_looks[group.name]).line(marker), **options}
            if not marker:  # a few marks on a curve of many points
                line["markevery"] = max(1, -(-min(map(len, of_seeds)) // 8))
            curve(axis, of_seeds, style=style(group), label=group.name, **line)
            if dashed is not None:
                curve(axis, of_seeds, style="--", column=dashed, **line)
        describe(axis, x, y)
    return figure


def parted(parts: Mapping[str, Sequence[T]], lines: int = 1) -> list[tuple[str, int, list[T]]]:
    """What stands in each panel if none has more than eight lines: the part's title, the panel's number in it, what.

    Args:
        parts: by title; empty ones have no panel.
        lines: how many lines each has in its panel.
    """
    return [
        (title, number, panel)
        for title, whole in parts.items()
        if whole
        for number, panel in enumerate(split(whole, MOST_LINES // lines), 1)
    ]


def parted_panels(shown: Sequence[tuple[str, int, Sequence[Any]]]) -> tuple[Figure, list[Any]]:
    """The panels of what `parted` gives; those of one part share their axes."""
    counts = Counter(title for title, _, _ in shown)
    titles = [f"{title} ({number} of {counts[title]})" if counts[title] > 1 else title for title, number, _ in shown]
    figure, axes = panels(titles)
    first: dict[str, Any] = {}
    for axis, (title, _, _) in zip(axes, shown, strict=True):
        if axis is not first.setdefault(title, axis):
            axis.sharex(first[title])
            axis.sharey(first[title])
    return figure, axes


def _curves(group: Group) -> list[Curve]:
    return [row.data["curve"] for row in group.with_data]
