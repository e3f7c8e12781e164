"""Tables, figures and animations of L2T-DLN, from rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.l2t_dln.methods import ARCHITECTURES, METHODS, REPLAYED
from benchmarks.presentation import color, in_precision, markdown, panels, print_table, write_figures
from teachenv.experiment.rows import Row, write_atomically
from teachenv.experiment.statistics import paired, summarise
from teachenv.files import whole_file

# A measure that is better when it is smaller.
_ERROR = "error"

HEADER = ("method", "test", "against {}, points (95 %, paired t)", "seeds", "student steps", "seconds", "tuned")
COST_HEADER = ("student", "N", "2N plain steps, s", "hypergradient, s", "iteration, s", "iteration / plain")


def write(rows: Sequence[Row], folder: Path, metrics: Mapping[str, str]) -> None:
    """Writes table.md, figures and animations into the folder, and prints the tables.

    Args:
        rows: of the run.
        folder: where.
        metrics: the measure that is reported, by task.
    """
    final = [row for row in rows if row.config["stage"] == "training"]
    tasks = [task for task in dict.fromkeys(row.task for row in final) if task in metrics]
    parts = [part for task in tasks for part in _parts([row for row in final if row.task == task])]
    lines: list[str] = []
    for part in parts:
        first = part.rows[0]
        metric = metrics[first.task]
        header = tuple(title.format(part.reference) for title in HEADER)
        body = _table(part, metric)
        better = "smaller" if metric == _ERROR else "larger"
        title = f"{part.title} ({first.dataset}, {first.student})"
        about = f"Test {metric} in %, mean over seeds [95 % interval]; {better} is better{in_precision(part.rows)}."
        lines += [f"## {title}", "", about, "", *markdown(header, body), ""]
        print_table(
            f"{title}: test {metric} %", (*header[:2], *header[3:6]), [(*line[:2], *line[3:6]) for line in body]
        )
    if costs := _costs(rows):
        lines += ["## Cost of an iteration", "", *markdown(COST_HEADER, costs), ""]
        print_table("cost of an iteration", COST_HEADER, costs)
    write_atomically(folder / "table.md", "\n".join(lines))
    figures: dict[str, Figure | None] = {"cost": _cost_figure(rows), "imitation": _imitation(rows)}
    if tasks:
        figures |= {"test": _bars(parts, metrics), "curves": _curves(parts), "errors": _errors(final)}
    for task in tasks:
        shown = _shown(final, task)
        if shown is not None:
            figures[f"loss-{task}"] = _surfaces(shown)
            _animate(shown, folder / f"loss-{task}.gif")
        figures[f"learned-{task}"] = _learned([row for row in final if row.task == task])
    write_figures(folder, figures)
    Console().print(f"rows, table and figures: {folder}", highlight=False, markup=False)


class _Part(NamedTuple):
    """A table: rows of a task, and the method that others are held against."""

    title: str
    rows: list[Row]
    reference: str


def _parts(rows: Sequence[Row]) -> list[_Part]:
    """A task's losses and teachers; teachers of the loss network; lengths of its windows."""
    windows = [name for name in METHODS if ":n-" in name]
    studies = (("teachers of the loss network", ARCHITECTURES), ("length of a window", windows))
    task, found = rows[0].task, []
    apart = {name for _, methods in studies for name in methods}
    found.append(_Part(task, [row for row in rows if _method(row) not in apart], "cross-entropy"))
    for title, methods in studies:
        if any(_method(row) in methods for row in rows):
            own = [row for row in rows if _method(row) in ("l2t-dln", *methods)]
            found.append(_Part(f"{task}: {title}", own, "l2t-dln"))
    return found


def _method(row: Row) -> str:
    """Whose it is, of a replay as well."""
    return row.method.replace(REPLAYED, "l2t-dln", 1)


def _names(rows: Sequence[Row]) -> list[str]:
    """Methods in the order of the table, each with its replay."""
    order = [name for method in METHODS for name in (method, method.replace("l2t-dln", REPLAYED, 1))]
    there = {row.method for row in rows}
    return [name for name in dict.fromkeys(order) if name in there]


def _values(rows: Sequence[Row], method: str, metric: str) -> dict[int, float]:
    return {row.seed: 100 * row.value for row in rows if (row.method, row.metric) == (method, f"test_{metric}")}


