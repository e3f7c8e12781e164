"""The command `python -m benchmarks l2t_dlf_translation`: which methods train which students, in which order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.l2t_dlf_translation import report, work
from benchmarks.l2t_dlf_translation.methods import METHODS
from benchmarks.l2t_dlf_translation.work import NETWORKS, Setting
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from teachenv.experiment.cases import Case, Session
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

NAME = "l2t_dlf_translation"


class Size(NamedTuple):
    """Which students and methods a preset runs, and for how long.

    Attributes:
        setting: what all methods share, for the first student.
        students: names in `NETWORKS`.
        warm_rates: learning rates of the warm start, by student; a student that is not named has the setting's.
        rates: after the warm start, of which the dev split chooses one for each method.
        seeds: repetitions.
        methods: names of those that are run unless the command says otherwise; None: all.
        teacher_students: training runs that a teacher learns from, by student; others have the setting's.
        few: names of the methods of a student that has no time for all, by student.
    """

    setting: Setting
    students: tuple[str, ...]
    warm_rates: Mapping[str, float]
    rates: tuple[float, ...]
    seeds: int
    methods: tuple[str, ...] | None = None
    teacher_students: Mapping[str, int] = MappingProxyType({})
    few: Mapping[str, tuple[str, ...]] = MappingProxyType({})


_SPLIT: Mapping[str, Any] = {"resplit": False}

SIZES: dict[Preset, Size] = {
    "smoke": Size(
        Setting(
            "lstm-1", {**_SPLIT, "dataset": "numbers", "pool_size": 200, "dev_size": 20, "dev_measured": 10},
            dropout=0.0, warm_steps=4, warm_batch=8, warm_rate=1e-3, steps=4, steps_per_action=2, batch_size=8,
            teacher_students=2, teacher_rate=1e-2, critic_steps=2,
        ),
        ("lstm-1",), {}, (1e-3,), 1, ("warm-start", "cross-entropy", "rl", "actor-critic", "l2t-dlf"),
    ),
    "laptop": Size(
        Setting(
            "lstm-1",
            {
                **_SPLIT, "dataset": "multi30k", "task_kwargs": {"vocabulary_size": 4000}, "dev_size": 1000,
                "dev_measured": 100,
            },
            dropout=0.3, warm_steps=4000, warm_batch=64, warm_rate=2e-3, steps=48, steps_per_action=8,
            batch_size=32, teacher_students=4, teacher_rate=0.1, critic_steps=16,
        ),
        ("lstm-1", "transformer-2"), {"transformer-2": 1e-3}, (1e-4, 4e-4), 3,
        teacher_students={"lstm-1": 20}, few={"lstm-2": ("warm-start", "cross-entropy", "sigmoid", "l2t-dlf:sigmoid")},
    ),
    # Steps of the teacher's episodes and rates are not in the paper.
    "paper": Size(
        Setting(
            "lstm-1", {**_SPLIT, "dataset": "iwslt14", "dev_size": 7000, "dev_measured": 500},
            dropout=0.3, warm_steps=50_000, warm_batch=64, warm_rate=1e-3, steps=50_000, steps_per_action=100,
            batch_size=64, teacher_students=50, teacher_rate=1e-2, critic_steps=5_000,
        ),
        ("lstm-1", "lstm-2", "transformer-6"), {"transformer-6": 5e-4}, (1e-4, 4e-4), 5,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks l2t_dlf_translation`."""

    students: tuple[str, ...] | None = None
    """lstm-1, lstm-2, transformer-2 or transformer-6 (layers); by default the preset's. The preset laptop has four
    methods for lstm-2."""

    methods: tuple[str, ...] | None = None
    """Which methods, such as cross-entropy or l2t-dlf; by default all (in the smoke preset five)."""

    def _names(self) -> Names:
        return {"student": (self.students, NETWORKS), "method": (self.methods, METHODS)}


