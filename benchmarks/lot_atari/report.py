"""Tables and figures of trained policies, from result rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.lot_atari.methods import METHODS
from teachenv.experiment import evidence, tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.statistics import iqm
from teachenv.experiment.tables import Column, Group, Measure, Section, deviation, grouped, number
from teachenv.plot.series import curves

BASELINE, TERM = "teacher-only", "term_share"
RETURN = Measure("episode_return", digits=1)


def _untaught(group: Group) -> str | None:
    """The policy without students, of a line that has some."""
    return BASELINE if group.of("student_kl") else None


_evidence = evidence.beside(_untaught, TERM, RETURN)


COLUMNS = (
    Column("method", lambda group: evidence.marked(group, _evidence)),
    tables.interval("return (interquartile mean [95 %])", RETURN, iqm),
    deviation("mean ± deviation", RETURN),
    tables.against(BASELINE, f"mean against {BASELINE} [95 %], p", RETURN, ", {:.2g}"),
    evidence.share("LoT's term, % of the policy's loss", TERM, _untaught),
    number("student's KL", "student_kl", ".2g", statistic=np.mean),
    tables.seeds(RETURN),
    Column("environment steps", lambda group: f"{group.of(RETURN.metric)[0].data['env_steps']:,}"),
    Column("policy updates", lambda group: f"{group.of(RETURN.metric)[0].data['policy_updates']:,}"),
    tables.steps(RETURN, "all updates"),
    tables.seconds(RETURN),
)
ABOUT = (
    "True returns of the last 100 episodes of a training run. Interquartile means have bootstrap\n"
    "intervals; differences, over pairs of one seed, have Student's intervals"
)


def make(rows: Sequence[Row]) -> Report:
    """The report of the rows."""
    costs, trained = ([row for row in rows if (row.task == "throughput") == of_cost] for of_cost in (True, False))
    tasks = tables.by(trained, lambda row: f"{row.task}, {row.config['training']['steps']:,} steps")
    sections, unproven = [], []
    for task, task_rows in tasks.items():
        groups = [group for group in grouped(task_rows, METHODS) if group.of(RETURN.metric)]
        about = ABOUT + evidence.meaning(groups, _evidence) + "."
        sections.append(Section.of(task, COLUMNS, groups, about, shown=6))
        unproven += [f"{task}: {g.name}" for g in groups if _untaught(g) is not None and _evidence(g) is None]
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
    report = Report("Learning from teaching: policies", sections, drawn, rows, captions)
    report.unproven = unproven
    return report
