"""Does a learned schedule of the student's learning rate beat the tuned schedules that everybody uses?

Actions set the optimiser alone (`control`): the learning rate, or learning rate, momentum and weight decay. Teachers
begin at a constant schedule (the zero action) and learn what to multiply it by, and when; beside them are constant,
linear, cosine, step and one-cycle schedules, whose learning rate is tuned over as many configurations as a teacher has.
The protocol is that of `benchmarks.compare`: tuned on dev, equal budgets of student steps for all teachers, test
touched once.
"""

from __future__ import annotations

import itertools
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
from teachenv.experiment.comparison_report import Results
from teachenv.experiment.contest import Contest, Effort, Rung
from teachenv.experiment.methods import Method, fixed
from teachenv.experiment.report import Report
from teachenv.experiment.setting import Setting
from teachenv.experiment.tables import Group
from teachenv.plot import series
from teachenv.schedules import SCHEDULES, make_schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "schedules"
_ALL = ("learning-rate", "momentum", "weight-decay")
CONTROLS: dict[str, tuple[str, ...]] = {"learning-rate": ("learning-rate",), "optimiser": _ALL}
"""What actions set, by the name that ends a task's name."""

_TEACHER_RATES = [0.1, 0.03, 0.3, 0.1]
_PENALTIES = [0.1, 1.0, 10.0, 0.1]
_RL_RATES = [1e-3, 1e-3, 1e-3, 1e-4]
_SEGMENTS: dict[str, Any] = {"policy_kwargs": {"segments": 5}}


