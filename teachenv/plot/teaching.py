"""Figures of what a teacher does: its coefficients over an episode, and the loss that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from teachenv.plot.arrays import Array, numbers, texts
from teachenv.plot.style import (
    DIVERGING,
    GREY,
    MOST_LINES,
    PALETTE,
    PANEL,
    SEQUENTIAL,
    SMALL,
    TEXT,
    as_it_is,
    describe,
    new_figure,
    panels,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOMENTS = 5


def coefficients(
    values: Any,
    *,
    steps: Sequence[int] | None = None,
    names: Sequence[Any] | None = None,
    neutral: Any = None,
    title: str = "",
) -> Figure:
    """Draws a teacher's coefficients over an episode.

    Up to eight coefficients are lines; more of them are an image with a line of cells for each. Matrices, such as the Φ
    of the bilinear loss, are heat maps at five moments of the episode: red above neutral, blue below.

    Args:
        values: (T, n) or (T, rows, columns), what the teacher set at each of T actions.
        steps: (T,) the student steps at which it did; None: 0, 1, 2, ...
        names: what the coefficients are called, n texts; of matrices the classes, in rows and columns. None: numbers.
        neutral: the coefficients of the plain loss, in the shape of one action, or one number for all: a dotted line
            where there are lines, else what is subtracted. None: unknown.
        title: stands above the figure.

    Raises:
        ValueError: arrays of other shapes, or another number of names.
    """
    taken = numbers("values", values, ("steps", "coefficients"), ("steps", "rows", "columns"))
    at = np.arange(len(taken), dtype=np.float64) if steps is None else numbers("steps", steps, (len(taken),))
    base = (
        None if neutral is None else np.broadcast_to(numbers("neutral", neutral, (), taken.shape[1:]), taken.shape[1:])
    )
    called = [str(n) for n in range(taken.shape[-1])]
    if names is not None:
        called = texts("names", names, taken.shape[-1], "names")
    if taken.ndim == 3:
        return _matrices(taken, at, base, called if names is not None else None, title)
    if taken.shape[1] <= MOST_LINES:
        return _lines(taken, at, base, called, title)
    return _cells(taken, at, base, called, title)


def loss_curves(
    x: Any,
    losses: Any,
    *,
    names: Sequence[Any] | None = None,
    plain: Any = None,
    x_label: str = "probability of the label",
    title: str = "",
) -> Figure:
    """Draws a taught loss along one quantity, a curve for each moment of the training, class, or teacher.

    Args:
        x: (K,) the quantity, such as the probability that the student gives to the label.
        losses: (n, K) or (K,) the loss there, at most eight curves.
        names: what the curves are called, n texts; None: numbers.
        plain: (K,) the untaught loss, drawn dashed; None: not drawn.
        x_label: what the quantity is.
        title: stands above the figure.

    Raises:
        ValueError: arrays of other shapes, or more than eight curves, the untaught loss included.
    """
    places = numbers("x", x, ("points",))
    taught = np.atleast_2d(numbers("losses", losses, ("curves", len(places)), (len(places),)))
    if len(taught) + (plain is not None) > MOST_LINES:
        raise ValueError(
            f"losses has {len(taught)} curves, expected at most {MOST_LINES - (plain is not None)}: more "
            "cannot be told apart; draw them in several figures"
        )
    labels = [str(n) for n in range(len(taught))] if names is None else texts("names", names, len(taught), "names")
    figure, (axis,) = panels([title])
    if plain is not None:
        axis.plot(places, numbers("plain", plain, places.shape), "--", color=PALETTE[0], label="untaught")
    for color, label, curve in zip(PALETTE[1:] + PALETTE[:1], labels, taught, strict=False):
        axis.plot(places, curve, color=color, label=as_it_is(label))
    describe(axis, x_label, "loss")
    return figure


def loss_surface(
    x: Any,
    y: Any,
    losses: Any,
    *,
    x_label: str = "probability of another class",
    y_label: str = "probability of the label",
    title: str = "",
) -> Figure:
    """Draws a taught loss over two quantities, as a map with contour lines, which hides no part as a 3-D view would.

    Args:
        x: (K,) the quantity that runs to the right, increasing.
        y: (L,) the quantity that runs upwards, increasing.
        losses: (L, K) the loss; or several, by the titles of their panels, which share their colours. Values that are
            not finite are left blank.
        x_label: what the first quantity is.
        y_label: what the second quantity is.
        title: stands above the figure.

    Raises:
        ValueError: arrays of other shapes, a single value of x or y, or no finite loss.
    """
    from matplotlib.ticker import MaxNLocator

    right, up = numbers("x", x, ("points",)), numbers("y", y, ("points",))
    given = losses if isinstance(losses, Mapping) else {"": losses}
    maps = {str(name): numbers("losses", each, (len(up), len(right))) for name, each in given.items()}
    finite = np.concatenate([each[np.isfinite(each)] for each in maps.values()]) if maps else np.empty(0)
    if not finite.size:
        raise ValueError("losses has no finite value, expected at least one: the student may have diverged")
    if min(len(right), len(up)) < 2:
        raise ValueError(f"found {len(right)} values of x and {len(up)} of y, expected at least two of each")
    levels = MaxNLocator(12).tick_values(finite.min(), max(finite.max(), finite.min() + 1e-9))
    figure, axes = panels(list(maps), (3.6, 3.2))
    for axis, values in zip(axes, maps.values(), strict=True):
        shown = np.ma.masked_invalid(values)
        axis.grid(visible=False)
        drawn = axis.contourf(right, up, shown, levels, cmap=SEQUENTIAL)
        axis.contour(right, up, shown, levels, colors="white", linewidths=0.5)
        describe(axis, x_label, y_label)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label("loss", fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    if title:
        figure.suptitle(wrapped(title, figure.get_figwidth(), 80), fontsize=TEXT)
    return figure


def heat_maps(
    lines: Mapping[str, Sequence[tuple[str, Any]]],
    title: str,
    size: tuple[float, float] = (2.3, 2.5),
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
    columns = max(len(maps) for maps in lines.values())
    figure = new_figure(size[0] * columns + 1.2, size[1] * len(lines) + (0.5 if title else 0.0))
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (name, maps) in zip(axes, lines.items(), strict=True):
        limit = max(1e-6, *(float(np.nan_to_num(np.abs(matrix)).max()) for _, matrix in maps))
        for column, (axis, (caption, matrix)) in enumerate(zip(line, maps, strict=False)):
            drawn = axis.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit, **image)
            axis.set_title(wrapped(caption, size[0], 40), fontsize=SMALL)
            axis.tick_params(labelsize=SMALL)
            finish(axis, column)
        for axis in line[len(maps) :]:
            axis.set_visible(False)
        line[0].set_ylabel(wrapped(name, size[1], 40), fontsize=TEXT)
        bar = figure.colorbar(drawn, ax=list(line), shrink=0.8)
        bar.ax.tick_params(labelsize=SMALL)
    if title:
        figure.suptitle(wrapped(title, figure.get_figwidth() - 0.5, 80), fontsize=TEXT)
    return figure


def class_ticks(axis: Any, names: Sequence[str] | None = None) -> None:
    """Names the classes of a heat map (label, class), while there are at most ten of them."""
    count = round(axis.get_xlim()[1] + 0.5)
    places = range(count) if count <= 10 else []
    shown = [as_it_is(name, 8) for name in names] if names and places else [str(place) for place in places]
    long = max(map(len, shown), default=0) > 1
    axis.set_xticks(places, shown, rotation=90 if long else 0)
    axis.set_yticks(places, shown)
    axis.tick_params(labelsize=SMALL - 1, length=0)
    axis.set_xlabel("class", fontsize=SMALL)


def _lines(taken: Array, at: Array, base: Array | None, names: Sequence[str], title: str) -> Figure:
    figure, (axis,) = panels([title])
    for n, name in enumerate(names):
        style = {"color": PALETTE[n], "label": as_it_is(name)}
        axis.plot(at, taken[:, n], marker="o" if len(at) == 1 else "", **style)
    for level in np.unique(base) if base is not None else []:
        axis.axhline(level, color=GREY, linestyle=":", linewidth=1, zorder=1)
    describe(axis, "student steps", "coefficient" if base is None else "coefficient (dotted: untaught)")
    return figure


def _cells(taken: Array, at: Array, base: Array | None, names: Sequence[str], title: str) -> Figure:
    """Time runs to the right; a line of cells is a coefficient."""
    shown = taken if base is None else taken - base
    signed = base is not None or bool((shown < 0).any())
    limit = max(1e-6, float(np.nan_to_num(np.abs(shown)).max()))
    figure, (axis,) = panels([title], (PANEL[0] + 0.4, PANEL[1]))
    axis.grid(visible=False)
    low, color_map = (-limit, DIVERGING) if signed else (0.0, SEQUENTIAL)
    drawn = axis.imshow(shown.T, aspect="auto", cmap=color_map, vmin=low, vmax=limit, interpolation="nearest")
    few = np.unique(np.linspace(0, len(at) - 1, min(6, len(at))).round().astype(int))
    axis.set_xticks(few, [f"{at[place]:g}" for place in few])
    if len(names) <= 12:
        axis.set_yticks(range(len(names)), [as_it_is(name, 20) for name in names])
    bar = figure.colorbar(drawn, ax=axis)
    bar.set_label("coefficient" if base is None else "coefficient less the untaught", fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    describe(axis, "student steps", "" if len(names) <= 12 else "coefficient's number")
    return figure


def _matrices(taken: Array, at: Array, base: Array | None, names: Sequence[str] | None, title: str) -> Figure:
    shown = taken if base is None else taken - base
    moments = np.unique(np.linspace(0, len(at) - 1, min(_MOMENTS, len(at))).round().astype(int))
    square = taken.shape[1] == taken.shape[2]
    maps = [(f"step {at[place]:g}", shown[place]) for place in moments]
    finish = (lambda axis, column: class_ticks(axis, names)) if square else (lambda axis, column: None)
    return heat_maps({"label" if square else "row": maps}, title, finish=finish)