def _table(part: _Part, metric: str) -> list[tuple[str, ...]]:
    body: list[tuple[str, ...]] = []
    reference = _values(part.rows, part.reference, metric)
    for method in _names(part.rows):
        values = _values(part.rows, method, metric)
        if not values:
            continue
        own = [row for row in part.rows if row.method == method]
        found = summarise(list(values.values()))
        seeds, compared = sorted(values.keys() & reference.keys()), ""
        if method != part.reference and len(seeds) > 1:
            compared = str(paired([values[s] for s in seeds], [reference[s] for s in seeds]))
        config = own[0].config
        body.append(
            (
                method,
                f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]",
                compared,
                str(found.n),
                f"{max(row.student_steps for row in own):,}",
                f"{np.median([row.seconds for row in own]):.0f}",
                f"lr {config['learning_rate']:g}, {_described(config['own'])}",
            )
        )
    return body


def _described(own: Mapping[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for name, value in own.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return ", ".join(f"{name} {value}" for name, value in flat.items() if name != "base")


def _color(method: str) -> Any:
    return color(list(METHODS).index(method.replace(REPLAYED, "l2t-dln", 1)))


def _bars(parts: Sequence[_Part], metrics: Mapping[str, str]) -> Figure:
    measured = [metrics[part.rows[0].task] for part in parts]
    figure, axes = panels([f"{part.title}: test {m}, %" for part, m in zip(parts, measured, strict=True)], 5.5)
    for axis, part, metric in zip(axes, parts, measured, strict=True):
        methods = [m for m in _names(part.rows) if _values(part.rows, m, metric)]
        for place, method in enumerate(methods):
            values = list(_values(part.rows, method, metric).values())
            found = summarise(values)
            axis.barh(place, found.mean, color=_color(method), alpha=0.6)
            axis.errorbar(
                found.mean, place, xerr=[[found.mean - found.low], [found.high - found.mean]], color="black", capsize=3
            )
            axis.plot(values, [place] * len(values), ".", color="black", markersize=4)
        axis.set_yticks(range(len(methods)), methods, fontsize=8)
        axis.invert_yaxis()
    return figure


def _curves(parts: Sequence[_Part]) -> Figure:
    """J on dev as the final students train: means over seeds."""
    figure, axes = panels([part.title for part in parts])
    for axis, part in zip(axes, parts, strict=True):
        own = [row for row in part.rows if row.data]
        for method in _names(own):
            curves = [np.array(row.data["curve"]) for row in own if row.method == method]
            length = min(map(len, curves))
            mean = np.mean([curve[:length] for curve in curves], axis=0)
            style = "-" if METHODS[method].kind == "online" else "--"
            axis.plot(mean[:, 0], mean[:, 1], style, color=_color(method), label=method)
        axis.set_xlabel("student steps")
        axis.set_ylabel("J on dev (what does not learn online trains on dev, too)")
        axis.legend(fontsize=6, loc="lower right", ncols=2)
    return figure


def _errors(rows: Sequence[Row]) -> Figure | None:
    """Dev error after each window: as previewed under the last loss, and under the teacher's new one."""
    own = [row for row in rows if row.data and row.data["errors"] and row.seed == 0 and row.method == "l2t-dln"]
    if not own:
        return None
    figure, axes = panels([row.task for row in own])
    for axis, row in zip(axes, own, strict=True):
        steps, previewed, found = np.array(row.data["errors"]).T
        axis.plot(steps, previewed, color="#7f7f7f", label="previewed, last loss")
        axis.plot(steps, found, color="#1f77b4", label="new loss")
        gain = float(np.mean(np.array(previewed) - np.array(found)))
        axis.set_xlabel(f"student steps (mean gain of a window {gain:.1e})")
        axis.set_ylabel("dev error at the end of a window, −J")
        axis.legend(fontsize=8)
    return figure


def _shown(rows: Sequence[Row], task: str) -> Row | None:
    """The run whose loss is shown: of L2T-DLN, the first seed."""
    for row in rows:
        if (row.task, row.method, row.seed) == (task, "l2t-dln", 0) and row.data and row.data["pictures"]:
            return row
    return None


def _range(row: Row) -> tuple[float, float]:
    values = np.array([picture for _, picture in row.data["pictures"]])
    return float(values.min()), float(values.max())


def _draw(axis: Any, picture: Any, limits: tuple[float, float], title: str) -> Any:
    image = axis.imshow(
        np.array(picture), origin="lower", extent=(0, 1, 0, 1), vmin=limits[0], vmax=limits[1], cmap="viridis"
    )
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("σ(z_k) of another class", fontsize=8)
    axis.set_ylabel("σ(z_y) of the label", fontsize=8)
    return image


def _surfaces(row: Row) -> Figure:
    """The learned loss of a pair at some moments of the training."""
    pictures, limits = row.data["pictures"], _range(row)
    columns = min(4, len(pictures))
    lines = -(-len(pictures) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.0 * lines), dpi=110, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (step, picture) in zip(axes, pictures, strict=False):
        image = _draw(axis, picture, limits, f"after {step} steps")
    for axis in axes[len(pictures) :]:
        axis.set_visible(False)
    figure.colorbar(image, ax=list(axes), shrink=0.7)
    figure.suptitle(f"{row.task}: loss of the label against another class", fontsize=11)
    return figure


def _learned(rows: Sequence[Row]) -> Figure | None:
    """Losses that were learned between trainings, along either logit of a pair, less their value where both are 0."""
    own = [row for row in rows if row.method == "l2t-dln:trainings" and row.data and row.data["pictures"]]
    if not own:
        return None
    figure, axes = panels(["along the label's logit, the other 0", "along another class's logit, the label's 0"])
    for row in sorted(own, key=lambda row: row.seed):
        loss = np.array(row.data["pictures"][-1][1])
        middle = len(loss) // 2
        u = np.linspace(0, 1, len(loss))[1:-1]
        z = np.log(u / (1 - u))
        for axis, line in zip(axes, (loss[1:-1, middle], loss[middle, 1:-1]), strict=True):
            axis.plot(z, line - loss[middle, middle], label=f"{row.method}, seed {row.seed}")
    for axis, sign in zip(axes, (-1, 1), strict=True):
        axis.plot(z, np.log1p(np.exp(sign * z)) - np.log(2), "k--", label="cross-entropy of two classes")
        axis.set_xlabel("logit")
        axis.set_ylabel("loss of a pair")
        axis.legend(fontsize=7)
    figure.suptitle(rows[0].task, fontsize=11)
    return figure


def _animate(row: Row, path: Path) -> None:
    """The same as an animation."""
    pictures, limits = row.data["pictures"], _range(row)
    figure = Figure(figsize=(4.6, 4.2), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    figure.colorbar(_draw(axis, pictures[0][1], limits, ""), ax=axis, shrink=0.8)

    def frame(number: int) -> list[Any]:
        axis.clear()
        step, picture = pictures[number]
        return [_draw(axis, picture, limits, f"{row.task}: after {step} steps")]

    with whole_file(path) as partial:
        FuncAnimation(figure, frame, frames=len(pictures), blit=False).save(partial, PillowWriter(fps=3))


def _costs(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    found = _times(rows)
    return [
        (
            student,
            str(n),
            f"{t['plain']:.3f}",
            f"{t['hypergradient']:.3f}",
            f"{t['iteration']:.3f}",
            f"{t['iteration'] / t['plain']:.2f}",
        )
        for (student, n), t in found.items()
    ]


def _times(rows: Sequence[Row]) -> dict[tuple[str, int], dict[str, float]]:
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if row.task == "cost":
            own = found.setdefault((row.student, row.config["n"]), {})
            own[row.metric.removesuffix("_seconds")] = row.value
    return found


def _cost_figure(rows: Sequence[Row]) -> Figure | None:
    """Seconds of a hypergradient by N."""
    found = _times(rows)
    if not found:
        return None
    students = list(dict.fromkeys(student for student, _ in found))
    figure, axes = panels([f"{student}: seconds by the window's length" for student in students])
    for axis, student in zip(axes, students, strict=True):
        lengths = sorted(n for s, n in found if s == student)
        for name in ("plain", "hypergradient", "iteration"):
            label = "2N plain steps" if name == "plain" else name
            axis.plot(lengths, [found[student, n][name] for n in lengths], "-o", markersize=4, label=label)
        axis.set_xlabel("N")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    return figure


def _imitation(rows: Sequence[Row]) -> Figure | None:
    """A random loss network on its way to cross-entropy."""
    own = [row for row in rows if row.task == "imitation"]
    if not own:
        return None
    figure, axes = panels(["error of the slopes (seeds)", "loss along the label's logit, other logit 0 (seed 0)"])
    for seed in sorted({row.seed for row in own}):
        points = sorted((r.config["steps"], r.value) for r in own if (r.seed, r.metric) == (seed, "slope_error"))
        axes[0].plot([max(s, 10) for s, _ in points], [v for _, v in points], "-o", markersize=4, label=f"seed {seed}")
    axes[0].set_xscale("log")
    axes[0].set_xlabel("steps of imitation (leftmost: none)")
    axes[0].set_ylabel("‖slopes − cross-entropy's‖ / ‖cross-entropy's‖")
    first = sorted((r for r in own if (r.seed, r.metric) == (0, "slope_error")), key=lambda r: r.config["steps"])
    for row in first:
        axes[1].plot(*row.data, label=f"{row.config['steps']} steps")
    x = np.array(first[0].data[0])
    axes[1].plot(x, np.log1p(np.exp(-x)), "k--", label="cross-entropy of two classes")
    axes[1].set_xlabel("z_y")
    for axis in axes:
        axis.legend(fontsize=7)
    return figure