def methods(control: str, horizon: int) -> dict[str, Method]:
    """What is compared, with four candidates each; a teacher begins at a schedule of the same weight decay as others.

    Args:
        control: a name in `CONTROLS`.
        horizon: student steps of a training run.
    """
    kept: dict[str, Any] = {"weight_decay": [1e-4, 1e-3, 1e-4, 1e-3]}
    tuned = kept
    if control == "optimiser":
        # A factor on no weight decay would have no effect, and is refused.
        kept = {"weight_decay": 1e-3}
        tuned = {"weight_decay": [1e-3, 1e-2, 1e-3, 1e-4], "momentum": [0.9, 0.95, 0.8, 0.9]}
    gradient: dict[str, Any] = {"learning_rate": _TEACHER_RATES, **kept}
    # A critic's update for each transition: with SB3's one for each step of all students it hardly learns.
    rl: dict[str, Any] = {"learning_rate": _RL_RATES, "action_penalty": _PENALTIES, "gradient_steps": -1, **kept}
    evolution: dict[str, Any] = {"learning_rate": _TEACHER_RATES, "sigma": [0.1, 0.1, 0.3, 0.3], **kept}
    return {
        **{name: fixed("cross-entropy", lr_schedule=name, **tuned) for name in SCHEDULES},
        "rmd": meta.methods.rmd(**gradient),
        # Begins where the linear schedule is.
        "rmd:linear": meta.methods.rmd(lr_schedule="linear", **gradient),
        "rmd:truncated": meta.methods.rmd(last=max(1, horizon // 5), **gradient),
        "rmd:segments": meta.methods.rmd("FreePolicy", **_SEGMENTS, **gradient),
        "rmd:shared": meta.methods.rmd("FreePolicy", **gradient),
        "evolution-strategies": meta.methods.evolution_strategies(**evolution),
        "evolution-strategies:segments": meta.methods.evolution_strategies("FreePolicy", **_SEGMENTS, **evolution),
        "bandit": meta.methods.bandit(arms=[8, 32, 8, 32], exploration=[0.03, 0.03, 0.1, 0.1], **kept),
        "ddpg": agents.methods.ddpg(**rl),
        "sac": agents.methods.sac(**rl),
    }


METHODS = tuple(methods("learning-rate", 1))
"""Names of what is compared."""


@dataclass(frozen=True, kw_only=True)
class Size(Effort):
    """What is spent in an environment.

    Attributes:
        env: its id.
        data: the data's name in the names of tasks.
        options: its options, for all methods.
        controls: names in `CONTROLS`.
        rates: learning rates of the student, over which teachers are tuned.
        candidates: how many of a teacher's candidates are tried with each of them.
    """

    env: str
    data: str
    options: Mapping[str, Any]
    controls: tuple[str, ...]
    rates: tuple[float, ...]
    candidates: int

    def tune(self, method: Method) -> dict[str, tuple[float, ...]]:
        """The learning rates that a method is tuned over: of fixed schedules twice as many, on half the candidates.

        A teacher can move the rate that it begins with; a schedule has to be given the right one.
        """
        if method.make is not None or self.candidates == 1:
            return {"learning_rate": self.rates}
        ends = (*self.rates, 4 * self.rates[-1])
        between = [round(float(np.sqrt(a * b)), 3) for a, b in itertools.pairwise(ends)]
        return {"learning_rate": tuple(sorted([*self.rates, *between]))}

    def cut(self, method: Method) -> Method:
        """The method with as many candidates as are tried."""
        few = self.candidates if method.make is not None else max(1, self.candidates // 2)
        return replace(method, candidates=method.candidates[:few])


_SMOKE = Size.smallest(
    horizon=10,
    parallel=4,
    env="TeachDigits-v0",
    data="digits",
    options={"horizon": 10, "steps_per_action": 2, "batch_size": 16},
    controls=("learning-rate", "optimiser"),
    rates=(0.1,),
    candidates=1,
)
_DIGITS = Size(
    env="TeachDigits-v0",
    data="digits",
    options={"horizon": 100, "steps_per_action": 5},
    controls=("learning-rate", "optimiser"),
    rates=(0.03, 0.1, 0.3, 0.6),
    candidates=2,
    student_steps=32_000,
    parallel=16,
    rungs=(Rung(8, 4_800, 16, 16), Rung(2, 9_600, 16, 64)),
    points=4,
    students=16,
    final_students=64,
)
_MNIST = Size(
    env="TeachMNIST-v0",
    data="mnist",
    options={"pool_size": 5_000, "student_kwargs": {"hidden": [64]}, "horizon": 200, "steps_per_action": 10}
    | {"batch_size": 50, "dev_size": 1_000},
    controls=("learning-rate",),
    rates=(0.03, 0.1, 0.3, 0.6),
    candidates=2,
    student_steps=19_200,
    parallel=8,
    rungs=(Rung(8, 3_200, 8, 4), Rung(2, 6_400, 8, 16)),
    points=3,
    students=8,
    final_students=16,
)
_CIFAR = Size(
    env="TeachCIFAR-v0",
    data="cifar10",
    options={"pool_size": 10_000, "student": "resnet8", "horizon": 1_000, "steps_per_action": 50, "batch_size": 64},
    controls=("learning-rate",),
    rates=(0.03, 0.1, 0.3, 0.6),
    candidates=4,
    student_steps=400_000,
    parallel=8,
    rungs=(Rung(16, 16_000, 8, 8), Rung(4, 80_000, 8, 16)),
    points=5,
    students=8,
    final_students=16,
)


def _larger(size: Size, **options: Any) -> Size:
    """A size as the paper preset has it: whole grids, and ten times the budget of the laptop's."""
    steps, parallel = size.student_steps, size.parallel
    return replace(
        size,
        options={**size.options, **options},
        controls=tuple(CONTROLS),
        rates=(0.01, *size.rates, 1.2),
        candidates=4,
        student_steps=10 * steps,
        rungs=(Rung(24, steps, parallel, 32), Rung(6, 4 * steps, parallel, 64)),
        points=10,
        students=32,
        final_students=128,
    )


SIZES: dict[Preset, tuple[Size, ...]] = {
    "smoke": (_SMOKE,),
    "laptop": (_DIGITS, _MNIST),
    "paper": (
        _larger(_DIGITS),
        _larger(_MNIST, pool_size=None, student_kwargs={"hidden": [500]}, horizon=1_000, steps_per_action=50),
        _CIFAR,
    ),
}
SEEDS: dict[Preset, int] = {"smoke": 1, "laptop": 3, "paper": 5}
TASKS = tuple(dict.fromkeys(f"{size.data}-{control}" for size in SIZES["paper"] for control in size.controls))


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks schedules`."""

    tasks: tuple[str, ...] | None = None
    """Where schedules are learned, by default everywhere that the preset has: digits-learning-rate, mnist-learning-rate
    and cifar10-learning-rate (actions set the learning rate), digits-optimiser and mnist-optimiser (learning rate,
    momentum and weight decay)."""

    methods: tuple[str, ...] | None = None
    """What is run, by default all: constant, linear, cosine, step and one-cycle (fixed schedules); rmd (by what a
    teacher observes), rmd:linear (the same on top of the linear schedule), rmd:truncated (the gradient of the last
    fifth), rmd:segments and rmd:shared (an action for each of five parts of the training, or one for all), ES with the
    policies of rmd and rmd:segments, bandit (constant actions), ddpg and sac. The table has all methods whose rows the
    folder holds."""

    def _names(self) -> Names:
        return {"task": (self.tasks, TASKS), "method": (self.methods, METHODS)}


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, table, figures and page."""
    contests = [
        _contest(size, control, options)
        for size in SIZES[options.preset]
        for control in size.controls
        if options.tasks is None or f"{size.data}-{control}" in options.tasks
    ]
    if not contests:
        raise ValueError(
            f"preset {options.preset} has none of the tasks {', '.join(options.tasks or ())}; leave --tasks out, or "
            "choose another preset"
        )
    comparison = Comparison(NAME, contests, options.seeds or SEEDS[options.preset])
    # One task after the other: each is whole before the next begins.
    stages = chain.from_iterable(comparison.stages_of([contest]) for contest in contests)
    options.execute(NAME, stages, lambda rows: make(comparison.results(rows)))


def _contest(size: Size, control: str, options: Options) -> Contest:
    shared = {**size.options, "control": list(CONTROLS[control]), "data_root": options.root}
    known = {name: size.cut(method) for name, method in methods(control, size.options["horizon"]).items()}
    chosen = [name for name in known if options.methods is None or name in options.methods]
    return Contest.of(
        Setting(size.env, shared, "sample-weights"),
        size,
        known,
        size.tune,
        chosen,
        name=f"{size.data}-{control}",
    )


def make(results: Results) -> Report:
    """The report: that of every comparison, and the settings that teachers learned."""
    figures = {name: partial(learned, results, name) for name in ("learning_rate", "momentum", "weight_decay")}
    return comparison_report.make("Learned schedules compared", results, figures)


def learned(results: Results, setting: str) -> Figure | None:
    """Draws a setting of the optimiser along the students' training, as teachers choose it.

    The learning rate is drawn beside that of the best fixed schedule.

    Args:
        results: the rows.
        setting: `"learning_rate"`, `"momentum"` or `"weight_decay"`.
    """
    parts = {}
    for task, groups in results.tasks.items():
        taught = [group for group in groups if _settings(group, setting)]
        best = results.best_fixed(groups[0]) if setting == "learning_rate" else None
        parts[task] = [*([best] if best and taught else []), *taught]
    return series.curves(
        parts,
        "% of the students' training",
        setting.replace("_", " "),
        partial(_curves, setting),
        looks=results.look,
        style=lambda group: "--" if group.name in results.fixed else "-",
        band="range",
    )


def _settings(group: Group, setting: str) -> list[list[float]]:
    """What a group's teachers made of a setting, an action after the other, for each seed."""
    rows = group.of(comparison_report.OBJECTIVE)
    return [row.data["settings"][setting] for row in rows if row.data and setting in row.data.get("settings", {})]


def _curves(setting: str, group: Group) -> list[series.Curve]:
    """Each seed's setting along the training, in per cent of it."""
    seeds = _settings(group, setting)
    if not seeds:  # a fixed schedule
        factors = make_schedule(group.config["own"]["lr_schedule"], 100)(np.arange(100))
        seeds = [list(group.config["learning_rate"] * np.asarray(factors, dtype=float))]
    return [list(zip(np.linspace(0, 100, len(values), endpoint=False), values, strict=True)) for values in seeds]


TABLES: Tables = {"table": lambda rows: make(Results.of(rows, methods("learning-rate", 100)))}
