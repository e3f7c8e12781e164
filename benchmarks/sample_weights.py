"""Do weights of samples, learned with a small trusted dev set, make better students from bad data?

The data is bad in one of two ways: labels are wrong (each class mistaken for the next, or for any other), or classes
are rare. Dev is either a small trusted set, whose right labels are a gift that two methods simply train on, or drawn
from the pool with its wrong labels. The protocol is that of `benchmarks.compare`: grids of equal size, tuned on dev by
successive halving; equal budgets of student steps for all teachers that learn; test touched once. Beside the test error
there is what a teacher did to the samples (`teachenv.experiment.weighing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import agents.methods
import meta.methods
import teachenv  # noqa: F401 - registers the environments
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from teachenv.experiment import comparison_report
from teachenv.experiment.comparison import Comparison
from teachenv.experiment.comparison_report import Results
from teachenv.experiment.contest import Contest, Effort, Rung
from teachenv.experiment.methods import Method, fixed
from teachenv.experiment.report import Report
from teachenv.experiment.setting import Configuration, Setting
from teachenv.experiment.tables import Column, Measure, interval
from teachenv.experiment.trusted_dev import LEARN_FROM, baselines
from teachenv.experiment.weighing import AUC, RMS
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "sample_weights"
_TRUSTED = 100
_NOISE = {
    f"{kind}-{100 * rate:g}": {"label_noise": rate, "label_noise_kind": kind}
    for kind in ("pair", "symmetric")
    for rate in (0.2, 0.4)
}
PROBLEMS: dict[str, Mapping[str, Any]] = {
    **{name: {**noise, "trusted_dev": _TRUSTED} for name, noise in _NOISE.items()},
    **{f"{name}-noisy-dev": noise for name, noise in _NOISE.items()},
    "imbalance-50": {"imbalance": 50.0, "trusted_dev": _TRUSTED},
}
"""What is bad about the data, by name, as options of an environment."""

_TELLING = ("pair-40", "symmetric-40", "imbalance-50")

# Of each list the first values are the most telling: small presets try only these.
_DECAYS = [0.0, 3e-3, 1e-3, 1e-2]
_NORMALISE = [True, True, False, False]
_SAMPLES: dict[str, Any] = {"loss": "sample-weights", "observe_samples": True, "normalise": _NORMALISE}
_RL: dict[str, Any] = {
    **_SAMPLES,
    "learning_rate": [1e-3, 1e-2, 1e-3, 1e-4],
    "action_penalty": [10.0, 0.1, 1.0, 100.0],
}
METHODS: dict[str, Method] = {
    "cross-entropy": fixed("cross-entropy", weight_decay=_DECAYS),
    "label-smoothing": fixed("label-smoothing", epsilon=[0.1, 0.4, 0.2, 0.05]),
    "generalized-cross-entropy": fixed("generalized-cross-entropy", q=[0.7, 0.3, 0.5, 0.9]),
    "focal": fixed("focal", gamma=[1.0, 2.0, 0.5, 5.0]),
    "class-balanced": fixed("class-balanced", beta=[0.99, 0.999, 0.9, 0.9999]),
    "self-paced": meta.methods.self_paced(until=[2.0, 1.0, 1.5, 0.5], warm_up=[0.3, 0.2, 0.3, 0.2]),
    # It has no parameter of its own.
    "l2rw": meta.methods.l2rw(weight_decay=_DECAYS),
    "meta-weight-net": meta.methods.meta_weight_net(learning_rate=[1e-3, 1e-2, 3e-3, 3e-4]),
    "data-weights": meta.methods.data_weights(learning_rate=[0.1, 0.3, 0.1, 0.3], normalise=_NORMALISE),
    "rmd": meta.methods.rmd("SamplePolicy", learning_rate=[0.03, 0.1, 0.03, 0.1], **_SAMPLES),
    "ddpg": agents.methods.ddpg("SamplePolicy", **_RL),
    "sac": agents.methods.sac("SamplePolicy", **_RL),
    # As a reference: a teacher of the loss matrix, which does not see samples.
    "rmd:bilinear": meta.methods.rmd(
        loss="bilinear", scale=[1.0, 0.5, 1.0, 0.5], learning_rate=[0.03, 0.03, 0.01, 0.01]
    ),
}
"""What is compared, with four candidates each; "dev only" and "train + dev" come with a trusted dev set."""


@dataclass(frozen=True, kw_only=True)
class Size(Effort):
    """What is spent in an environment.

    Attributes:
        env: its id.
        options: its options, for all methods.
        problems: names in `PROBLEMS`.
        rates: learning rates of the student, over which every method is tuned.
        candidates: how many of a method's candidates are tried with each of them.
    """

    env: str
    options: Mapping[str, Any]
    problems: tuple[str, ...]
    rates: tuple[float, ...]
    candidates: int


_SMOKE = Size.smallest(
    horizon=6,
    parallel=4,
    env="TeachDigits-v0",
    options={"lr_schedule": "linear", "horizon": 6, "batch_size": 16},
    problems=("pair-40", "pair-40-noisy-dev", "imbalance-50"),
    rates=(0.2,),
    candidates=1,
)
_DIGITS = Size(
    env="TeachDigits-v0",
    options={"lr_schedule": "linear"},
    problems=tuple(PROBLEMS),
    rates=(0.1, 0.3),
    candidates=2,
    student_steps=9_600,
    parallel=16,
    rungs=(Rung(4, 2_880, 16, 8),),
    points=2,
    students=8,
    final_students=32,
)
_MNIST = Size(
    env="TeachMNIST-v0",
    options={
        "lr_schedule": "linear",
        "pool_size": 2_000,
        "student_kwargs": {"hidden": [64]},
        "horizon": 60,
        "batch_size": 50,
        "steps_per_action": 1,
    },
    problems=_TELLING,
    rates=(0.05, 0.15),
    candidates=2,
    student_steps=4_800,
    parallel=8,
    rungs=(Rung(4, 960, 8, 4),),
    points=2,
    students=4,
    final_students=16,
)
_CIFAR = Size(
    env="TeachCIFAR-v0",
    options={
        "lr_schedule": "linear",
        "pool_size": 10_000,
        "student": "resnet8",
        "horizon": 2_000,
        "batch_size": 64,
        "steps_per_action": 1,
    },
    problems=tuple(PROBLEMS),
    rates=(0.03, 0.1, 0.3),
    candidates=4,
    student_steps=800_000,
    parallel=8,
    rungs=(Rung(12, 32_000, 8, 8), Rung(3, 160_000, 8, 16)),
    points=5,
    students=8,
    final_students=16,
)


def _larger(size: Size, **options: Any) -> Size:
    """A size as the paper preset has it: whole grids, and ten times the budget of the laptop's."""
    steps, parallel = size.student_steps, size.parallel
    rungs = (Rung(12, steps, parallel, 32), Rung(3, 4 * steps, parallel, 64))
    return replace(
        size,
        options={**size.options, **options},
        problems=tuple(PROBLEMS),
        rates=(*size.rates, 2 * max(size.rates)),
        candidates=4,
        student_steps=10 * steps,
        rungs=rungs,
        points=10,
        students=32,
        final_students=128,
    )


