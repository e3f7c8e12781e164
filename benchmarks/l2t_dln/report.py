"""Tables, figures and animations of L2T-DLN, from rows alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.l2t_dln import drift, methods
from benchmarks.l2t_dln.methods import METHODS, RELEASED, REPLAYED, SHOWN, STUDIES
from benchmarks.l2t_dln.work import COSINE
from teachenv.experiment import evidence, tables
from teachenv.experiment.evidence import MOVED, MOVED_MOST
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Measure, Section, by, grouped, number
from teachenv.plot import series, style
from teachenv.plot.teaching import loss_surface

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

# Methods in the order of the table, each with its replay.
ORDER = tuple(dict.fromkeys(name for method in METHODS for name in (method, method.replace("l2t-dln", REPLAYED, 1))))

_OTHER, _LABEL = "σ(z_k) of another class", "σ(z_y) of the label"

# A measure that is better when it is smaller.
_ERROR = "error"


class _Part(NamedTuple):
    """A table: rows of a task, the measure that is reported, and the method that others are held against."""

    title: str
    rows: list[Row]
    measure: Measure
    reference: str

    @property
    def groups(self) -> list[Group]:
        """A group for each method that has the measure."""
        return [group for group in grouped(self.rows, ORDER) if group.of(self.measure.metric)]


def make(rows: Sequence[Row], metrics: Mapping[str, str]) -> Report:
    """The report of the rows.

    Args:
        rows: all rows of the run.
        metrics: the measure that is reported, by task.
    """
    final = [row for row in rows if row.config["stage"] == "training"]
    tasks = {task: task_rows for task, task_rows in by(final, lambda row: row.task).items() if task in metrics}
    measures = {task: Measure(f"test_{metrics[task]}", 100) for task in tasks}
    parts = [part for task, task_rows in tasks.items() for part in _parts(task_rows, measures[task])]
    costs = grouped((row for row in rows if row.task == "cost"), key=lambda r: f"{r.student} {r.config['n']}")
    drawn: dict[str, Callable[[], Figure | None]] = {
        "test": partial(_bars, parts),
        "curves": partial(_curves, parts),
        "errors": partial(_errors, final),
        "cost": partial(_cost_figure, costs),
        "imitation": partial(_imitation, rows),
    }
    for task, task_rows in tasks.items():
        drawn |= {f"loss-{task}": partial(_surfaces, task_rows), f"learned-{task}": partial(_learned, task_rows)}
    drawn |= {f"drift-{part.title}": partial(drift.figure, part.title, part.groups) for part in parts}
    captions = {
        "test": "Test measure of each method (red: online): mean, 95 % interval, and a dot a seed",
        "curves": "J on dev as the final students train; those of dashed lines train on dev, too",
        "errors": "Dev error after each window, as previewed and as it came about",
        "cost": "Cost of an iteration by the length of its window",
        "imitation": "A random loss network on its way to cross-entropy",
        **{f"drift-{part.title}": f"{part.title}: where the teachers' moves of the loss go" for part in parts},
    }
    sections = [*map(_section, parts), *_cost_section(costs)]
    report = Report("L2T-DLN: a loss network taught online", sections, drawn, rows, captions)
    report.animations = _animations(final)
    report.unproven = [
        f"{part.title}: {group.name}"
        for part in parts
        for group in part.groups
        if _untaught(group) is not None and _evidence(part.measure)(group) is None
    ]
    return report


def _parts(rows: Sequence[Row], measure: Measure) -> list[_Part]:
    """A task's losses and teachers, and its studies, each of variants of a method."""
    task, present = rows[0].task, {_method(row) for row in rows}
    studies = [studied for studied in STUDIES if present & {*studied.compared} - {*RELEASED}]
    apart = {name for studied in studies for name in studied.compared} - {*RELEASED}
    parts = [_Part(task, [row for row in rows if _method(row) not in apart], measure, "cross-entropy")]
    for studied in studies:
        shown = {studied.base, methods.untaught(studied.base), *studied.compared}
        of_study = [row for row in rows if _method(row) in shown]
        parts.append(_Part(f"{task}: {studied.title}", of_study, measure, studied.base))
    return parts


def _method(row: Row) -> str:
    """The method of a row; a replay counts as what it replays."""
    return row.method.replace(REPLAYED, "l2t-dln", 1)


