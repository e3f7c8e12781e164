"""Which mixture of texts, and which documents, make the best language model of one target text?

A small transformer learns from a pool in which the target (the Penn Treebank) is rare beside other texts (WikiText-2
and Multi30k) and a corrupted copy of one of them. Teachers weigh domains (`loss="domain-weights"`) or documents
(`"data-weights"`); J is the log-likelihood on a small trusted dev set of the target. Beside them stand baselines that
an expert would ask for: all documents alike, those of the target alone, all that are not corrupted (which nobody tells
a teacher), dev as training data, and constant mixtures that are chosen on dev. The protocol is that of
`benchmarks.compare`: grids of equal size, tuned on dev; equal budgets of student steps for all teachers that learn;
test touched once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

import agents.methods
import meta.methods
import teachenv  # noqa: F401 - registers the environments
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from teachenv.experiment import comparison_report
from teachenv.experiment.comparison import Comparison
from teachenv.experiment.comparison_report import OBJECTIVE, Result, Results
from teachenv.experiment.contest import Contest, Effort, Rung
from teachenv.experiment.methods import Method, fixed
from teachenv.experiment.report import Report
from teachenv.experiment.setting import Configuration, Setting
from teachenv.experiment.tables import Column, Group, Measure, interval
from teachenv.experiment.trusted_dev import LEARN_FROM, baselines
from teachenv.experiment.weighing import AUC, RMS
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "data_mixture"
ENVIRONMENT = "TeachLanguage-v0"
PERPLEXITY = Result(Measure("test_perplexity"), "test perplexity", "")
DOMAINS: dict[str, dict[str, float]] = {
    "texts": {"ptb": 0.05, "wikitext-2-valid": 0.35, "multi30k": 0.35, "wikitext-2-valid-corrupted": 0.25},
    "chains": {"target": 0.05, "near": 0.35, "far": 0.35, "near-corrupted": 0.25},
}
"""The share of each domain in the pool, by the data's name; the first is the target, the last is corrupted."""

# Of each list the first values are the most telling: small presets try only these.
_DECAYS = [0.0, 1e-3, 1e-4, 1e-2]
_RATES = [0.1, 0.3, 0.1, 0.3]
_SCALES = [2.0, 2.0, 3.0, 3.0]
# More of the target and less of the corrupted copy, twice; less of the copy alone; less of all but the target. With
# scale 2 the target, 5 % of the pool, has 33, 16, 6 and 74 % of the mixtures, the copy, a quarter of it, 3, 4, 4, 7 %.
_MIXTURES = [(1.0, 0.0, 0.0, -1.0), (0.5, 0.0, 0.0, -1.0), (0.0, 0.0, 0.0, -1.0), (1.0, -1.0, -1.0, -1.0)]


def methods(data: str) -> dict[str, Method]:
    """What is compared, with four candidates each.

    Args:
        data: a name in `DOMAINS`.
    """
    target, *others = DOMAINS[data]
    weighs: dict[str, Any] = {"scale": _SCALES, "learning_rate": _RATES}
    # A critic's update for each transition: with SB3's one for each step of all students it hardly learns.
    rl: dict[str, Any] = {"learning_rate": [1e-3, 1e-2, 1e-3, 1e-2], "action_penalty": [0.1, 0.1, 1.0, 1.0]}
    return {
        "uniform": fixed("cross-entropy", weight_decay=_DECAYS),
        "rmd": meta.methods.rmd(**weighs),
        "target only": fixed("cross-entropy", weight_decay=_DECAYS, task_kwargs={"kept": [target]}),
        "constant": meta.methods.constant(_MIXTURES, scale=2.0),
        "doremi": meta.methods.doremi(step_size=[1.0, 3.0, 0.3, 10.0]),
        "data-weights": meta.methods.data_weights(learning_rate=_RATES, normalise=[True, True, False, False]),
        "rmd:train + dev": meta.methods.rmd(learn_from="pool and dev", **weighs),
        "bandit": meta.methods.bandit(arms=[16, 32, 16, 32], exploration=[0.03, 0.03, 0.1, 0.1], scale=2.0),
        "evolution-strategies": meta.methods.evolution_strategies(sigma=[0.3, 0.1, 0.3, 0.1], **weighs),
        "ddpg": agents.methods.ddpg(gradient_steps=-1, scale=2.0, **rl),
        "random": meta.methods.random(scale=[1.0, 2.0, 0.5, 3.0]),
        "rmd:shared": meta.methods.rmd("FreePolicy", **weighs),
        "without corrupted": fixed("cross-entropy", weight_decay=_DECAYS, task_kwargs={"kept": [target, *others[:-1]]}),
    }


