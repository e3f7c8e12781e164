"""What the rows say: how many student steps teachers need, by coordinates and by horizon, from the rows alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from teachenv.experiment import evidence
from teachenv.experiment.comparison_report import described
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import judging, of_one_configuration
from teachenv.experiment.tables import Column, Group, Measure, Section, by, grouped, interval, number, seeds
from teachenv.plot import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "rl_and_gradient"
UNTAUGHT, KNOWN, SMOOTHNESS = "untaught", "known", "smoothness"
SHARE = 0.5
"""The part of what can be gained at which teachers are compared."""

OBJECTIVE = Measure("dev_objective", digits=3)
_Y = "student steps to half of the gain"


class Where(NamedTuple):
    """What a task's name says.

    Attributes:
        coordinates: of an action.
        horizon: student steps of a training run.
        rough: whether training runs are chaotic.
    """

    coordinates: int
    horizon: int
    rough: bool


def where(task: str) -> Where:
    """Reads a task's name, such as `n10-T100-rough`."""
    match = re.fullmatch(r"n(\d+)-T(\d+)(-rough)?", task)
    assert match is not None, task
    return Where(int(match[1]), int(match[2]), match[3] is not None)


def make(
    rows: Sequence[Row],
    methods: Sequence[str],
    seeds: int,
    asked: Mapping[tuple[str, str, str], Mapping[str, Any]] | None = None,
) -> Report:
    """The report.

    Args:
        rows: all rows, those of tuning and of smoothness included.
        methods: names of what is compared, in the order in which they are shown.
        seeds: seeds 0 … seeds − 1 are shown.
        asked: the configuration that is shown, by task, student and method; of others it is that of the newest row.
    """
    shown = of_one_configuration([row for row in judging(rows) if row.seed < seeds], asked)
    by_task = by(sorted(shown, key=lambda row: row.seed), lambda row: row.task)
    tasks = {task: grouped(by_task[task], methods) for task in sorted(by_task, key=where)}
    smooth = grouped([row for row in rows if row.method == SMOOTHNESS], sorted(tasks, key=where), lambda row: row.task)
    figures: dict[str, Callable[[], Figure | None]] = {
        "coordinates": partial(along, tasks, "coordinates"),
        "horizons": partial(along, tasks, "horizon"),
        "smoothness": partial(_smoothness, smooth),
    }
    captions = {
        "coordinates": "What teachers gain, and how many student steps they need, by the coordinates of an action; a "
        "cross at the upper edge: never within the budget",
        "horizons": "The same by the length of a training run",
        "smoothness": "Up to which step the gradient is of use (`meta.smoothness`; the largest that is tried is 0.1), "
        "by the length of a training run; 0: not at all",
    }
    sections = [*(_section(task, groups) for task, groups in tasks.items()), *_of_smoothness(smooth)]
    report = Report("RL and the exact gradient", sections, figures, rows, captions)
    report.unproven = evidence.unproven(tasks, lambda group: group.name != UNTAUGHT)
    return report


def _section(task: str, groups: Sequence[Group]) -> Section:
    columns = [
        Column("method", lambda g: g.name if g.name == UNTAUGHT else evidence.marked(g)),
        interval("J at the end (95 %)", OBJECTIVE),
        Column("of what can be gained, %", lambda g: "" if (part := gained(g)) is None else f"{100 * part:.0f}"),
        Column("student steps to half of it", _steps_cell),
        *(Column(head, partial(_of_taught, cell)) for head, cell in evidence.COLUMNS.items()),
        seeds(OBJECTIVE),
        Column("student steps", lambda g: f"{n:,}" if (n := g.student_steps(OBJECTIVE.metric)) else "-"),
        Column("teacher time, s", lambda g: f"{g.seconds(OBJECTIVE.metric):.0f}"),
        Column("selected settings", lambda g: described({"own": g.config["own"]})),
    ]
    row, place = groups[0].first, where(task)
    rate = " at a rough learning rate" if place.rough else ""
    coordinates = "1 coordinate" if place.coordinates == 1 else f"{place.coordinates:,} coordinates"
    text = (
        f"{row.student} on {row.dataset}, 40 % wrong labels in the pool, right ones in dev; {coordinates}, "
        f"training runs of {place.horizon:,} student steps{rate}; "
        f"J of {row.config['students']} fresh students{evidence.meaning(groups)}"
    )
    return Section.of(task, columns, groups, text, 4)


def _of_taught(cell: Callable[[Group], str], group: Group) -> str:
    """A cell of what shows that a teacher taught."""
    return "-" if group.name == UNTAUGHT else cell(group)


def _of_smoothness(groups: Sequence[Group]) -> list[Section]:
    columns = [
        Column("task", lambda group: group.name),
        number("usable radius", "usable_radius", "g"),
        number("growth", "gradient_growth", ".2g"),
        number("agreement", "gradient_agreement", ".2f"),
    ]
    text = "What `meta.smoothness` says of the gradient at the neutral action; a radius of 0: of no use"
    return [Section.of("Smoothness", columns, groups, text)] if groups else []