# What ends first is what matters most, should a run be stopped.
_ORDER = ("pair-40", "symmetric-40", "imbalance-50", "pair-40-noisy-dev")
SIZES: dict[Preset, tuple[Size, ...]] = {
    "smoke": (_SMOKE,),
    "laptop": (
        replace(_DIGITS, problems=_ORDER),
        _MNIST,
        replace(_DIGITS, problems=tuple(name for name in PROBLEMS if name not in _ORDER)),
    ),
    "paper": (
        _larger(_DIGITS),
        _larger(_MNIST, pool_size=None, student_kwargs={"hidden": [500]}, horizon=1_000),
        _CIFAR,
    ),
}
SEEDS: dict[Preset, int] = {"smoke": 1, "laptop": 3, "paper": 5}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks sample_weights`."""

    problems: tuple[str, ...] | None = None
    """What is bad about the data, by default all that the preset has: pair-20, pair-40, symmetric-20 and symmetric-40
    (percent of wrong labels in the pool, and 100 trusted samples as dev), the same with -noisy-dev (dev from the pool),
    imbalance-50 (the last class 50 times as rare as the first, 100 trusted samples as dev)."""

    methods: tuple[str, ...] | None = None
    """What is run, by default all: cross-entropy, label-smoothing, generalized-cross-entropy, focal, class-balanced,
    self-paced, l2rw, meta-weight-net, data-weights, rmd, ddpg and sac (one network that weighs each sample by what it
    sees of it), rmd:bilinear, and where dev is trusted "dev only" and "train + dev". The table has all methods whose
    rows the folder holds."""

    def _names(self) -> Names:
        return {"problem": (self.problems, PROBLEMS), "method": (self.methods, [*METHODS, *LEARN_FROM])}


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, table, figures and page."""
    contests = [
        _contest(size, name, options)
        for size in SIZES[options.preset]
        for name in size.problems
        if options.problems is None or name in options.problems
    ]
    if not contests:
        raise ValueError(
            f"preset {options.preset} has none of the problems {', '.join(options.problems or ())}; leave --problems "
            "out, or choose another preset"
        )
    comparison = Comparison(NAME, contests, options.seeds or SEEDS[options.preset])
    # One problem after the other: each is whole before the next begins.
    stages = chain.from_iterable(comparison.stages_of([contest]) for contest in contests)
    options.execute(NAME, stages, lambda rows: make(comparison.results(rows)))


def _contest(size: Size, problem: str, options: Options) -> Contest:
    shared = {**size.options, **PROBLEMS[problem], "data_root": options.root}
    setting = Setting(size.env, shared, "sample-weights")
    methods = {
        name: replace(method, candidates=method.candidates[: size.candidates]) for name, method in METHODS.items()
    }
    made = setting.make_single(methods["cross-entropy"], Configuration({})).problem
    methods |= baselines(made, size.candidates)
    chosen = [name for name in methods if options.methods is None or name in options.methods]
    return Contest.of(setting, size, methods, lambda method: {"learning_rate": size.rates}, chosen, made)


AREA, MOVED = Measure(AUC, digits=3), Measure(RMS, digits=3)


def make(results: Results) -> Report:
    """The report: that of every comparison, and what teachers did to the samples."""
    columns: list[Column] = [interval("ROC AUC for wrong labels", AREA), interval("rms of w − 1", MOVED)]
    return comparison_report.make(
        "Sample weights compared", results, {AUC: partial(wrong_labels, results)}, columns=columns
    )


def wrong_labels(results: Results) -> Figure | None:
    """Draws how well the weights tell wrong labels from right ones, a dot a seed; 0.5: not at all."""
    tasks = {task: groups for task, groups in results.tasks.items() if any(map(AREA.values, groups))}
    if not tasks:
        return None
    figure, axes = series.bar_panels(list(tasks), list(tasks.values()))
    for axis, groups in zip(axes, tasks.values(), strict=True):
        axis.axvline(0.5, color=style.GREY, linewidth=0.8)
        series.bars(axis, groups, AREA, results.look)
        style.describe(axis, "ROC AUC for wrong labels (dots: teachers)")
    return figure


TABLES: Tables = {"table": lambda rows: make(Results.of(rows, {**METHODS, **dict.fromkeys(LEARN_FROM, Method())}))}
