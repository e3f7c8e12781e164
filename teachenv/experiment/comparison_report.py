"""What a comparison of teachers shows, from its rows alone: test errors, how teachers learn, what they do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from teachenv.experiment import evidence, tables
from teachenv.experiment.methods import Method
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import judging, of_one_configuration
from teachenv.experiment.statistics import COVERAGE, iqm
from teachenv.experiment.tables import Column, Group, Measure, Section, by, grouped, interval, leaves, seeds
from teachenv.plot import series, style
from teachenv.plot.teaching import class_ticks, heat_maps
from teachenv.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR = Measure("test_error", scale=100)


@dataclass(frozen=True)
class Result:
    """What students are compared by on test, the smaller the better.

    Attributes:
        measure: the metric.
        name: what it is called in headers and captions.
        unit: what stands behind the name; empty of a number without one.
    """

    measure: Measure = ERROR
    name: str = "test error"
    unit: str = "%"

    def __call__(self, group: Group) -> float:
        """The mean over seeds."""
        return float(np.mean(list(self.measure.values(group).values())))


TEST_ERROR = Result()

OBJECTIVE = "dev_objective"

# Options of the environment that come with a method and are not tuned.
_FIXED_OPTIONS = ("loss", "base", "steps_per_action", "dev_size", "dev_measured", "learn_from")
# The first learns nothing. The second ruins its students, so much that its curve would flatten all others.
_RANDOM, _RUINED = "random", "ddpg:default"

_J = (
    "J, which teachers raise (of classifiers the accuracy on dev, smoothed by a softmax at temperature τ, or minus the "
    "cross-entropy; of regression minus the squared error)"
)
_PHI = (
    "how the loss differs from cross-entropy along the students' training. Red: students are rewarded for this class "
    "on this label; blue: they are punished"
)


class Results:
    """The training rows of one run, by task and method.

    Attributes:
        all: all rows, those of the tuning included.
        tasks: a group for each method that has rows, by the task's name.
        methods: names of all that there can be, in the order in which they are shown.
        fixed: names of the methods that are fixed losses.
        result: what they are compared by.

    Args:
        rows: all rows of the run, tuning included.
        methods: all that there can be, by name, in the order in which they are shown.
        seeds: seeds 0 … seeds − 1 are shown.
        loss: the teachers' loss family that is shown.
        result: what they are compared by.
        asked: the configuration that is shown, by task, student and method; of others it is that of the newest row.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        methods: Mapping[str, Method],
        seeds: int,
        loss: str | None = None,
        result: Result = TEST_ERROR,
        asked: Mapping[tuple[str, str, str], Mapping[str, Any]] | None = None,
    ) -> None:
        self.all, self.methods, self.result = rows, list(methods), result
        self.fixed = [name for name, method in methods.items() if method.make is None]
        trained = [row for row in judging(rows) if row.seed < seeds and row.method in methods]
        shown = of_one_configuration([row for row in trained if row.config["loss"] in (None, loss)], asked)
        self.tasks = {}
        for task, task_rows in by(shown, lambda row: row.task).items():
            # By seed: the bootstrap draws others in another order.
            self.tasks[task] = grouped(sorted(task_rows, key=lambda row: row.seed), methods)
        parts = (style.split([group.name for group in groups]) for groups in self.panels().values())
        self._looks = style.distinct([panel for panels in parts for panel in panels])

    @classmethod
    def of(cls, rows: Sequence[Row], methods: Mapping[str, Method], result: Result = TEST_ERROR) -> Results:
        """The results of all seeds, and of the teachers' loss family that the newest rows have."""
        losses = [row.config["loss"] for row in rows if row.config["stage"] == "training" and row.config["loss"]]
        return cls(rows, methods, sys.maxsize, losses[-1] if losses else None, result)

    def look(self, group: Group) -> style.Look:
        """The method's look in all figures."""
        return self._looks[group.name]

    def best_fixed(self, group: Group) -> Group | None:
        """The fixed loss of the smallest result beside a method."""
        measured = self.result.measure.values
        fixed = [other for other in group.beside.values() if other.name in self.fixed and measured(other)]
        return min(fixed, key=self.result, default=None)

    def panels(self, learning: bool = False) -> dict[str, list[Group]]:
        """Methods in panels, one for each task and kind of J; `learning`: only panels in which some teacher learns."""
        panels = {}
        for task, groups in self.tasks.items():
            for name in sorted({objective(group) for group in groups}):
                alike = [group for group in groups if objective(group) == name]
                if not learning or any(learns(group) for group in alike):
                    panels[f"{task}, {name}"] = alike
        return panels