def _smoothness(groups: Sequence[Group]) -> Figure | None:
    """Draws the usable radius of the gradient by the horizon, a dot a place."""
    if not groups:
        return None
    figure, (axis,) = style.panels(["ten actions a training"])
    for rough, name, look in ((False, "calm learning rate", "o"), (True, "rough learning rate", "x")):
        places = {group.name: where(group.name) for group in groups}
        radii = [(places[g.name].horizon, *g.values("usable_radius").values()) for g in groups]
        of_kind = [pair for pair, g in zip(radii, groups, strict=True) if places[g.name].rough is rough]
        axis.plot(*np.array(of_kind).reshape(-1, 2).T, look, label=name)
    axis.set_xscale("log")
    style.describe(axis, "horizon", "usable radius of the gradient")
    return figure


def _bounds(group: Group) -> tuple[float, float] | None:
    """J of the untaught and of those with the best constant action, means over seeds; None: they were not measured."""
    bounds = [group.beside.get(name) for name in (UNTAUGHT, KNOWN)]
    ends = [np.mean([*OBJECTIVE.values(g).values()]) for g in bounds if g is not None]
    return (float(ends[0]), float(ends[1])) if len(ends) == 2 else None


def gained(group: Group) -> float | None:
    """The part of what can be gained that a teacher's students have at the end, the mean over seeds."""
    bounds = _bounds(group)
    if bounds is None or bounds[1] <= bounds[0]:
        return None
    mean = float(np.mean([*OBJECTIVE.values(group).values()]))
    return (mean - bounds[0]) / (bounds[1] - bounds[0])


def reached(group: Group) -> list[int | None]:
    """After how many student steps each seed's teacher was first seen with half of the gain; None: never.

    Empty of what does not learn.
    """
    bounds = _bounds(group)
    if bounds is None or bounds[1] <= bounds[0] or group.name in (UNTAUGHT, KNOWN):
        return []
    least = bounds[0] + SHARE * (bounds[1] - bounds[0])
    of_seeds = by(group.of(OBJECTIVE.metric), lambda row: row.seed).values()
    return [next((row.student_steps for row in seed if row.value >= least), None) for seed in of_seeds]


def _median(steps: Sequence[int | None]) -> float | None:
    """The median over seeds, None if half of them or more never came there."""
    middle = float(np.median([np.inf if each is None else each for each in steps])) if steps else np.inf
    return middle if np.isfinite(middle) else None


def _steps_cell(group: Group) -> str:
    steps = reached(group)
    if not steps:
        return ""
    middle, count = _median(steps), sum(each is not None for each in steps)
    return f"{'never' if middle is None else f'{middle:,.0f}'} ({count} of {len(steps)})"


def along(tasks: Mapping[str, Sequence[Group]], axis: str) -> Figure | None:
    """Draws the part that is gained and the student steps to half of it, along an axis, a line a teacher.

    Args:
        tasks: groups by the task's name.
        axis: `"coordinates"` of actions, in training runs of one length, or `"horizon"`, with one number of
            coordinates.
    """
    places = {task: where(task) for task in tasks}
    of_one = [place for place in places.values() if not place.rough]
    other = "horizon" if axis == "coordinates" else "coordinates"
    held = [getattr(place, other) for place in of_one]
    if not held:
        return None
    fixed = max(sorted({*held}), key=held.count)
    chosen = {
        getattr(place, axis): tasks[task]
        for task, place in places.items()
        if not place.rough and getattr(place, other) == fixed
    }
    names = [g.name for g in next(iter(chosen.values())) if g.name not in (UNTAUGHT, KNOWN)]
    if not names:
        return None
    looks = style.distinct([names])
    title = f"{other} {fixed:,}"
    figure, (left, right) = style.panels([title, title])
    for name in names:
        drawn = {x: group for x, groups in sorted(chosen.items()) for group in groups if group.name == name}
        # Dashed where it can lie on the line of the whole gradient.
        line = {**looks[name].line("o"), "linestyle": "--" if name == "rmd:truncated" else "-"}
        parts = [(x, 100 * part) for x, group in drawn.items() if (part := gained(group)) is not None]
        left.plot(*np.array(parts).reshape(-1, 2).T, label=name, **line)
        middles = {x: _median(reached(group)) for x, group in drawn.items()}
        seen = [(x, y) for x, y in middles.items() if y is not None]
        right.plot(*np.array(seen).reshape(-1, 2).T, label=name, **line)
        if never := [x for x, y in middles.items() if y is None]:
            at_the_edge = {"transform": right.get_xaxis_transform(), "clip_on": False}
            right.plot(never, [1.0] * len(never), "x", color=line["color"], **at_the_edge)
    left.axhline(100, color=style.GREY, linewidth=0.8)
    right.set_yscale("log")
    for panel, what in ((left, "% of what can be gained"), (right, _Y)):
        panel.set_xscale("log")
        style.describe(panel, axis, what)
    return figure
