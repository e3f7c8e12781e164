"""Tables and figures of trained policies, from result rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.lot_atari.methods import METHODS
from teachenv.experiment import tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.statistics import iqm
from teachenv.experiment.tables import METHOD, Column, Measure, Section, deviation, grouped, number
from teachenv.plot.series import curves

BASELINE = "teacher-only"
RETURN = Measure("episode_return", digits=1)
COLUMNS = (
    METHOD,
    tables.interval("return (interquartile mean [95 %])", RETURN, iqm),
    deviation("mean ± deviation", RETURN),
    tables.against(BASELINE, f"mean against {BASELINE} [95 %], p", RETURN, ", {:.2g}"),
    number("student's KL", "student_kl", ".2g", statistic=np.mean),
    tables.seeds(RETURN),
    Column("environment steps", lambda group: f"{group.of(RETURN.metric)[0].data['env_steps']:,}"),
    Column("policy updates", lambda group: f"{group.of(RETURN.metric)[0].data['policy_updates']:,}"),
    tables.steps(RETURN, "all updates"),
    tables.seconds(RETURN),
)
ABOUT = (
    "True returns of the last 100 episodes of a training. Intervals of interquartile means are of the\n"
    "bootstrap, those of differences, over pairs of one seed, Student's."
)


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    tasks = tables.by(rows, lambda row: row.task)
    costs, sections = tasks.pop("throughput", []), []
    for task, task_rows in tasks.items():
        groups = [group for group in grouped(task_rows, METHODS) if group.of(RETURN.metric)]
        title = f"{task}, {task_rows[0].config['training']['steps']:,} steps"
        sections.append(Section.of(title, COLUMNS, groups, ABOUT, shown=6))
    if costs:
        columns = [
            Column("what", lambda group: group.name),
            number("steps a second", "steps_per_second", ",.0f"),
            number("ratio", "ratio", ".2f"),
        ]
        title = f"Throughput on {costs[0].config['game']}, {costs[0].config['num_envs']} games side by side"
        about = "Medians over turns in one process; ratios to ppo, and to make_atari_env."
        sections.append(Section.of(title, columns, grouped(costs), about))
    parts = {task: grouped(task_rows, METHODS) for task, task_rows in tasks.items()}
    y = "return of the episodes that ended"
    drawn = {"curves": partial(curves, parts, "environment steps", y, band="interval")}
    captions = {"curves": "Returns as training goes on: means over seeds with 95 % intervals"}
    return Report("Learning from teaching: policies", sections, drawn, rows, captions)