def learns(group: Group) -> bool:
    """Whether the group's teacher was measured as it learned."""
    return len({row.student_steps for row in group.of(OBJECTIVE)}) > 1


def objective(group: Group) -> str:
    """The J on dev that the group's rows have, in words."""
    spec = gym.registry.get((group.config["env"] or "").rpartition(":")[2])
    of_loss = {} if group.config["loss"] is None else {"loss": group.config["loss"]}
    of_env = {**spec.kwargs.get("defaults", {}), **spec.kwargs} if spec else {}
    options = {**of_env, **of_loss, **group.config["options"], **group.config["own"]}
    if options.get("objective") == "likelihood" or options.get("loss") == "distillation":
        return "J = − cross-entropy"
    temperature = f"τ = {options.get('objective_temperature', Settings.objective_temperature):g}"
    if options.get("objective") == "margin":
        return f"J = − margin error, {temperature}"
    # A task that reports more than its error may have a J without a temperature, as regression has.
    reports_more = any(row.metric.startswith("test_") and row.metric != "test_error" for row in group.rows)
    return "J" if reports_more else f"J with {temperature}"


def along(group: Group) -> list[list[tuple[int, float]]]:
    """J of fresh students by the student steps spent on their teacher, for each seed."""
    seeds = by(group.of(OBJECTIVE), lambda row: row.seed)
    return [[(row.student_steps, row.value) for row in rows] for rows in seeds.values()]


def described(config: Mapping[str, Any]) -> str:
    """What was tuned, as a cell of the table shows it; of nested options the leaves."""
    options = [f"{name} {value}" for name, value in leaves(config["own"]) if name not in _FIXED_OPTIONS]
    rate = [f"lr {config['learning_rate']:g}"] if "learning_rate" in config else []
    schedule = [str(config["lr_schedule"])] if "lr_schedule" in config else []
    return ", ".join([*filter(None, [" ".join([*rate, *schedule])]), *options])


def make(
    name: str,
    results: Results,
    further: Mapping[str, Callable[[], Figure | None]] | None = None,
    columns: Sequence[Column] = (),
) -> Report:
    """The report of a comparison.

    Args:
        name: the page's title.
        results: what is shown.
        further: figures beside those of every comparison.
        columns: the table's columns beside those of every comparison.
    """
    metric = results.result.measure.metric
    captions = {
        metric: f"{results.result.name.capitalize()} of each method: mean, 95 % interval, and a dot a seed",
        "teacher_training": f"{_J}: that of fresh students, along the student steps spent on their teachers; mean and "
        "range over seeds; curves may leave the panel",
        "learning_curves": f"{_J}: that of students along their own training",
        **{f"coefficients-{task}": f"{task}: {_PHI}" for task in results.tasks},
    }
    drawn: dict[str, Callable[[], Figure | None]] = {
        metric: partial(test_result, results),
        "teacher_training": partial(teacher_training, results),
        "learning_curves": partial(learning_curves, results),
        **(further or {}),
        **{f"coefficients-{task}": partial(coefficients, results, task) for task in results.tasks},
    }
    sections = [_section(results, task, columns) for task in results.tasks]
    report = Report(name, sections, drawn, results.all, captions)
    report.unproven = evidence.unproven(results.tasks, lambda group: group.name not in results.fixed)
    return report


