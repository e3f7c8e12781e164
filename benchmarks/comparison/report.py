"""What tables and figures of comparisons are made of, from rows alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.presentation import in_precision, markdown, print_table, write_figures
from teachenv.experiment.rows import Row, write_atomically
from teachenv.experiment.statistics import Summary, summarise
from teachenv.settings import Settings

Column = tuple[str, Callable[[str, str], str]]
"""A further column of a table: its header, and the cell of (task, method)."""


# Options of the environment that come with a method and are not tuned.
_FIXED_OPTIONS = ("loss", "base", "steps_per_action", "dev_measured")


class Results:
    """The training rows of one run, by task and method.

    Args:
        rows: of the run, tuning included.
        colors: of all methods, in the order in which they are shown.
        fixed: the methods that are fixed losses.
        loss: the teachers' loss family that is shown.
        seeds: seeds 0 … seeds − 1 are shown.
    """

    def __init__(
        self, rows: Sequence[Row], colors: Mapping[str, str], fixed: Collection[str], loss: str, seeds: int
    ) -> None:
        """Keeps the rows that are shown."""
        self.colors, self.fixed = colors, fixed
        latest = {}
        for row in rows:
            if row.config["stage"] == "training" and row.config["loss"] in (None, loss) and row.seed < seeds:
                latest[row.task, row.method, row.seed] = row.config
        # A folder can hold runs of several budgets: those of the newest configuration are shown.
        self.rows = [r for r in rows if latest.get((r.task, r.method, r.seed)) == r.config]
        self.tasks = list(dict.fromkeys(r.task for r in self.rows))
        self.methods = [m for m in colors if any(r.method == m for r in self.rows)]

    def of(self, task: str, method: str, metric: str) -> list[Row]:
        """The rows of a metric, by seed and student steps."""
        found = [r for r in self.rows if (r.task, r.method, r.metric) == (task, method, metric)]
        return sorted(found, key=lambda r: (r.seed, r.student_steps))

    def has(self, task: str, method: str) -> bool:
        """Whether there are rows."""
        return any((r.task, r.method) == (task, method) for r in self.rows)

    def learns(self, task: str, method: str) -> bool:
        """Whether its teacher was measured as it learned."""
        return len({r.student_steps for r in self.of(task, method, "dev_objective")}) > 1

    def objective(self, task: str, method: str) -> str:
        """Which J on dev its rows have."""
        config = next(r.config for r in self.rows if (r.task, r.method) == (task, method))
        options = {"loss": config["loss"], **config["options"], **config["own"]}
        if options.get("objective") == "likelihood" or options["loss"] == "distillation":
            return "J = − cross-entropy"
        return f"J with τ = {options.get('objective_temperature', Settings.objective_temperature):g}"

    def errors(self, task: str, method: str) -> Summary | None:
        """Test error over seeds."""
        values = [r.value for r in self.of(task, method, "test_error")]
        return summarise(values) if values else None

    def best_fixed(self, task: str) -> tuple[str, Summary] | None:
        """The fixed loss of the smallest test error."""
        found = [(m, s) for m in self.methods if m in self.fixed and (s := self.errors(task, m)) is not None]
        return min(found, key=lambda f: f[1].mean) if found else None


def write(results: Results, folder: Path, figures: Mapping[str, Figure | None], columns: Sequence[Column] = ()) -> None:
    """Writes table.md and the figures into the folder, and prints the tables."""
    lines: list[str] = []
    for task in results.tasks:
        header, body = _table(results, task, columns)
        lines += [f"## {task}", "", _subtitle(results, task), "", *markdown(header, body), ""]
        # What fits on a terminal; the file has all.
        kept = [header.index(name) for name in ("method", "test error % (95 %)", "of best fixed", "seeds", "teacher s")]
        shown = [[row[i] for i in kept] for row in body]
        print_table(f"{task}: test error", [header[i] for i in kept], shown, _subtitle(results, task))
    write_atomically(folder / "table.md", "\n".join(lines))
    write_figures(folder, figures)
    Console().print(f"table and figures: {folder}")


def _table(results: Results, task: str, columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    header = ["method", "test error % (95 %)", "IQM", "of best fixed", *(name for name, _ in columns)]
    header += ["seeds", "student steps", "teacher s", "tuned"]
    best = results.best_fixed(task)
    body = []
    for method in results.methods:
        rows, summary = results.of(task, method, "test_error"), results.errors(task, method)
        if summary is None:
            continue
        ratio = "" if best is None else f"{summary.mean / best[1].mean:.2f}"
        body.append(
            [
                method if best is None or method != best[0] else f"{method} (best fixed)",
                f"{100 * summary.mean:.2f} [{100 * summary.low:.2f}, {100 * summary.high:.2f}]",
                f"{100 * summary.iqm:.2f}",
                ratio,
                *(cell(task, method) for _, cell in columns),
                str(summary.n),
                f"{max(r.student_steps for r in rows):,}" if rows[0].student_steps else "-",
                f"{np.median([r.seconds for r in rows]):.0f}" if rows[0].student_steps else "-",
                described(rows[0].config),
            ]
        )
    return header, body


def _subtitle(results: Results, task: str) -> str:
    row = next(r for r in results.rows if r.task == task)
    students = row.config["final_students"]
    return (
        f"{row.student} on {row.dataset}; a seed's error is the mean over {students} fresh students on the whole pool"
        f"{in_precision([r for r in results.rows if r.task == task])}"
    )


def described(config: Mapping[str, Any]) -> str:
    """What was tuned, as a cell of the table shows it; of nested options the leaves."""
    own = {name: value for name, value in _leaves(config["own"]) if name not in _FIXED_OPTIONS}
    return ", ".join([f"lr {config['learning_rate']:g} {config['lr_schedule']}", *(f"{k} {v}" for k, v in own.items())])


def _leaves(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif isinstance(value, int | float):
            yield name, f"{value:g}"
        elif value:
            yield name, value if isinstance(value, str) else "-".join(str(v) for v in value)


class Panel(NamedTuple):
    """A part of a figure.

    Attributes:
        axis: of Matplotlib.
        task: that it shows.
        methods: that it shows.
    """

    axis: Any
    task: str
    methods: list[str]


def panels(
    results: Results, height: float = 4.2, *, of_objective: bool = False, of_learning: bool = False
) -> tuple[Figure, list[Panel]]:
    """A figure with one panel a task; of the objective one for each J that methods have.

    Args:
        results: what is shown.
        height: of a panel.
        of_objective: whether it is shown.
        of_learning: only panels in which some teacher learns.
    """
    shown = []
    for task in results.tasks:
        objectives = {m: results.objective(task, m) for m in results.methods if results.has(task, m)}
        for objective in sorted(set(objectives.values())) if of_objective else [None]:
            methods = [m for m, own in objectives.items() if objective in (None, own)]
            if of_learning and not any(results.learns(task, m) for m in methods):
                continue
            title = task if objective is None else f"{task}, {objective}"
            shown.append((title, task, methods))
    columns = max(1, min(len(shown), 3))
    lines = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(6.2 * columns, height * lines), dpi=130, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(shown) :]:
        axis.remove()
    found = []
    for axis, (title, task, methods) in zip(axes, shown, strict=False):
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        found.append(Panel(axis, task, methods))
    return figure, found


def test_error(results: Results) -> Figure:
    """Test error of each method, a dot a seed."""
    figure, found = panels(results, max(4.2, 0.36 * len(results.methods)))
    for axis, task, methods in found:
        shown = [m for m in methods if results.errors(task, m) is not None]
        for place, method in enumerate(reversed(shown)):
            summary = results.errors(task, method)
            assert summary is not None
            values = [100 * r.value for r in results.of(task, method, "test_error")]
            color = results.colors[method]
            axis.plot(values, [place] * len(values), "o", color=color, alpha=0.35, markersize=4)
            axis.plot([100 * summary.low, 100 * summary.high], [place, place], "-", color=color, linewidth=3)
            axis.plot([100 * summary.mean], [place], "D", color=color, markersize=7)
            axis.annotate(
                f"{100 * summary.mean:.2f}",
                (100 * summary.mean, place),
                (0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axis.set_yticks(range(len(shown)), list(reversed(shown)))
        axis.set_ylim(-0.6, len(shown) - 0.2)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="both", labelsize=8)
        axis.set_xlabel("test error, % (mean, 95 % interval; dots: teacher seeds)")
    return figure


def teacher_training(results: Results) -> Figure:
    """J of students under teachers that learn, along the student steps spent on them."""
    figure, found = panels(results, of_objective=True, of_learning=True)
    for axis, task, methods in found:
        shown: list[float] = []
        for method in methods:
            rows = results.of(task, method, "dev_objective")
            steps = sorted({r.student_steps for r in rows})
            color = results.colors[method]
            if len(steps) == 1:
                if method == "cross-entropy":
                    level = float(np.mean([r.value for r in rows]))
                    axis.axhline(level, color=color, linestyle="--", label="cross-entropy, untaught", zorder=1)
                    shown.append(level)
                continue
            values = [[r.value for r in rows if r.student_steps == s] for s in steps]
            means = np.array([np.mean(v) for v in values])
            # Dashed: it lies on the curve of rmd, whose gradient it approximates.
            line = "--o" if method == "finite-difference" else "-o"
            if method != "ddpg:default":
                shown.extend(means)
            axis.plot(steps, means, line, color=color, markersize=3, label=method)
            axis.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15)
        if shown:
            # What ddpg:default ruins lies so far below that it would flatten all other curves.
            span = max(max(shown) - min(shown), 1e-3)
            axis.set_ylim(min(shown) - 0.6 * span, max(shown) + 0.15 * span)
        axis.set_xlabel("student steps spent on teacher training")
        axis.set_ylabel("J of fresh students on dev")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.legend(fontsize=8)
    figure.suptitle(
        "Students under teachers as these learn\n(mean and range over seeds; curves may leave the panel)",
        fontsize=11,
    )
    return figure


def learning_curves(results: Results) -> Figure:
    """J of students along their own training."""
    figure, found = panels(results, of_objective=True)
    for axis, task, methods in found:
        for method in methods:
            curves = [r.data["curve"] for r in results.of(task, method, "dev_objective") if r.data]
            if curves:
                mean = np.mean(curves, axis=0)
                style = "--" if method in results.fixed else "-"
                axis.plot(np.arange(len(mean)), mean, style, color=results.colors[method], label=method, linewidth=1.4)
        axis.set_xlabel("actions (student steps / steps per action)")
        axis.set_ylabel("J on dev")
        axis.legend(fontsize=8)
    return figure


def coefficients(results: Results, task: str) -> Figure | None:
    """Heat maps of the mean Φ over the episode, minus the neutral one; a row a teacher, its first seed.

    Weights of a minibatch's samples are left out: their places mean nothing.
    """
    shown = []
    for method in results.methods:
        rows = [r for r in results.of(task, method, "dev_objective") if r.data and _is_square(r.data["coefficients"])]
        if rows and method not in ("random", "ddpg:default"):
            shown.append((method, rows[0].data))
    if not shown:
        return None
    columns = max(len(data["coefficients"]) for _, data in shown)
    figure = Figure(figsize=(2.3 * columns + 1.2, 2.4 * len(shown) + 0.5), dpi=130, layout="constrained")
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for line, (method, data) in zip(axes, shown, strict=True):
        changes = [np.asarray(c) - np.eye(*np.asarray(c).shape) for c in data["coefficients"]]
        limit = max(float(np.abs(changes).max()), 1e-6)
        for axis, change, step in zip(line, changes, data["actions_at"], strict=True):
            image = axis.imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(f"step {step}", fontsize=9)
            few = range(len(change)) if len(change) <= 10 else []
            axis.set_xticks(few)
            axis.set_yticks(few)
            axis.tick_params(labelsize=6, length=0)
        line[0].set_ylabel(f"{method}\nlabel")
        figure.colorbar(image, ax=list(line), shrink=0.8)
    for axis in axes[-1]:
        axis.set_xlabel("class", fontsize=8)
    figure.suptitle(f"{task}: Φ − I over the episode (mean over students, seed 0)", fontsize=11)
    return figure


def _is_square(matrices: Sequence[Any]) -> bool:
    return bool(matrices) and len(matrices[0]) == len(matrices[0][0])
