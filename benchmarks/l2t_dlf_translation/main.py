"""The command: which methods are run on which students, in which order, and what rows are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.checkpoints import checkpoint_of, ending
from benchmarks.jobs import Job, run_jobs
from benchmarks.l2t_dlf_translation import report, work
from benchmarks.l2t_dlf_translation.methods import METHODS
from benchmarks.l2t_dlf_translation.work import NETWORKS, Run, Setting
from benchmarks.measurements import Measurement, measure, rows_of
from benchmarks.options import ParallelOptions, Preset
from teachenv.bleu import corpus_signature
from teachenv.errors import unknown_name
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row, agreeing

NAME = "l2t_dlf_translation"


class Size(NamedTuple):
    """What a preset fixes.

    Attributes:
        setting: of the first student.
        students: names in `NETWORKS`.
        warm_rates: by student, where it is another than the setting's.
        rates: after the warm start, of which the dev split chooses one for each method.
        seeds: repetitions.
        methods: those that are run unless the command says otherwise; None: all.
    """

    setting: Setting
    students: tuple[str, ...]
    warm_rates: Mapping[str, float]
    rates: tuple[float, ...]
    seeds: int
    methods: tuple[str, ...] | None = None


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
    """Options of ``python -m benchmarks l2t_dlf_translation``."""

    students: tuple[str, ...] | None = None
    """lstm-1, lstm-2, transformer-2 or transformer-6 (layers); by default the preset's."""

    methods: tuple[str, ...] | None = None
    """Which methods, such as cross-entropy or l2t-dlf; by default all (in the smoke preset five)."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: an unknown student or method, or a number out of range.
        """
        super().__post_init__()
        for student in self.students or ():
            if student not in NETWORKS:
                raise unknown_name("student", student, NETWORKS)
        for method in self.methods or ():
            if method not in METHODS:
                raise unknown_name("method", method, METHODS)


class Case(NamedTuple):
    """One run.

    Attributes:
        setting: see there.
        method: a name in `METHODS`.
        rate: learning rate of the student.
        seed: of the repetition.
        final: see `work.run`.
    """

    setting: Setting
    method: str
    rate: float
    seed: int
    final: bool


