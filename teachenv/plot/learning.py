"""Learning curves of result rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from teachenv.experiment.row import Row
from teachenv.experiment.tables import Group, by, grouped
from teachenv.plot.series import curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(
    rows: Sequence[Row],
    metric: str | None = None,
    *,
    x_label: str = "student steps",
    y_label: str | None = None,
    band: Literal["range", "interval"] | None = "interval",
) -> Figure:
    """Draws the learning curves of result rows: a panel for each task, a line for each method, the mean over its seeds.

    Of a method, task and seed that have several configurations the newest is shown; rows of a tuning are left out. A
    panel has at most eight lines: further methods have panels of their own, which begin with the first method.

        report = teachenv.compare("TeachDigits-v0", ...)
        teachenv.plot.learning_curves(report.rows, "dev_objective")

    Args:
        rows: result rows, of a report or from `teachenv.experiment.read_rows`.
        metric: draws these numbers along the student steps that were spent: how teachers learn. None: draws the curves
            that rows keep in `data["curve"]`: how students learn. A curve is of numbers, one for each action, or of
            pairs (student steps, number).
        x_label: what runs to the right.
        y_label: what runs upwards; None: the metric, or "J on dev".
        band: around a line: the 95 % bootstrap interval of the mean, the range from the lowest to the highest seed, or
            None.

    Raises:
        ValueError: no row has what is asked for.
    """
    chosen = _newest([row for row in rows if row.config.get("stage", "training") == "training"])

    def curves_of(group: Group) -> list[Any]:
        return _kept(group) if metric is None else _measured(group, metric)

    tasks = {task: grouped(of_task) for task, of_task in by(chosen, lambda row: row.task).items()}
    y_label = y_label or ("J on dev" if metric is None else metric.replace("_", " "))
    words = {"interval": " (mean and 95 % interval over seeds)", "range": " (mean and range over seeds)"}
    figure = curves(tasks, x_label, y_label + words.get(band or "", ""), curves_of, band=band)
    if figure is None:
        what = "a curve in its data" if metric is None else f"the metric {metric!r} at two student steps or more"
        has = ", ".join(sorted({row.metric for row in chosen})) or "none"
        raise ValueError(f"none of {len(rows)} rows has {what}; the metrics of training runs are: {has}")
    return figure


def _newest(rows: Sequence[Row]) -> list[Row]:
    newest = {(row.task, row.method, row.seed): row.config for row in rows}
    return [row for row in rows if row.config == newest[row.task, row.method, row.seed]]


def _measured(group: Group, metric: str) -> list[Any]:
    seeds = by(group.of(metric), lambda row: row.seed).values()
    return [[(row.student_steps, row.value) for row in of_seed] for of_seed in seeds if len(of_seed) > 1]


def _kept(group: Group) -> list[Any]:
    kept = [row.data["curve"] for row in group.with_data if isinstance(row.data, dict) and row.data.get("curve")]
    return [curve if isinstance(curve[0], list) else list(enumerate(curve)) for curve in kept]
