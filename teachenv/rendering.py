"""Pictures and text of an episode in progress, for `render_mode` "rgb_array" and "ansi".

Both are pure functions of a `Frame`. Figures are made with Matplotlib's object interface and drawn by Agg into
memory: no window, no pyplot, no state that outlives the call, so many environments can draw in many threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 960, 480
"""Pixels of a frame; even, because video codecs insist on it."""

_DPI = 100
_INK, _GRID = "#333333", "#e4e4e4"
_BARS = "▁▂▃▄▅▆▇█"
_TEXT_WIDTH = 40  # characters of the progress bar and the sparkline


@dataclass(frozen=True, eq=False)
class Frame:
    """Everything that a picture of an episode shows.

    Attributes:
        steps: student steps at which the histories were recorded, increasing; empty before the first record.
        objective: dev objective J at these steps.
        dev_score: the measure's score on dev at these steps, in [0, 1].
        train_loss: training loss at these steps, in the unit of the student's loss.
        horizon: student steps of a whole episode.
        coefficients: what the teacher set last (loss coefficients, sample weights), shape `(rows, columns)`.
        coefficient_label: what the coefficients are.
        title: headline, e.g. the environment's id and the student.
        score_name: what the measure's score is called, such as "accuracy".

    Raises:
        ValueError: the histories differ in length, `coefficients` is not a non-empty matrix, or `horizon` is
            below 1.
    """

    steps: Sequence[int]
    objective: Sequence[float]
    dev_score: Sequence[float]
    train_loss: Sequence[float]
    horizon: int
    coefficients: npt.NDArray[np.floating]
    coefficient_label: str
    title: str
    score_name: str = "accuracy"

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("steps", "objective", "dev_score", "train_loss")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"histories have lengths {lengths}: expected one entry of each per recorded step")
        if np.ndim(self.coefficients) != 2 or np.size(self.coefficients) == 0:
            raise ValueError(
                f"coefficients have shape {np.shape(self.coefficients)}: expected a non-empty matrix; give a vector "
                f"as one row, with reshape(1, -1)"
            )
        if self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}: expected at least one student step")


def draw(frame: Frame) -> npt.NDArray[np.uint8]:
    """Draws learning curves (left) and the current coefficients (right).

    Args:
        frame: what to show. Non-finite values leave gaps in the curves and grey cells in the heat map.

    Returns:
        RGB image, uint8, shape `(480, 960, 3)`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    figure.text(0.065, 0.935, frame.title, fontsize=13, fontweight="bold", color=_INK, va="center", parse_math=False)
    progress = f"student step {_current_step(frame):,} of {frame.horizon:,}"
    figure.text(0.965, 0.935, progress, fontsize=11, color=_INK, va="center", ha="right")
    _draw_curves(figure, frame)
    _draw_coefficients(figure, frame)
    canvas.draw()  # type: ignore[no-untyped-call]
    rgba = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(rgba[:, :, :3])


def text(frame: Frame) -> str:
    """Describes a frame in a few lines: progress bar, current numbers, sparkline of the objective, coefficients."""
    step = _current_step(frame)
    fraction = min(max(step / frame.horizon, 0.0), 1.0)
    filled = int(fraction * _TEXT_WIDTH)
    coefficients = np.asarray(frame.coefficients, dtype=np.float64)
    finite = coefficients[np.isfinite(coefficients)]
    extent = f"{finite.min():.3g} to {finite.max():.3g}" if finite.size else "not finite"
    return "\n".join(
        (
            frame.title,
            f"[{'█' * filled}{'░' * (_TEXT_WIDTH - filled)}] {fraction:4.0%}  step {step}/{frame.horizon}",
            f"dev objective {_latest(frame.objective)}   dev {frame.score_name} {_latest(frame.dev_score)}   "
            f"train loss {_latest(frame.train_loss)}",
            f"dev objective {_sparkline(frame.objective)}",
            f"{frame.coefficient_label}: {coefficients.shape[0]}x{coefficients.shape[1]}, {extent}",
        )
    )


def _current_step(frame: Frame) -> int:
    return int(frame.steps[-1]) if len(frame.steps) else 0


def _latest(values: Sequence[float]) -> str:
    return f"{values[-1]:.3f}" if not all(map(math.isnan, values)) else "-"


def _sparkline(values: Sequence[float]) -> str:
    """One bar per value, at most `_TEXT_WIDTH` of them (evenly picked, the last always among them)."""
    series = np.asarray(values, dtype=np.float64)
    if series.size > _TEXT_WIDTH:
        series = series[np.linspace(0, series.size - 1, _TEXT_WIDTH).round().astype(int)]
    finite = series[np.isfinite(series)]
    if finite.size == 0:
        return "·" * series.size or "-"
    low, span = finite.min(), np.ptp(finite)
    # A flat series is drawn low: the height of its bars would mean nothing.
    heights = [(value - low) / span if span > 0 else 0.0 for value in series]
    return "".join(_BARS[round(h * (len(_BARS) - 1))] if math.isfinite(h) else "·" for h in heights)