def _section(results: Results, task: str, columns: Sequence[Column]) -> Section:
    result, measure = results.result, results.result.measure
    header = f"{result.name} {result.unit}".strip() + " (95 %)"
    groups = [group for group in results.tasks[task] if measure.values(group)]
    all_columns = [
        Column("method", lambda g: f"{g.name} (best fixed)" if g is results.best_fixed(g) else evidence.marked(g)),
        interval(header, measure),
        Column("IQM", lambda g: measure(iqm(list(measure.values(g).values())))),
        Column("relative to best fixed", partial(_relative, results)),
        *columns,
        *(Column(header, partial(_of_taught, results, cell)) for header, cell in evidence.COLUMNS.items()),
        seeds(measure),
        Column("student steps", lambda g: f"{n:,}" if (n := g.student_steps(measure.metric)) else "-"),
        Column(
            "teacher time, s", lambda g: f"{g.seconds(measure.metric):.0f}" if g.student_steps(measure.metric) else "-"
        ),
        Column("selected settings", lambda g: described(g.config)),
    ]
    row, rows = results.tasks[task][0].first, [row for group in results.tasks[task] for row in group.rows]
    text = (
        f"{row.student} on {row.dataset}; a seed's {result.name.removeprefix('test ')} is the mean over "
        f"{row.config['final_students']} fresh students on the whole pool{tables.in_precision(rows)}"
        f"{_of_few_seeds(groups, measure)}{_of_worse(groups) if measure is ERROR else ''}{_of_dev(groups)}"
        f"{evidence.meaning(groups)}{_of_diverged(groups)}"
    )
    shown = ("method", header, "relative to best fixed", "seeds", "teacher time, s")
    return Section.of(task, all_columns, groups, text, shown)


def _of_taught(results: Results, cell: Callable[[Group], str], group: Group) -> str:
    """A cell of what shows that a teacher taught: of the lines that have a teacher."""
    return "-" if group.name in results.fixed else cell(group) or "not measured"


def _of_few_seeds(groups: Sequence[Group], measure: Measure) -> str:
    """How far the intervals of the fewest seeds can be believed, if these are few; one seed has no interval."""
    count = min((n for group in groups if (n := len(measure.values(group))) > 1), default=1)
    if count not in COVERAGE:
        return ""
    return (
        f"; bootstrap intervals of {count} seeds are too narrow: of normal numbers they cover the mean in "
        f"{COVERAGE[count]} % of cases, not in 95"
    )


def _relative(results: Results, group: Group) -> str:
    """A method's result over that of the best fixed loss; empty without one, or if that made no error at all."""
    best = results.best_fixed(group)
    return f"{results.result(group) / results.result(best):.2f}" if best and results.result(best) > 0 else ""


def _of_diverged(groups: Sequence[Group]) -> str:
    """How many final students diverged, if any did."""
    said = []
    for group in groups:
        ends = [row.data for row in group.of(OBJECTIVE) if row.data]
        if count := sum(data.get("diverged", 0) for data in ends):
            said.append(f"{count:,} of {len(ends) * group.config['final_students']:,} under {group.name}")
    return f"; final students that diverged count as students that know nothing: {', '.join(said)}" if said else ""


def _of_worse(groups: Sequence[Group]) -> str:
    """What an error over 100 % means, if there is one."""
    if max((error for group in groups for error in ERROR.values(group).values()), default=0.0) <= 100:
        return ""
    return (
        "; an error is one minus the score, over 100 % where the score is negative, as R² is of students worse than "
        "the mean of the targets: a too large learning rate makes such students"
    )


def _of_dev(groups: Sequence[Group]) -> str:
    """What those methods are that train on the labels of a trusted dev set, if there are such."""
    of_dev = {group.name: group.config["own"].get("learn_from", "pool") for group in groups}
    words = {"dev": "from those of dev alone", "pool and dev": "from those of both"}
    said = [f'"{name}" {words[learn_from]}' for name, learn_from in of_dev.items() if learn_from in words]
    if not said:
        return ""
    return f"; methods are judged on a trusted dev set and learn from the labels of the pool, but {', '.join(said)}"