def _section(part: _Part) -> Section:
    first, measure, metric = part.rows[0], part.measure, part.measure.metric.removeprefix("test_")
    columns = [
        Column("method", lambda g: evidence.marked(g, _evidence(measure))),
        tables.interval("test", measure),
        tables.against(part.reference, f"against {part.reference}, points (95 %, paired t)", measure, ", p {:.2g}"),
        tables.against(_untaught, "against the untaught loss, points (95 %)", measure),
        evidence.share("change of φ or Φ, % mean (max)", MOVED, _untaught, MOVED_MOST),
        number("cosine with −gradient", COSINE, ".3f", statistic=np.mean),
        tables.seeds(measure),
        tables.steps(measure),
        tables.seconds(measure),
        Column("selected settings", lambda g: _described({"lr": f"{g.config['learning_rate']:g}", **g.config["own"]})),
    ]
    better = "smaller" if metric == _ERROR else "larger"
    about = (
        f"Test {metric} in %, mean over seeds [95 % interval]; {better} is better{tables.in_precision(part.rows)}"
        f"{evidence.meaning(part.groups, _evidence(measure))}."
    )
    shown = ("method", "test", "seeds", "student steps", "seconds")
    return Section.of(f"{part.title} ({first.dataset}, {first.student})", columns, part.groups, about, shown)


def _untaught(group: Group) -> str | None:
    """The name of the same loss without a teacher, if the group's has one."""
    return methods.untaught(_method(group.first))


def _evidence(measure: Measure) -> evidence.EvidenceOf:
    return evidence.beside(_untaught, MOVED, measure)


