"""Figures of training samples: their weights, what they did to a test, and labels that may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from teachenv import checks
from teachenv.plot.arrays import Array, images, numbers, texts
from teachenv.plot.style import GREY, PALETTE, SMALL, TEXT, describe, new_figure, panels, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE = 1.15  # inches: width of a sample's image
_BINS = 20


def sample_weights(losses: Any, weights: Any, *, wrong: Any = None, title: str = "") -> Figure:
    """Draws the weight of each sample against its loss, with the median weight along the losses.

    The line has a point for each twentieth of the samples, by their losses.

    Args:
        losses: (N,) the loss of each sample under the student.
        weights: (N,) the weights that a teacher gives them.
        wrong: (N,) which samples have wrong labels, true or false; they are drawn in another colour. None: not known.
        title: stands above the figure.

    Raises:
        ValueError: arrays of other shapes.
    """
    x = numbers("losses", losses, ("samples",))
    y = numbers("weights", weights, x.shape)
    marked = np.zeros(len(x), dtype=bool) if wrong is None else numbers("wrong", wrong, x.shape) != 0
    figure, (axis,) = panels([title], (4.6, 3.2))
    groups = [(~marked, "samples" if wrong is None else "right labels", PALETTE[1], "o")]
    groups += [] if wrong is None else [(marked, "wrong labels", PALETTE[2], "^")]
    for chosen, label, color, marker in groups:
        style = {"color": color, "marker": marker, "alpha": 0.5, "linewidth": 0, "rasterized": True}
        axis.scatter(x[chosen], y[chosen], s=12, label=label, **style)
    parts = np.array_split(np.argsort(x, kind="stable"), min(_BINS, len(x)))
    middle = np.array([[np.median(x[part]), np.median(y[part])] for part in parts])
    axis.plot(*middle.T, color=PALETTE[0], linewidth=1.5, label="median weight")
    describe(axis, "loss of the sample", "weight")
    return figure


def attribution(
    values: Any,
    inputs: Any,
    test: Any,
    *,
    labels: Sequence[Any] | None = None,
    test_label: Any = None,
    count: int = 6,
    shape: Sequence[int] | None = None,
    title: str = "",
) -> Figure:
    """Draws a test image beside the training samples that helped it most and those that harmed it most.

        scores = meta.attribute(env, tests=(x, y))
        teachenv.plot.attribution(scores.values[0], inputs, x[0], labels=labels, test_label=y[0])

    Args:
        values: (N,) d(the test's loss)/d(a sample's weight), a row of `meta.attribute(...).values`. Negative: the
            sample lowered the test's loss, it helped; positive: it harmed.
        inputs: (N, ...) the samples, in the same order.
        test: the test, in the shape of one sample.
        labels: (N,) what the samples are labelled; None: no labels are shown.
        test_label: what the test is labelled; None: it is not shown.
        count: how many samples of either kind are drawn, at most half of all.
        shape: height and width of a sample, (height, width) or (height, width, channels), where samples are rows of
            numbers. None: samples are images, (height, width) or (channels, height, width).
        title: stands above the figure.

    Raises:
        ValueError: arrays of other shapes, or samples that are no images.
    """
    value = numbers("values", values, ("samples",))
    samples, one = np.asarray(inputs), np.asarray(test)
    if len(samples) != len(value):
        raise ValueError(f"inputs are {len(samples)} samples, expected {len(value)}: one for each of values")
    if one.shape != samples.shape[1:]:
        raise ValueError(f"test has shape {one.shape}, expected {samples.shape[1:]}, that of one sample")
    named = None if labels is None else texts("labels", labels, len(value), "labels")
    shown = min(checks.integer("count", count, least=1), max(1, len(value) // 2))
    order = np.argsort(value, kind="stable")
    lines = {"helped most": order[:shown], "harmed most": order[::-1][:shown]}
    # All of them together, so that grey means the same everywhere.
    chosen = np.concatenate(list(lines.values()))
    pictures = images("inputs", np.concatenate([one[None], samples[chosen]]), shape)
    numbered = [f"{value[i]:+.1e}".replace("-", "−") for i in chosen]
    captions = numbered if named is None else [f"label {named[i]}\n{n}" for i, n in zip(chosen, numbered, strict=True)]

    figure = new_figure(_TILE * (shown + 2.2), 2 * (_TILE + 0.45) + 0.4)
    grid = figure.add_gridspec(2, shown + 2)
    _show(figure.add_subplot(grid[:, :2]), pictures[0], "test" if test_label is None else f"test, label {test_label}")
    for n, (picture, caption) in enumerate(zip(pictures[1:], captions, strict=True)):
        line, place = divmod(n, shown)
        axis = figure.add_subplot(grid[line, place + 2])
        _show(axis, picture, caption, PALETTE[line + 1])
        if place == 0:
            axis.set_ylabel(list(lines)[line], fontsize=SMALL, color=PALETTE[line + 1])
    what = "numbers: derivative of the test's loss with respect to the sample's weight"
    figure.supxlabel(wrapped(what, figure.get_figwidth() - 0.5), fontsize=SMALL)
    _entitle(figure, title)
    return figure


def suspects(
    inputs: Any,
    given: Sequence[Any],
    likely: Sequence[Any],
    *,
    shape: Sequence[int] | None = None,
    columns: int = 8,
    title: str = "",
) -> Figure:
    """Draws samples whose labels may be wrong, as images with the label given and the likely one.

    Args:
        inputs: (N, ...) the samples that are drawn, the most suspect first.
        given: (N,) their labels as given.
        likely: (N,) what they more likely are.
        shape: height and width of a sample, (height, width) or (height, width, channels), where samples are rows of
            numbers. None: samples are images, (height, width) or (channels, height, width).
        columns: how many images stand in a line.
        title: stands above the figure.

    Raises:
        ValueError: arrays of other shapes, or samples that are no images.
    """
    pictures = images("inputs", inputs, shape)
    given, likely = (
        texts(name, labels, len(pictures), "labels") for name, labels in (("given", given), ("likely", likely))
    )
    columns = min(checks.integer("columns", columns, least=1), len(pictures))
    lines = -(-len(pictures) // columns)
    figure = new_figure((_TILE + 0.15) * columns, (_TILE + 0.55) * lines + (0.3 if title else 0.0))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(pictures) :]:
        axis.set_visible(False)
    for axis, picture, old, new in zip(axes, pictures, given, likely, strict=False):
        _show(axis, picture, f"given {old}\nlikely {new}")
    _entitle(figure, title)
    return figure


def _entitle(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(wrapped(title, figure.get_figwidth() - 0.5, 80), fontsize=TEXT)


def _show(axis: Any, picture: Array, caption: str, color: str = GREY) -> None:
    axis.imshow(picture, cmap="gray" if picture.ndim == 2 else None, vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_color(color)
    lines = [wrapped(line, 1.3 * _TILE, 30) for line in caption.split("\n")]
    axis.set_title("\n".join(lines), fontsize=SMALL)
