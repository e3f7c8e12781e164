"""Tables and figures of translation, from rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.l2t_dlf_translation.methods import METHODS
from benchmarks.presentation import markdown, panels, print_table, write_figures
from teachenv.experiment.rows import Row, by_method, write_atomically
from teachenv.experiment.statistics import paired

# BLEU on IWSLT-14 De-En (Wu et al. 2018, Table 3), by student and method.
PUBLISHED = {
    "lstm-1": {
        "cross-entropy": 27.28, "rl": 27.53, "actor-critic": 27.75, "softmax-margin": 28.12, "l2t-dlf:sigmoid": 29.52,
    },
    "lstm-2": {
        "cross-entropy": 30.86, "rl": 31.03, "actor-critic": 31.21, "softmax-margin": 31.22, "l2t-dlf:sigmoid": 31.75,
    },
    "transformer-6": {
        "cross-entropy": 34.01, "rl": 34.32, "actor-critic": 34.34, "softmax-margin": 34.46, "l2t-dlf:sigmoid": 34.80,
    },
}  # fmt: skip

HEADER = (
    "method",
    "test BLEU, greedy",
    "beam of 5",
    "greedy against cross-entropy (95 %, paired t)",
    "token accuracy %",
    "seeds",
    "student steps",
    "seconds",
    "the paper's BLEU (IWSLT-14)",
)


def write(rows: Sequence[Row], folder: Path) -> None:
    """Writes table.md and the figures into the folder, and prints the tables."""
    trained = [row for row in rows if row.config["stage"] == "training" and row.method in METHODS]
    final = by_method(trained, METHODS)
    lines: list[str] = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in final:
        groups.setdefault((row.task, row.student), []).append(row)
    for (task, student), own in groups.items():
        body = _table(own, student)
        about = f"Mean ± standard deviation over seeds. BLEU: {own[0].versions['bleu']}."
        lines += [f"## {task}, {student} ({own[0].dataset})", "", about, "", *markdown(HEADER, body), ""]
        print_table(f"{task}: {student}", HEADER[:4], [line[:4] for line in body])
        lines += _tokens(own)
    write_atomically(folder / "table.md", "\n".join(lines))
    by_student = [row for own in groups.values() for row in own]
    write_figures(folder, {"bleu": _bars(groups), "coefficients": _coefficients(by_student)})
    Console().print(f"rows, table and figures: {folder}", highlight=False, markup=False)


def _values(rows: Sequence[Row], method: str, metric: str) -> dict[int, float]:
    return {row.seed: 100 * row.value for row in rows if (row.method, row.metric) == (method, metric)}


def _table(rows: Sequence[Row], student: str) -> list[tuple[str, ...]]:
    body: list[tuple[str, ...]] = []
    reference = _values(rows, "cross-entropy", "test_bleu")
    for method in dict.fromkeys(row.method for row in rows):
        values, own = _values(rows, method, "test_bleu"), [row for row in rows if row.method == method]
        seeds, compared = sorted(values.keys() & reference.keys()), ""
        if method != "cross-entropy" and len(seeds) > 1:
            compared = paired([values[s] for s in seeds], [reference[s] for s in seeds]).interval()
        published = PUBLISHED.get(student, {}).get(method)
        body.append(
            (
                method,
                _mean_and_deviation(values),
                _mean_and_deviation(_values(rows, method, "test_bleu_beam")),
                compared,
                _mean_and_deviation(_values(rows, method, "test_token_accuracy")),
                str(len(values)),
                f"{max(row.student_steps for row in own):,}",
                f"{np.median([row.seconds for row in own]):.0f}",
                "" if published is None else f"{published:.2f}",
            )
        )
    return body


def _mean_and_deviation(values: dict[int, float]) -> str:
    found = list(values.values())
    return f"{np.mean(found):.2f}" + (f" ± {np.std(found, ddof=1):.2f}" if len(found) > 1 else "")


def _tokens(rows: Sequence[Row]) -> list[str]:
    """What teachers decided to emphasise, of the first seed."""
    lines: list[str] = []
    for row in rows:
        if row.data is None or row.seed != 0:
            continue
        header = ("student step", "largest coefficients", "smallest")
        body = [(str(step), _listed(largest), _listed(smallest)) for step, largest, smallest in row.data["tokens"]]
        lines += [f"Coefficients of tokens under {row.method}, {row.student}:", "", *markdown(header, body), ""]
    return lines


def _listed(tokens: dict[str, float]) -> str:
    # A bar would end the table's cell.
    return ", ".join(f"`{token}` {value:.2f}".replace("|", "\\|") for token, value in tokens.items())


def _bars(groups: dict[tuple[str, str], list[Row]]) -> Figure | None:
    """Test BLEU by method, with each seed."""
    if not groups:
        return None
    figure, axes = panels([f"{student} ({rows[0].dataset})" for (_, student), rows in groups.items()])
    for axis, rows in zip(axes, groups.values(), strict=True):
        methods = list(dict.fromkeys(row.method for row in rows))
        for place, method in enumerate(reversed(methods)):
            values = list(_values(rows, method, "test_bleu").values())
            axis.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.4)
            axis.plot([np.mean(values)], [place], "|", color="black", markersize=16)
        axis.set_yticks(range(len(methods)), list(reversed(methods)))
        axis.set_xlabel("test BLEU, greedy; a bar at the mean")
    return figure


def _coefficients(rows: Sequence[Row]) -> Figure | None:
    """How far apart the coefficients of tokens are along the training."""
    shown = [row for row in rows if row.data is not None and row.seed == 0]
    if not shown:
        return None
    figure, axes = panels([f"{row.student}, {row.method}" for row in shown], width=4.4)
    for axis, row in zip(axes, shown, strict=True):
        steps = [step for step, _ in row.data["spread"]]
        quantiles = np.array([values for _, values in row.data["spread"]])
        axis.fill_between(steps, quantiles[:, 0], quantiles[:, -1], alpha=0.15, color="tab:blue", label="all")
        axis.fill_between(steps, quantiles[:, 1], quantiles[:, -2], alpha=0.3, color="tab:blue", label="90 %")
        axis.plot(steps, quantiles[:, 3], color="tab:blue", label="median")
        axis.set_xlabel("student step after the warm start")
        axis.set_ylabel("coefficient of a token")
        axis.legend(fontsize=7)
    return figure