def _draw_curves(figure: Figure, frame: Frame) -> None:
    from teachenv.plot import style

    axes = figure.add_axes((0.065, 0.13, 0.40, 0.66))
    loss_axes = axes.twinx()
    axes.set_zorder(loss_axes.get_zorder() + 1)  # the measures lie over the loss, which is only context
    axes.patch.set_visible(False)

    of_objective, of_loss, of_score = style.PALETTE[1:4]
    _curve(loss_axes, frame, frame.train_loss, "train loss", of_loss, width=1.3, style=(0, (4, 1.5)))
    _curve(axes, frame, frame.dev_score, f"dev {frame.score_name}", of_score, width=1.8)
    _curve(axes, frame, frame.objective, "dev objective", of_objective, width=2.2)

    axes.set_xlim(0, frame.horizon)
    axes.set_ylim(*_measure_limits(frame))
    loss_axes.set_ylim(*_padded_limits(frame.train_loss))
    axes.set_xlabel("student step", fontsize=10, color=_INK)
    loss_axes.set_ylabel("train loss", fontsize=10, color=of_loss)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for each in (axes, loss_axes):
        each.spines["top"].set_visible(False)
        each.tick_params(labelsize=9, color="#999999", labelcolor=_INK)
        for spine in each.spines.values():
            spine.set_color("#999999")
    loss_axes.tick_params(labelcolor=of_loss)

    lines = [*reversed(axes.get_lines()), *loss_axes.get_lines()]
    axes.legend(
        handles=lines,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        handlelength=1.8,
        columnspacing=0.9,
        handletextpad=0.4,
        labelcolor=_INK,
    )


def _curve(
    axes: Axes,
    frame: Frame,
    values: Sequence[float],
    label: str,
    color: str,
    width: float,
    style: str | tuple[int, tuple[float, ...]] = "-",
) -> None:
    """Draws one history; the point at its end shows where the episode is, and shows a history of length one."""
    axes.plot(
        np.asarray(frame.steps, dtype=np.float64),
        _plottable(values),
        color=color,
        linewidth=width,
        linestyle=style,
        marker="o",
        markersize=5,
        markevery=[len(values) - 1] if len(values) else [],
        clip_on=False,
        label=f"{label} {_latest(values)}",
    )


def _plottable(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Values for Matplotlib, which skips NaN but overflows when it scales numbers near the end of the range."""
    series = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(series) < 1e100, series, np.nan)


def _measure_limits(frame: Frame) -> tuple[float, float]:
    """[0, 1] as long as the measures keep to it, as those of the library do, so that the curves do not jump about."""
    values = [*frame.objective, *frame.dev_score]
    low, high = _padded_limits(values)
    inside = all(0.0 <= value <= 1.0 for value in values if math.isfinite(value))
    return (0.0, 1.0) if inside else (low, high)


def _padded_limits(values: Sequence[float]) -> tuple[float, float]:
    series = _plottable(values)
    finite = series[np.isfinite(series)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    padding = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    # A loss that is never negative is shown from zero: its distance from zero means something.
    return (0.0 if low >= 0.0 else low - padding), high + padding


def _draw_coefficients(figure: Figure, frame: Frame) -> None:
    matrix = np.ma.masked_invalid(np.asarray(frame.coefficients, dtype=np.float64))
    rows, columns = matrix.shape
    low, high, colormap = _color_scale(matrix)

    axes = figure.add_axes((0.565, 0.13, 0.33, 0.66))
    # Cells are square where that leaves room to see them; a row of weights fills the panel instead.
    square = 0.5 <= rows / columns <= 2.0
    image = axes.imshow(
        matrix, cmap=colormap, vmin=low, vmax=high, aspect="equal" if square else "auto", interpolation="nearest"
    )
    axes.set_anchor("N")  # a matrix that does not fill the panel hangs from the top, below its title
    axes.set_facecolor("#bbbbbb")  # shows through where a coefficient is not finite
    axes.set_title(frame.coefficient_label, fontsize=11, color=_INK, pad=9, parse_math=False)
    for axis, length in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(_cell_ticks(length))
    axes.tick_params(labelsize=8, length=0 if max(rows, columns) <= 20 else 3, color="#999999", labelcolor=_INK)
    for spine in axes.spines.values():
        spine.set_color("#999999")
    if max(rows, columns) <= 20:  # thin white lines between cells, while cells are larger than lines
        axes.set_xticks(np.arange(columns - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.0)
        axes.tick_params(which="minor", length=0)

    bar_axes = figure.add_axes((0.915, 0.13, 0.014, 0.66))
    bar = figure.colorbar(image, cax=bar_axes)
    bar.ax.tick_params(labelsize=9, color="#999999", labelcolor=_INK)
    bar.outline.set_edgecolor("#999999")


def _color_scale(matrix: np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float, str]:
    """Limits and colormap: diverging about zero for signed or square matrices, else sequential from zero.

    A square matrix is Φ, whose sign is its meaning, even where no entry happens to be negative; the scale must not
    switch when the first one is. Limits are round numbers, so that they seldom change between frames.
    """
    from teachenv.plot import style

    finite = matrix.compressed()
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    limit = _round_up(largest)
    signed = bool((finite < 0).any()) or matrix.shape[0] == matrix.shape[1] > 1
    return (-limit, limit, style.DIVERGING) if signed else (0.0, limit, style.SEQUENTIAL)


def _round_up(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `value`; 1 where colours cannot tell anyway."""
    if not 1e-100 < value < 1e100:
        return 1.0 if value < 1.0 else 1e100
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if value <= factor * power * (1 + 1e-9))


def _cell_ticks(length: int) -> npt.NDArray[np.int64]:
    """Every cell while there is room for numbers, else a few at round distances; none along a single row."""
    if length == 1:
        return np.zeros(0, dtype=np.int64)
    stride = 1 if length <= 12 else int(_round_up(length / 6))
    return np.arange(0, length, max(stride, 1))
