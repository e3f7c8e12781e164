"""Tables and learning curves of policies, from rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.lot_atari.methods import METHODS
from benchmarks.presentation import color, markdown, panels, print_table, write_figures
from teachenv.experiment.rows import Row, by_method, write_atomically
from teachenv.experiment.statistics import bootstrap_interval, iqm, mean, paired, summarise

BASELINE = "teacher-only"
HEADER = (
    "method",
    "return (interquartile mean [95 %])",
    "mean ± deviation",
    f"mean against {BASELINE} [95 %], p",
    "student's KL",
    "seeds",
    "environment steps",
    "policy updates",
    "all updates",
    "seconds",
)
THROUGHPUT = ("what", "steps a second", "ratio")


def write(rows: Sequence[Row], folder: Path) -> None:
    """Writes table.md and the figure into the folder, and prints the tables."""
    lines: list[str] = []
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.task, []).append(row)
    costs = groups.pop("throughput", [])
    groups = {task: by_method(own, METHODS) for task, own in groups.items()}
    for task, own in groups.items():
        body = _table(own)
        steps = own[0].config["training"]["steps"]
        lines += [
            f"## {task}, {steps:,} steps",
            "",
            "True returns of the last 100 episodes of a training. Intervals of interquartile means are of the",
            "bootstrap, those of differences, over pairs of one seed, Student's.",
            "",
            *markdown(HEADER, body),
            "",
        ]
        print_table(f"{task}, {steps:,} steps", HEADER[:6], [line[:6] for line in body])
    if costs:
        body = _costs(costs)
        title = f"Throughput on {costs[0].config['game']}, {costs[0].config['num_envs']} games side by side"
        about = "Medians over turns in one process; ratios to ppo, and to make_atari_env."
        lines += [f"## {title}", "", about, "", *markdown(THROUGHPUT, body), ""]
        print_table(title, THROUGHPUT, body)
    write_atomically(folder / "table.md", "\n".join(lines))
    write_figures(folder, {"curves": _curves(groups)})
    Console().print(f"rows, table and figure: {folder}", highlight=False, markup=False)


def _table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    body: list[tuple[str, ...]] = []
    values = {(row.method, row.seed): row.value for row in rows if row.metric == "episode_return"}
    for method in dict.fromkeys(name for name, _ in values):
        own = [row for row in rows if row.method == method and row.metric == "episode_return"]
        kls = [row.value for row in rows if row.method == method and row.metric == "student_kl"]
        found = [row.value for row in own]
        both = [row.seed for row in own if (BASELINE, row.seed) in values]
        against = ""
        if method != BASELINE and len(both) > 1:
            mine, theirs = ([values[name, seed] for seed in both] for name in (method, BASELINE))
            difference = paired(mine, theirs)
            against = f"{difference.interval(1)}, {difference.p:.2g}"
        summary = summarise(found, statistic=iqm)
        body.append(
            (
                method,
                f"{summary.iqm:.1f}" + (f" [{summary.low:.1f}, {summary.high:.1f}]" if len(found) > 1 else ""),
                f"{np.mean(found):.1f}" + (f" ± {np.std(found, ddof=1):.1f}" if len(found) > 1 else ""),
                against,
                f"{np.mean(kls):.2g}" if kls else "",
                str(len(found)),
                f"{own[0].data['env_steps']:,}",
                f"{own[0].data['policy_updates']:,}",
                f"{own[0].student_steps:,}",
                f"{np.median([row.seconds for row in own]):.0f}",
            )
        )
    return body


def _costs(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    newest = {(row.method, row.metric): row.value for row in rows}
    return [
        (method, f"{newest[method, 'steps_per_second']:,.0f}", f"{newest[method, 'ratio']:.2f}")
        for method in dict.fromkeys(row.method for row in rows)
    ]


def _curves(groups: dict[str, list[Row]]) -> Figure | None:
    """Returns as training goes on: means over seeds, with bootstrap intervals."""
    shown = {task: [row for row in rows if row.data] for task, rows in groups.items()}
    shown = {task: rows for task, rows in shown.items() if rows}
    if not shown:
        return None
    figure, axes = panels(list(shown))
    for axis, rows in zip(axes, shown.values(), strict=True):
        for number, method in enumerate(dict.fromkeys(row.method for row in rows)):
            curves = np.array([row.data["curve"] for row in rows if row.method == method], dtype=float)
            # Only points at which an episode of each run ended.
            whole = ~np.isnan(curves[:, :, 1]).any(0)
            steps, values = curves[0, whole, 0], curves[:, whole, 1]
            if not len(steps):
                continue
            axis.plot(steps, values.mean(0), color=color(number), label=f"{method} ({len(values)})")
            if len(values) > 1:
                bands = np.array([bootstrap_interval(column, mean, resamples=1000) for column in values.T])
                axis.fill_between(steps, bands[:, 0], bands[:, 1], color=color(number), alpha=0.15, linewidth=0)
        axis.set_xlabel("environment steps")
        axis.legend(fontsize=7, title="method (seeds)", title_fontsize=7)
    axes[0].set_ylabel("return of the episodes that ended (mean and 95 % interval)")
    return figure