@dataclass
class Bench:
    """What has been measured, and how to measure more.

    Attributes:
        results: the rows.
        folder: of warm starts and checkpoints.
        workers: processes.
        dataset: what the data really is.
    """

    results: ResultsFile
    folder: Path
    workers: int
    dataset: str

    def identity(self, case: Case) -> dict[str, Any]:
        """What its rows are known by; where data lie on this machine is not part of it."""
        made = METHODS[case.method]
        unsaid = {"data_root", "student", *made.ignores}
        setting = {name: value for name, value in asdict(case.setting).items() if name not in unsaid}
        return {
            "benchmark": NAME,
            "task": f"translation-{case.setting.data['dataset']}",
            "dataset": self.dataset,
            "student": case.setting.student,
            "method": case.method,
            "seed": case.seed,
            "config": {
                "stage": "training" if case.final else "tuning",
                "setting": setting,
                "environment": dict(made.environment),
                "options": dict(made.options),
                "rate": case.rate,
            },
        }

    def start(self, setting: Setting, seed: int) -> Path:
        """Where a warm start is kept; what comes after it does not matter to it."""
        names = ("student", "data", "dropout", "warm_steps", "warm_batch", "warm_rate")
        config = {name: getattr(setting, name) for name in names}
        own = {"config": {"stage": "warm start", **config}}
        identity = self.identity(Case(setting, "warm-start", 0.0, seed, True)) | own
        return ending(checkpoint_of(identity, self.folder / "checkpoints"), "pt")

    def warm_up(self, cases: Sequence[Case]) -> None:
        """Makes the warm starts that are wanted and not there."""
        wanted = {self.start(case.setting, case.seed): case for case in cases}
        jobs = [
            Job(
                f"{case.setting.student}: warm start, seed {case.seed}",
                work.warm_up,
                {"setting": case.setting, "seed": case.seed, "path": path},
            )
            for path, case in wanted.items()
            if not path.exists()
        ]
        run_jobs(jobs, self.workers, lambda job, scores: None)

    def missing(self, cases: Sequence[Case]) -> list[Case]:
        """Those that are not there yet."""
        return [case for case in cases if not self.results.done(**self.identity(case), metrics=["dev_bleu"])]

    def run(self, cases: Sequence[Case]) -> None:
        """Runs those that are not there yet."""
        # Long ones first: begun last, they would leave the other cores idle.
        cases = sorted(self.missing(cases), key=lambda case: METHODS[case.method].teacher is None)
        self.warm_up(cases)
        measure([self._measurement(case) for case in cases], self.results, self.workers)

    def _measurement(self, case: Case) -> Measurement[Run]:
        stage = f"seed {case.seed}" if case.final else "tuning"
        return Measurement(
            f"{case.setting.student}: {case.method}, {stage}, lr {case.rate:g}",
            work.run,
            {**case._asdict(), "start": self.start(case.setting, case.seed)},
            self.identity(case),
            "dev_bleu",
            partial(self._rows, case),
        )

    def best(self, setting: Setting, method: str, rates: Sequence[float]) -> float:
        """The rate of the best dev score; rows of all must be there."""
        made = METHODS[method]
        if not made.trains or len(rates) == 1:
            return rates[0]
        cases = [Case(setting, made.tuned_as or method, rate, 0, False) for rate in rates]
        return max(cases, key=lambda case: self.results.value("dev_bleu", self.identity(case))).rate

    def _rows(self, case: Case, found: Run) -> list[Row]:
        told = about(found.steps, found.seconds, matmul_precision="medium", bleu=corpus_signature())
        data = {"tokens": found.tokens, "spread": found.spread} if found.tokens else None
        # The one that says that all is there comes last.
        scores = dict(sorted(found.scores.items(), key=lambda score: score[0] == "dev_bleu"))
        return rows_of(self.identity(case), scores, told, data)


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    folder, size = options.output_folder(NAME), SIZES[options.preset]
    results = ResultsFile(folder / "results.jsonl")
    root = None if options.data_root is None else os.fspath(options.data_root)
    methods = options.methods or size.methods or tuple(METHODS)
    setting_of = {
        name: replace(
            size.setting, student=name, warm_rate=size.warm_rates.get(name, size.setting.warm_rate), data_root=root
        )
        for name in NETWORKS
    }
    settings = [setting_of[name] for name in options.students or size.students]
    # Made once here, so that missing data is said before anything runs.
    dataset = settings[0].make(student="lstm", student_kwargs={"width": 2}).teaching.task.dataset
    bench = Bench(results, folder, options.processes, dataset)
    seeds = range(options.seeds or size.seeds)
    tuned = dict.fromkeys(METHODS[name].tuned_as or name for name in methods if METHODS[name].trains)
    tuning = [Case(s, name, rate, 0, False) for s in settings for name in tuned for rate in size.rates]
    if len(size.rates) > 1:
        if bench.missing(tuning):
            # Those of all seeds at once: left to the end, the longest would leave the other cores idle.
            bench.warm_up([Case(setting, "warm-start", 0.0, seed, True) for seed in seeds for setting in settings])
        bench.run(tuning)
    finals = [
        Case(setting, name, bench.best(setting, name, size.rates), seed, True)
        for seed in seeds
        for setting in settings
        for name in methods
    ]
    bench.run(finals)
    # All that the folder has of this preset, whatever rates were chosen.
    shown = [bench.identity(Case(setting, name, 0.0, 0, True)) for setting in setting_of.values() for name in METHODS]
    for identity in shown:
        del identity["config"]["rate"]
    report.make(agreeing(results.rows(), shown)).write(folder)