METHODS = tuple(methods("texts"))
"""Names of what is compared, beside the methods that train on dev, `LEARN_FROM`; the most telling first."""


@dataclass(frozen=True, kw_only=True)
class Size(Effort):
    """What is spent on a task.

    Attributes:
        data: a name in `DOMAINS`.
        options: the environment's options, for all methods.
        rates: learning rates of the student, over which every method is tuned.
        candidates: how many of a method's candidates are tried with each of them.
    """

    data: str
    options: Mapping[str, Any]
    rates: tuple[float, ...]
    candidates: int


def _options(data: str, documents: int, dev: int, test: int, task: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The environment's options: documents of the pool, of dev and of test, and what else the task and it have."""
    held_out = {"dev_documents": dev, "test_documents": test}
    return {
        "dataset": "text" if data == "texts" else "chains",
        "pool_size": documents,
        "task_kwargs": {"domains": DOMAINS[data], **held_out, **task},
        "lr_schedule": "linear",
        **more,
    }


_SMOKE = Size.smallest(
    horizon=4,
    parallel=2,
    data="chains",
    options=_options("chains", 80, 12, 20, {"length": 6}, horizon=4, steps_per_action=2, batch_size=4),
    rates=(0.01,),
    candidates=1,
)
_SMALL: dict[str, Any] = {"horizon": 120, "steps_per_action": 10, "batch_size": 16}
_TEXTS = Size(
    data="texts",
    options=_options("texts", 1_500, 100, 500, {"length": 16, "vocabulary_size": 800}, **_SMALL),
    rates=(0.01, 0.02),
    candidates=2,
    student_steps=3_600,
    parallel=2,
    rungs=(Rung(4, 960, 2, 4),),
    points=2,
    students=4,
    final_students=8,
)


def _larger(size: Size, **options: Any) -> Size:
    """A size as the paper preset has it: whole grids, and ten times the budget in training runs that are longer."""
    horizon, parallel = options["horizon"], 8
    return replace(
        size,
        options={**size.options, **options},
        rates=(0.5 * min(size.rates), *size.rates),
        candidates=4,
        student_steps=640 * horizon,
        parallel=parallel,
        rungs=(Rung(12, 64 * horizon, parallel, 8), Rung(3, 160 * horizon, parallel, 16)),
        points=5,
        students=8,
        final_students=16,
    )


_NETWORK = {"width": 256, "layers": 4, "heads": 4, "inner": 1_024, "dropout": 0.1}
SIZES: dict[Preset, tuple[Size, ...]] = {
    "smoke": (_SMOKE,),
    "laptop": (_TEXTS,),
    "paper": (
        _larger(
            _TEXTS,
            **_options("texts", 5_000, 1_000, 1_200, {"length": 64, "vocabulary_size": 10_000}),
            horizon=2_000,
            steps_per_action=50,
            batch_size=32,
            student_kwargs=_NETWORK,
            learning_rate=0.001,
        ),
        _larger(
            replace(_TEXTS, data="chains", options=_options("chains", 2_000, 100, 500, {}, **_SMALL)),
            horizon=400,
            steps_per_action=20,
        ),
    ),
}
SEEDS: dict[Preset, int] = {"smoke": 1, "laptop": 3, "paper": 5}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks data_mixture`."""

    tasks: tuple[str, ...] | None = None
    """What the documents are, by default all that the preset has: texts (the Penn Treebank as target, WikiText-2 and
    Multi30k, read from files) and chains (procedural, without files)."""

    methods: tuple[str, ...] | None = None
    """What is run, by default all: uniform, target only, "without corrupted", "dev only" and "train + dev" (plain
    losses on all or some documents), constant (mixtures chosen on dev), bandit, doremi, rmd, "rmd:train + dev" (its
    students learn from dev, too), rmd:shared (one mixture for a whole training run), evolution-strategies, ddpg and
    random (weights of domains), data-weights (weights of documents). The table has all methods whose rows the folder
    holds."""

    def _names(self) -> Names:
        return {"task": (self.tasks, DOMAINS), "method": (self.methods, [*METHODS, *LEARN_FROM])}


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, table, figures and page."""
    sizes = [size for size in SIZES[options.preset] if options.tasks is None or size.data in options.tasks]
    if not sizes:
        raise ValueError(
            f"preset {options.preset} has none of the tasks {', '.join(options.tasks or ())}; leave --tasks out, or "
            "choose another preset"
        )
    contests = [_contest(size, options) for size in sizes]
    comparison = Comparison(NAME, contests, options.seeds or SEEDS[options.preset], result=PERPLEXITY)
    # One task after the other: each is whole before the next begins.
    stages = chain.from_iterable(comparison.stages_of([contest]) for contest in contests)
    options.execute(NAME, stages, lambda rows: make(comparison.results(rows)))


def _contest(size: Size, options: Options) -> Contest:
    setting = Setting(ENVIRONMENT, {**size.options, "data_root": options.root}, "domain-weights")
    known = {
        name: replace(method, candidates=method.candidates[: size.candidates])
        for name, method in methods(size.data).items()
    }
    made = setting.make_single(known["uniform"], Configuration({})).problem
    known |= baselines(made, size.candidates)
    chosen = [name for name in known if options.methods is None or name in options.methods]
    tune = {"learning_rate": size.rates}
    return Contest.of(setting, size, known, lambda method: tune, chosen, made, name=size.data)


AREA, MOVED = Measure(AUC, digits=3), Measure(RMS, digits=3)


def make(results: Results) -> Report:
    """The report: that of every comparison, and what teachers did to domains and documents."""
    columns: list[Column] = [
        interval("token accuracy %", Measure("test_token_accuracy", scale=100, digits=1)),
        interval("AUC of corrupted documents", AREA),
        interval("rms of w − 1", MOVED),
    ]
    figures = {"dev_perplexity": partial(dev_perplexity, results), "mixtures": partial(mixtures, results)}
    return comparison_report.make("Mixtures of training texts compared", results, figures, columns)


def dev_perplexity(results: Results) -> Figure | None:
    """Draws the perplexity of dev along the students' training, the mean over seeds."""

    def curves(group: Group) -> list[series.Curve]:
        measured = [np.exp(-np.asarray(row.data["curve"])) for row in group.of(OBJECTIVE) if row.data]
        return [list(zip(np.linspace(0, 100, len(curve)), curve.tolist(), strict=True)) for curve in measured]

    figure = series.curves(
        results.tasks,
        "% of the students' training",
        "perplexity of dev",
        curves,
        looks=results.look,
        style=lambda group: "--" if group.name in results.fixed else "-",
    )
    if figure is not None:
        for axis in figure.axes:
            axis.set_yscale("log")  # it begins at the number of words
    return figure


def mixtures(results: Results) -> Figure | None:
    """Draws the share of each domain in the mixture along the students' training, a panel for each teacher.

    The share of domain k is α_k = p_k w_k; dashed: p_k, its share in the pool.
    """
    shown = [(task, group) for task, groups in results.tasks.items() for group in groups if _mixtures(group)]
    if not shown:
        return None
    figure, axes = style.panels([f"{task}: {group.name}" for task, group in shown])
    for axis, (_, group) in zip(axes, shown, strict=True):
        horizon = group.config["options"]["horizon"]
        for number, (name, share) in enumerate(_shares(group).items()):
            curves = [[(100 * step / horizon, mixture[number]) for step, mixture in seed] for seed in _mixtures(group)]
            series.curve(axis, curves, band="range", color=f"C{number}", label=name, marker="o", markersize=3)
            axis.axhline(share, color=f"C{number}", linestyle="--", linewidth=0.8)
        axis.set_ylim(0, 1)
        style.describe(axis, "% of the students' training", "share in the mixture")
    return figure


def _shares(group: Group) -> dict[str, float]:
    """The share of each domain in the pool of a group's rows."""
    domains: dict[str, float] = group.config["options"]["task_kwargs"]["domains"]
    return {name: share / sum(domains.values()) for name, share in domains.items()}


def _mixtures(group: Group) -> list[list[tuple[int, list[float]]]]:
    """(student step, the share of each domain) of each seed, of a teacher that weighs domains; none of another."""
    if group.config["loss"] is None or group.config["own"].get("loss", "domain-weights") != "domain-weights":
        return []
    shares = np.array(list(_shares(group).values()))
    return [
        [
            (step, (shares * np.asarray(weights[0])).tolist())
            for step, weights in zip(row.data["actions_at"], row.data["coefficients"], strict=True)
        ]
        for row in group.of(OBJECTIVE)
        if row.data
    ]


TABLES: Tables = {
    "table": lambda rows: make(
        Results.of(rows, {**methods("texts"), **dict.fromkeys(LEARN_FROM, Method())}, PERPLEXITY)
    )
}
