"""Tables and figures of taught policies, from result rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.rl_students.work import LEARNING, METHODS, UNTAUGHT
from teachenv.experiment import evidence, tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Measure, Section, grouped
from teachenv.plot.series import curves

RETURN = Measure("episode_return", digits=1)
J = Measure("dev_objective", digits=3)
_evidence = evidence.beside(lambda group: None if group.name == UNTAUGHT else UNTAUGHT, "teacher_moved", RETURN)
ABOUT = (
    "Mean return of fresh students, the same of each seed for all methods, in test episodes at the end of their "
    "training; J is that of the evaluation episodes. Intervals are over seeds: bootstrap intervals of means, and "
    "Student's of differences over pairs of one seed. Teachers that learn did so from as many other students each; "
    "none was tuned"
)


def _moved(group: Group) -> str:
    sizes = list(group.values("teacher_moved").values())
    return f"{np.mean(sizes):.2f}" if sizes and group.name != UNTAUGHT else ""


def _last_action(group: Group) -> str:
    """The mean action at the last update, by what it sets."""
    if group.name in (UNTAUGHT, "random"):
        return ""
    rows = group.of(RETURN.metric)
    last = np.mean([row.data["actions"][-1] for row in rows], axis=0)
    return ", ".join(f"{name} {value:+.2f}" for name, value in zip(rows[0].data["control"], last, strict=True))


COLUMNS = (
    Column("method", lambda group: evidence.marked(group, _evidence)),
    tables.interval("return [95 %]", RETURN),
    tables.against(UNTAUGHT, f"against {UNTAUGHT} [95 %], p", RETURN, ", {:.2g}"),
    tables.interval("J [95 %]", J),
    Column("mean size of a coordinate", _moved),
    Column("action at the last update", _last_action),
    tables.seeds(RETURN),
    Column("environment steps", lambda group: f"{max(r.data['env_steps'] for r in group.of(RETURN.metric)):,}"),
    tables.seconds(RETURN),
)


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    parts = {
        task: [group for group in grouped(task_rows, METHODS) if group.of(RETURN.metric)]
        for task, task_rows in tables.by(rows, lambda row: row.task).items()
    }
    sections, unproven = [], []
    for task, groups in parts.items():
        config = groups[0].rows[0].config
        spent = f" ({config['trainings']} for each; {config['students']} fresh ones)."
        sections.append(Section.of(task, COLUMNS, groups, ABOUT + spent + _mark(groups), shown=5))
        unproven += [f"{task}: {g.name}" for g in groups if g.name in LEARNING and not g.values("teacher_moved")]
    drawn = {"curves": partial(curves, parts, "updates of the student", "J", band="interval")}
    captions = {"curves": "J of fresh students as they train, means over seeds with 95 % intervals"}
    report = Report("Students that learn by reinforcement", sections, drawn, rows, captions)
    report.unproven = unproven
    return report


def _mark(groups: Sequence[Group]) -> str:
    said = evidence.meaning(groups, _evidence).removeprefix("; ")
    return f" {said[:1].upper()}{said[1:]}." if said else ""