def test_result(results: Results) -> Figure:
    """Draws the result of each method, a dot a seed."""
    result = results.result
    figure, axes = series.bar_panels(list(results.tasks) or [""], list(results.tasks.values()))
    for axis, groups in zip(axes, results.tasks.values(), strict=False):
        series.bars(axis, groups, result.measure, results.look, logarithmic=True)
        style.describe(axis, f"{', '.join(filter(None, [result.name, result.unit]))} (dots: teachers)")
    return figure


def teacher_training(results: Results) -> Figure | None:
    """Draws J of students under teachers that learn, along the student steps spent on them."""
    parts = {title: _shown_learning(results, groups) for title, groups in results.panels(learning=True).items()}
    shown = series.parted(parts)
    if not shown:
        return None
    figure, axes = series.parted_panels(shown)
    of_tasks: dict[str, list[float]] = {}
    for axis, (title, _, groups) in zip(axes, shown, strict=True):
        levels = of_tasks.setdefault(title, [])  # a task's panels share their axes
        for group in groups:
            look = results.look(group)
            if learns(group):
                # Dashed: it lies on the curve of rmd, whose gradient it approximates.
                line = "--" if group.name == "finite-difference" else "-"
                drawn = {**look.line("o"), "label": group.name}
                means = series.curve(axis, along(group), style=line, band="range", **drawn)
                if group.name != _RUINED:
                    levels.extend([*means, *(value for seed in along(group) for _, value in seed if value > means[0])])
            else:
                levels.append(float(np.mean([row.value for row in group.of(OBJECTIVE)])))
                label = f"{style.as_it_is(group.name)}, no teacher"
                axis.axhline(levels[-1], color=look.color, linestyle="--", label=label, zorder=1)
        if levels:
            span = max(max(levels) - min(levels), 1e-3)
            axis.set_ylim(min(levels) - 0.6 * span, max(levels) + 0.15 * span)
        style.describe(axis, "student steps spent on teacher training", "J of fresh students on dev")
    return figure


def _shown_learning(results: Results, groups: Sequence[Group]) -> list[Group]:
    """The teachers that learn, after the first fixed loss, whose students they are compared with."""
    untaught = next((group for group in groups if group.name in results.fixed and group.of(OBJECTIVE)), None)
    return [*filter(None, [untaught]), *(group for group in groups if learns(group) and group is not untaught)]


def learning_curves(results: Results) -> Figure | None:
    """Draws J of students along their own training."""

    def curves(group: Group) -> list[Any]:
        # Methods may have other steps per action, and long curves are thinned; the training is as long for all of them.
        measured = [row.data["curve"] for row in group.of(OBJECTIVE) if row.data]
        return [list(zip(np.linspace(0, 100, len(curve)), curve, strict=True)) for curve in measured]

    return series.curves(
        results.panels(),
        "% of the students' training",
        "J on dev, mean over seeds",
        curves,
        looks=results.look,
        style=lambda group: "--" if group.name in results.fixed else "-",
    )


def coefficients(results: Results, task: str) -> Figure | None:
    """Draws the mean Φ over the episode, minus the neutral one, as heat maps; a line a teacher, its first seed.

    Weights of samples are left out: their places mean nothing.
    """
    lines = {}
    for group in results.tasks[task]:
        data = next((row.data for row in group.of(OBJECTIVE) if row.data), None)
        of_samples = group.config["own"].get("loss", group.config["loss"]) == "data-weights"
        if data and _is_square(data["coefficients"]) and not of_samples and group.name not in (_RANDOM, _RUINED):
            changes = [np.asarray(matrix) - np.eye(len(matrix)) for matrix in data["coefficients"]]
            titles = [f"step {step}" for step in data["actions_at"]]
            lines[f"{group.name}\nlabel"] = list(zip(titles, changes, strict=True))
    if not lines:
        return None
    title = f"{task}: Φ − I over the episode (mean over students, seed 0)"
    return heat_maps(lines, title, finish=lambda axis, column: class_ticks(axis))


def _is_square(matrices: Sequence[Any]) -> bool:
    return bool(matrices) and len(matrices[0]) == len(matrices[0][0])