def _described(values: Mapping[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return ", ".join(f"{name} {value}" for name, value in flat.items() if name != "base")


def _look(group: Group) -> style.Look:
    """Those that learn online stand out."""
    return style.Look(style.PALETTE[2 if METHODS[_method(group.first)].kind == "online" else 1])


def _bars(parts: Sequence[_Part]) -> Figure | None:
    if not parts:
        return None
    figure, axes = series.bar_panels([part.title for part in parts], [part.groups for part in parts])
    for axis, part in zip(axes, parts, strict=True):
        series.bars(axis, part.groups, part.measure, _look)
        metric = part.measure.metric.replace("_", " ").replace("map ", "mAP ").replace("miou", "mIoU")
        style.describe(axis, f"{metric}, % (dots: seeds)")
    return figure


def _curves(parts: Sequence[_Part]) -> Figure | None:
    """Draws J on dev as the final students train: means over seeds."""
    return series.curves(
        {part.title: grouped(part.rows, ORDER) for part in parts},
        "student steps",
        "J on dev, mean over seeds",
        style=lambda group: "-" if METHODS[group.name].kind == "online" else "--",
    )


def _errors(rows: Sequence[Row]) -> Figure | None:
    """Draws the dev error after each window: as previewed under the last loss, and under the teacher's new one."""
    taught = [row for row in rows if row.data and row.data["errors"] and row.seed == 0 and row.method in SHOWN]
    if not taught:
        return None
    figure, axes = style.panels([row.task for row in taught])
    for axis, row in zip(axes, taught, strict=True):
        places, previewed, actual = np.array(row.data["errors"]).T
        axis.plot(places, previewed, color=style.PALETTE[0], label="previewed, last loss")
        axis.plot(places, actual, color=style.PALETTE[1], label="new loss")
        gain = float(np.mean(previewed - actual))
        x = f"student steps (mean gain of a window {gain:.1e})"
        style.describe(axis, x, "dev error at the end of a window, −J")
    return figure


def shown_run(rows: Sequence[Row]) -> Row | None:
    """The run of a task whose loss is shown: of L2T-DLN, as it is released in that setting, the first seed."""
    runs = [row for row in rows if row.method in SHOWN and row.seed == 0 and row.data and row.data["pictures"]]
    return runs[0] if runs else None


def _range(row: Row) -> tuple[float, float]:
    values = np.array([picture for _, picture in row.data["pictures"]])
    return float(values.min()), float(values.max())


def _draw(axis: Any, picture: Any, limits: tuple[float, float], title: str) -> Any:
    image = axis.imshow(
        np.array(picture), origin="lower", extent=(0, 1, 0, 1), vmin=limits[0], vmax=limits[1], cmap=style.SEQUENTIAL
    )
    axis.set_title(title, fontsize=style.TEXT)
    axis.set_xlabel(_OTHER, fontsize=style.TEXT)
    axis.set_ylabel(_LABEL, fontsize=style.TEXT)
    return image


def _surfaces(rows: Sequence[Row]) -> Figure | None:
    """Draws the learned loss of a pair at some moments of the training."""
    row = shown_run(rows)
    if row is None:
        return None
    pictures = {f"after {step} steps": picture for step, picture in row.data["pictures"]}
    u = np.linspace(0, 1, len(next(iter(pictures.values()))))
    return loss_surface(u, u, pictures, x_label=_OTHER, y_label=_LABEL, title=f"{row.task}: loss of a pair")


def _learned(rows: Sequence[Row]) -> Figure | None:
    """Losses that were learned between training runs, along either logit of a pair, less their value at zero."""
    taught = [row for row in rows if row.method == "l2t-dln:trainings" and row.data and row.data["pictures"]]
    if not taught:
        return None
    figure, axes = style.panels(["along the label's logit, the other 0", "along another class's logit, the label's 0"])
    for color, row in zip(style.PALETTE[1:], sorted(taught, key=lambda row: row.seed), strict=False):
        loss = np.array(row.data["pictures"][-1][1])
        middle = len(loss) // 2
        u = np.linspace(0, 1, len(loss))[1:-1]
        z = np.log(u / (1 - u))
        for axis, line in zip(axes, (loss[1:-1, middle], loss[middle, 1:-1]), strict=True):
            axis.plot(z, line - loss[middle, middle], color=color, label=f"{row.method}, seed {row.seed}")
    for axis, sign in zip(axes, (-1, 1), strict=True):
        plain = np.log1p(np.exp(sign * z)) - np.log(2)
        axis.plot(z, plain, "--", color=style.PALETTE[0], label="cross-entropy of two classes")
        style.describe(axis, "logit", "loss of a pair")
    figure.suptitle(rows[0].task, fontsize=style.TEXT)
    return figure


def _animations(rows: Sequence[Row]) -> dict[str, Callable[[], FuncAnimation]]:
    """The learned loss of each task along a training run."""
    shown = {task: shown_run(task_rows) for task, task_rows in by(rows, lambda row: row.task).items()}
    return {f"loss-{task}": partial(_animation, run) for task, run in shown.items() if run}


def _animation(row: Row) -> FuncAnimation:
    from matplotlib.animation import FuncAnimation
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures, limits = row.data["pictures"], _range(row)
    figure = Figure(figsize=(4.6, 4.2), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    figure.colorbar(_draw(axis, pictures[0][1], limits, ""), ax=axis, shrink=0.8)

    def frame(number: int) -> list[Any]:
        axis.clear()
        step, picture = pictures[number]
        return [_draw(axis, picture, limits, f"{row.task}: after {step} steps")]

    return FuncAnimation(figure, frame, frames=len(pictures), blit=False)


def _cost_section(groups: Sequence[Group]) -> list[Section]:
    columns = [
        Column("student", lambda group: group.first.student),
        Column("N", lambda group: str(group.config["n"])),
        number("2N plain steps, s", "plain_seconds", ".3f"),
        number("hypergradient, s", "hypergradient_seconds", ".3f"),
        number("iteration, s", "iteration_seconds", ".3f"),
        Column("iteration / plain", lambda group: f"{_took(group, 'iteration') / _took(group, 'plain'):.2f}"),
    ]
    return [Section.of("Cost of an iteration", columns, groups)] if groups else []


def _took(group: Group, what: str) -> float:
    return float(np.median(list(group.values(f"{what}_seconds").values())))


def _cost_figure(groups: Sequence[Group]) -> Figure | None:
    """Draws the seconds of a hypergradient over N."""
    if not groups:
        return None
    students = by((row for group in groups for row in group.rows), lambda row: row.student)
    figure, axes = style.panels(list(students))
    for axis, rows in zip(axes, students.values(), strict=True):
        for color, (metric, metric_rows) in zip(style.PALETTE, by(rows, lambda r: r.metric).items(), strict=False):
            label = metric.removesuffix("_seconds").replace("plain", "2N plain steps")
            points = sorted((row.config["n"], row.value) for row in metric_rows)
            series.curve(axis, [points], style="-o", color=color, markersize=4, label=label)
        axis.set_ylim(bottom=0)
        style.describe(axis, "length of the window N, student steps", "seconds")
    return figure


def _imitation(rows: Sequence[Row]) -> Figure | None:
    """Shows a random loss network on its way to cross-entropy."""
    errors = [row for row in rows if (row.task, row.metric) == ("imitation", "slope_error")]
    if not errors:
        return None
    titles = ["error of the slopes (seeds)", "loss along the label's logit, other logit 0 (seed 0)"]
    figure, axes = style.panels(titles)
    for color, (seed, of_seed) in zip(
        style.PALETTE[1:], sorted(by(errors, lambda row: row.seed).items()), strict=False
    ):
        points = sorted((max(row.config["steps"], 10), row.value) for row in of_seed)
        axes[0].plot(*zip(*points, strict=True), "-o", color=color, markersize=4, label=f"seed {seed}")
    axes[0].set_xscale("log")
    first = sorted((row for row in errors if row.seed == 0), key=lambda row: int(row.config["steps"]))
    # The first ones and the last, for there are more than a panel can show.
    shown = [*first[: style.MOST_LINES - 2], *first[style.MOST_LINES - 2 :][-1:]]
    for color, row in zip(style.PALETTE[1:], shown, strict=False):
        axes[1].plot(*row.data, color=color, label=f"{row.config['steps']} steps")
    x = np.array(first[0].data[0])
    axes[1].plot(x, np.log1p(np.exp(-x)), "--", color=style.PALETTE[0], label="cross-entropy of two classes")
    y = "‖slopes − cross-entropy's‖ / ‖cross-entropy's‖"
    style.describe(axes[0], "steps of imitation (leftmost: none)", y)
    style.describe(axes[1], "z_y, the label's logit", "loss")
    return figure
