"""Tables and figures of the images, from their rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.comparison import report
from benchmarks.comparison.report import Column, Results
from benchmarks.l2t_dlf_images.published import ERRORS
from teachenv.experiment.rows import Row
from teachenv.experiment.statistics import paired

COLORS = {
    "cross-entropy": "#7f7f7f",
    "smooth-01": "#a6a6a6",
    "large-margin": "#8c6d31",
    "focal": "#bdb76b",
    "label-smoothing": "#4d4d4d",
    "generalized-cross-entropy": "#c5b0d5",
    "self-paced": "#e7969c",
    "random-drop": "#bcbd22",
    "l2t-data": "#e377c2",
    "ddpg": "#d62728",
    "td3": "#ff7f0e",
    "sac": "#ffbb78",
    "evolution-strategies": "#9467bd",
    "rmd": "#1f77b4",
    "rmd:generalized": "#08519c",
    "rmd:tau-1": "#6baed6",
    "rmd:sigmoid": "#2ca02c",
    "l2t-dlf": "#98df8a",
    "rmd:static": "#9edae5",
    "finite-difference": "#17becf",
    "rmd:transferred": "#393b79",
    "rmd:generalized-transferred": "#756bb1",
}
FIXED = ("cross-entropy", "smooth-01", "large-margin", "focal", "label-smoothing", "generalized-cross-entropy")
RL = ("ddpg", "td3", "sac", "evolution-strategies")


class Label(NamedTuple):
    """A row of Φ that figure 4 shows.

    Attributes:
        name: of the class.
        number: of the class.
        similar: classes that are often taken for it.
        dissimilar: classes that are not.
    """

    name: str
    number: int
    similar: dict[str, int]
    dissimilar: dict[str, int]


LABELS = {
    "mnist": (
        Label("4", 4, {"9": 9, "7": 7}, {"0": 0, "3": 3, "8": 8}),
        Label("3", 3, {"5": 5, "8": 8}, {"0": 0, "4": 4, "6": 6}),
        Label("7", 7, {"1": 1, "9": 9}, {"0": 0, "6": 6, "8": 8}),
    ),
    "cifar10": (
        Label("cat", 3, {"dog": 5, "frog": 6}, {"airplane": 0, "automobile": 1, "ship": 8}),
        Label("automobile", 1, {"truck": 9, "ship": 8}, {"cat": 3, "deer": 4, "frog": 6}),
        Label("airplane", 0, {"ship": 8, "bird": 2}, {"cat": 3, "dog": 5, "frog": 6}),
    ),
}


def write(rows: Sequence[Row], folder: Path, seeds: int) -> None:
    """Writes table.md and the figures into the folder, and prints the tables."""
    results = Results(rows, COLORS, FIXED, "bilinear", seeds)
    figures = {
        "test_error": report.test_error(results),
        "learning_curves": report.learning_curves(results),
        "figure3": teacher_steps(results),
        "rl_and_gradient": report.teacher_training(results),
        **{f"figure4-{task}": chosen_rows(results, task) for task in results.tasks},
        **{f"coefficients-{task}": report.coefficients(results, task) for task in results.tasks},
    }
    report.write(results, folder, figures, [_against_cross_entropy(results), _published(results), _reaching(results)])


def _against_cross_entropy(results: Results) -> Column:
    def cell(task: str, method: str) -> str:
        errors = [{r.seed: 100 * r.value for r in results.of(task, m, "test_error")} for m in (method, "cross-entropy")]
        seeds = sorted(errors[0].keys() & errors[1].keys())
        if method == "cross-entropy" or len(seeds) < 2:
            return ""
        return str(paired([errors[0][s] for s in seeds], [errors[1][s] for s in seeds]))

    return "against cross-entropy, points (95 %, paired t)", cell


def _published(results: Results) -> Column:
    def cell(task: str, method: str) -> str:
        row = next(r for r in results.rows if r.task == task)
        if "noisy" in task:
            return ""
        data = row.dataset.split("-")[0]
        error = ERRORS.get(f"{row.student} {data}", {}).get(method)
        return "" if error is None else f"{error:.2f}"

    return "the paper's", cell


def _reaching(results: Results) -> Column:
    def along(task: str, method: str) -> dict[int, float]:
        """Mean J of fresh students by the student steps spent on their teacher."""
        rows = results.of(task, method, "dev_objective")
        return {
            s: float(np.mean([r.value for r in rows if r.student_steps == s])) for s in {r.student_steps for r in rows}
        }

    def cell(task: str, method: str) -> str:
        found, ddpg = along(task, method), along(task, "ddpg")
        if not ddpg or len(found) < 2 or results.objective(task, method) != results.objective(task, "ddpg"):
            return ""
        spent = max(ddpg)
        reached = [steps for steps, value in found.items() if value >= ddpg[spent]]
        return f"{min(reached):,} ({min(reached) / spent:.0%})" if reached else "not reached"

    return "student steps to ddpg's final J (of ddpg's)", cell


def teacher_steps(results: Results) -> Figure:
    """The paper's figure 3: the dev measure of students along the gradient teachers' own steps."""
    figure, panels = report.panels(results, of_objective=True, of_learning=True)
    for axis, task, methods in panels:
        for method in methods:
            rows = results.of(task, method, "dev_objective")
            # Two students make an update of evolution strategies, and RL teachers have another kind of step.
            if not results.learns(task, method) or method in (*RL, "l2t-data"):
                continue
            horizon = rows[0].config["options"]["horizon"] * rows[0].config["parallel"]
            steps = sorted({r.student_steps for r in rows})
            values = [[r.value for r in rows if r.student_steps == s] for s in steps]
            updates, means = [s / horizon for s in steps], [float(np.mean(v)) for v in values]
            color = results.colors[method]
            axis.plot(updates, means, "-o", color=color, markersize=3, label=method)
            axis.fill_between(updates, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15)
        axis.set_xlabel("steps of the teacher's optimiser")
        axis.set_ylabel("J of fresh students on dev")
        if axis.has_data():
            axis.legend(fontsize=8)
    return figure


def chosen_rows(results: Results, task: str) -> Figure | None:
    """The paper's figure 4: Φ_t − I between chosen classes as the student's training goes on, of the first seed."""
    row = next(r for r in results.rows if r.task == task)
    labels = LABELS.get(row.dataset.split("-")[0])
    teachers = [
        (method, found[0].data)
        for method in ("rmd", "rmd:generalized", "l2t-dlf")
        if (found := [r for r in results.of(task, method, "dev_objective") if r.data and r.data["coefficients"]])
    ]
    if labels is None or not teachers:
        return None
    figure = Figure(figsize=(3.6 * len(labels) + 1, 2.9 * len(teachers) + 0.6), dpi=130, layout="constrained")
    axes = figure.subplots(len(teachers), len(labels), squeeze=False)
    for line, (method, data) in zip(axes, teachers, strict=True):
        coefficients = np.asarray(data["coefficients"])
        changes = coefficients - np.eye(coefficients.shape[-1])
        limit = max(float(np.abs(changes).max()), 1e-6)
        for axis, label in zip(line, labels, strict=True):
            others = {**label.similar, **label.dissimilar}
            image = axis.imshow(
                changes[:, label.number, list(others.values())], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto"
            )
            axis.axvline(len(label.similar) - 0.5, color="black", linewidth=1)
            axis.set_xticks(range(len(others)), list(others), fontsize=8)
            axis.set_yticks(range(len(changes)), [str(step) for step in data["actions_at"]], fontsize=8)
            axis.set_title(f"{method}: label {label.name}", fontsize=9)
        line[0].set_ylabel("student step")
        figure.colorbar(image, ax=list(line), shrink=0.8)
    figure.suptitle(f"{task}: Φ of a label between it and similar (left) and dissimilar classes", fontsize=11)
    return figure