@dataclass(frozen=True)
class Bench:
    """The benchmark's cases, stage by stage.

    Attributes:
        settings: each student's setting, by its name.
        students: names of those that are run.
        methods: names of those that are run, by student.
        rates: learning rates, of which the dev split chooses one for each method that has none of its own.
        seeds: repetitions.
        dataset: what the data really is.
    """

    settings: Mapping[str, Setting]
    students: tuple[str, ...]
    methods: Mapping[str, tuple[str, ...]]
    rates: tuple[float, ...]
    seeds: int
    dataset: str

    def tuning(self, session: Session) -> list[Case]:
        """The cases of the tuning: every learning rate of each method."""
        tuned = dict.fromkeys((s, _tuned_as(m)) for s in self.students for m in self.methods[s] if METHODS[m].trains)
        grids = [grid for student, name in tuned if len(grid := self.grid(student, name)) > 1]
        cases = _long_first(case for grid in grids for _, case in grid)
        if all(map(session.is_done, cases)):
            return []
        # Warm starts of all seeds first: left to the end, the longest would leave the other cores idle.
        return [*(self.start(student, seed) for seed in range(self.seeds) for student in self.students), *cases]

    def training(self, session: Session) -> list[Case]:
        """The cases of the trainings: every seed, at the learning rates that were best on dev."""
        return _long_first(
            self.case(student, name, rate, seed, final=True)
            for seed in range(self.seeds)
            for student in self.students
            for name in self.methods[student]
            for rate in self.best(student, name, session)
        )

    def best(self, student: str, name: str, session: Session) -> list[float]:
        """The rate of the best dev score; none if the tuning failed."""
        grid = self.grid(student, _tuned_as(name))
        if len(grid) == 1 or not METHODS[name].trains:
            return [grid[0][0]]
        return session.best_first("dev_bleu", grid)[:1]

    def grid(self, student: str, name: str) -> list[tuple[float, Case]]:
        """The rates of a method, with what tunes them."""
        rates = METHODS[name].rates or self.rates
        return [(rate, self.case(student, name, rate, 0, final=False)) for rate in rates]

    def case(self, student: str, name: str, rate: float, seed: int, final: bool) -> Case:
        """The case of a call of `work.run`."""
        setting, method = self.settings[student], METHODS[name]
        config = {
            "stage": "training" if final else "tuning",
            # Where data lies on this machine is no part of it.
            "setting": _without(asdict(setting), {"data_root", "student", *method.ignores}),
            "environment": dict(method.environment),
            "options": dict(method.options),
            "rate": rate,
        }
        return self._made(
            student,
            name,
            seed,
            config=config,
            label=f"{student}: {name}, {f'seed {seed}' if final else 'tuning'}, lr {rate:g}",
            function=work.run,
            arguments={
                "setting": setting,
                "method": method,
                "rate": rate,
                "seed": seed,
                "final": final,
                "start": self.start(student, seed),
            },
            last="dev_bleu",
        )

    def start(self, student: str, seed: int) -> Case:
        """The case of a warm start, which all that comes after it shares."""
        setting = self.settings[student]
        names = ("student", "data", "dropout", "warm_steps", "warm_batch", "warm_rate")
        return self._made(
            student,
            "warm-start",
            seed,
            config={"stage": "warm start", **{name: getattr(setting, name) for name in names}},
            label=f"{student}: warm start, seed {seed}",
            function=work.warm_up,
            arguments={"setting": setting, "seed": seed},
            makes=work.START,
        )

    def _made(self, student: str, name: str, seed: int, **more: Any) -> Case:
        task = f"translation-{self.settings[student].data['dataset']}"
        return Case(benchmark=NAME, task=task, dataset=self.dataset, student=student, method=name, seed=seed, **more)

    def report(self, rows: list[Row]) -> Report:
        """The report of all rows that the folder has of this preset, whatever rates were chosen."""
        shown = []
        for student, name in itertools.product(self.settings, METHODS):
            identity = self.case(student, name, 0.0, 0, final=True).identity
            shown.append(identity | {"config": _without(identity["config"], {"rate"})})
        return report.make(agreeing(rows, shown))


def _tuned_as(name: str) -> str:
    """The method whose tuning a method has; often itself."""
    return METHODS[name].tuned_as or name


def _without(options: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _long_first(cases: Iterable[Case]) -> list[Case]:
    """The cases with teachers before the others: begun last, they would leave the other cores idle."""
    return sorted(cases, key=lambda case: METHODS[case.method].teacher is None)


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    size = SIZES[options.preset]
    settings = {
        name: replace(
            size.setting,
            student=name,
            warm_rate=size.warm_rates.get(name, size.setting.warm_rate),
            teacher_students=size.teacher_students.get(name, size.setting.teacher_students),
            data_root=options.root,
        )
        for name in NETWORKS
    }
    bench = Bench(
        settings,
        options.students or size.students,
        {name: options.methods or size.few.get(name) or size.methods or tuple(METHODS) for name in NETWORKS},
        size.rates,
        options.seeds or size.seeds,
        # Made once here, so that missing data is said before anything runs.
        size.setting.make(data_root=options.root, student="lstm", student_kwargs={"width": 2}).problem.task.dataset,
    )
    options.execute(NAME, [bench.tuning, bench.training], bench.report)


TABLES: Tables = {"table": report.make}
