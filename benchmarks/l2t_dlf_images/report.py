"""Tables and figures of L2T-DLF on images, from result rows alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.l2t_dlf_images.published import ERRORS
from teachenv.experiment import comparison_report
from teachenv.experiment.comparison_report import ERROR, OBJECTIVE, Results, along, learns, objective
from teachenv.experiment.report import Report
from teachenv.experiment.tables import Column, Group, against
from teachenv.plot import series
from teachenv.plot.teaching import heat_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RL = ("ddpg", "td3", "sac", "evolution-strategies")
# Whose Φ the paper's figure 4 is drawn of.
_SHOWN = ("rmd", "rmd:generalized", "l2t-dlf", "published", "published:tau-0.2", "published:margin")
AGAINST = against("cross-entropy", "against cross-entropy, points (95 %, paired t)", ERROR, ", p {:.2g}")


class Label(NamedTuple):
    """A row of Φ that figure 4 shows.

    Attributes:
        name: what the class is called.
        number: the class's index.
        similar: classes that are often taken for it.
        dissimilar: classes that are not.
    """

    name: str
    number: int
    similar: dict[str, int]
    dissimilar: dict[str, int]

    @property
    def others(self) -> dict[str, int]:
        """The other classes that the figure shows: first similar ones, then dissimilar ones."""
        return {**self.similar, **self.dissimilar}


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


def make(results: Results) -> Report:
    """The report of the rows."""
    drawn = {
        "figure3": partial(teacher_steps, results),
        **{f"figure4-{task}": partial(chosen_rows, results, task) for task in results.tasks},
    }
    columns = [AGAINST, Column("the paper's", published)]
    columns.append(Column("student steps to ddpg's final J (of ddpg's)", reaching))
    return comparison_report.make("L2T-DLF: taught losses for images", results, drawn, columns)


def published(group: Group) -> str:
    """The paper's error, if it has the task."""
    row = group.first
    name = "l2t-dlf" if group.name == "published" else group.name
    error = ERRORS.get(f"{row.student} {row.dataset.split('-')[0]}", {}).get(name)
    return "" if error is None or "noisy" in row.task else f"{error:.2f}"


def reaching(group: Group) -> str:
    """How many student steps a teacher has spent when its students are as good as those of DDPG's at the end."""
    ddpg = group.beside.get("ddpg")
    if ddpg is None or not learns(group) or objective(group) != objective(ddpg):
        return ""
    values, ddpg_values = (dict(zip(*_mean(teacher), strict=True)) for teacher in (group, ddpg))
    spent = max(ddpg_values)
    reached = [steps for steps, value in values.items() if value >= ddpg_values[spent]]
    return f"{min(reached):,.0f} ({min(reached) / spent:.0%})" if reached else "not reached"


def _mean(group: Group) -> Any:
    """(Student steps, the mean of J over seeds there), in order."""
    return np.mean(along(group), axis=0).T.tolist()


def teacher_steps(results: Results) -> Figure | None:
    """The paper's figure 3: the dev measure of students along the gradient teachers' own steps."""

    def by_update(group: Group) -> list[Any]:
        # Two students make an update of evolution strategies, and RL teachers have another kind of step.
        if not learns(group) or group.name in (*RL, "l2t-data"):
            return []
        horizon = group.config["options"]["horizon"] * group.config["parallel"]
        return [[(steps / horizon, value) for steps, value in points] for points in along(group)]

    x, y = "steps of the teacher's optimiser", "J of fresh students on dev"
    return series.curves(results.panels(), x, y, by_update, looks=results.look, marker="o", band="range")


def chosen_rows(results: Results, task: str) -> Figure | None:
    """The paper's figure 4: Φ_t − I between chosen classes as the student's training goes on, of the first seed."""
    groups = {group.name: group for group in results.tasks[task]}
    labels = LABELS.get(results.tasks[task][0].first.dataset.split("-")[0])
    teachers = [groups[name] for name in _SHOWN if name in groups]
    coefficients = {g.name: d for g in teachers for d in [_coefficients(g)] if d}
    if labels is None or not coefficients:
        return None
    lines = {}
    for name, data in coefficients.items():
        changes = np.asarray(data["coefficients"]) - np.eye(len(data["coefficients"][0]))
        lines[f"{name}\nstudent step"] = [
            (f"label {label.name}", changes[:, label.number, list(label.others.values())]) for label in labels
        ]
    steps = next(iter(coefficients.values()))["actions_at"]

    def finish(axis: Any, column: int) -> None:
        label = labels[column]
        axis.axvline(len(label.similar) - 0.5, color="black", linewidth=1)
        long = any(len(name) > 2 for name in label.others)
        axis.set_xticks(range(len(label.others)), list(label.others), rotation=45 if long else 0)
        axis.set_yticks(range(len(steps)), [str(step) for step in steps])

    title = f"{task}: rows of Φ − I, similar classes on the left"
    return heat_maps(lines, title, (3.6, 2.9), finish, aspect="auto")


def _coefficients(group: Group) -> Any:
    return next((row.data for row in group.of(OBJECTIVE) if row.data and row.data["coefficients"]), None)
