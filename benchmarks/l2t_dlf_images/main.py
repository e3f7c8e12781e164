"""The command: which students, data and methods make up which table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.comparison.engine import Comparison, Effort, Rung, Task, shipped_rows
from benchmarks.comparison.methods import Configuration
from benchmarks.comparison.work import Setting
from benchmarks.l2t_dlf_images import large, report
from benchmarks.options import CommonOptions, Preset
from teachenv.errors import unknown_name

NAME = "l2t_dlf_images"

# Rows that come with this repository; their tuning is taken over where the settings agree.
SHIPPED = Path(__file__).resolve().parent.parent / "results" / NAME / "results.jsonl"

CLEAN = ("cross-entropy", "smooth-01", "large-margin", "focal", "label-smoothing")
NOISY = (*CLEAN, "generalized-cross-entropy")
DATA = ("self-paced", "random-drop", "data-teacher")
RL = ("ddpg", "td3", "sac", "evolution-strategies")
GRADIENT = ("rmd", "rmd:tau-1", "rmd:sigmoid", "l2t-dlf")
ABLATIONS = ("rmd:static", "finite-difference")
TRANSFERRED = "rmd:transferred"


# A fifth of the paper's batch makes as many passes over the data in as much time, in steps that a teacher can
# differentiate in seconds.
SMALL_LENET = {"batch_size": 100, "autocast": "bfloat16"}
PAPERS_LENET = {"batch_size": 500}


@dataclass(frozen=True)
class Part:
    """One task of a table.

    Attributes:
        table: the paper's, 1 (MNIST) or 2 (CIFAR).
        env: a registered id.
        options: of the environment that teachers learn on.
        final: in which the final students' training differs.
        effort: what is spent on it.
        methods: see `benchmarks.l2t_dlf_images.methods`.
        source: the task whose teachers are taken over.
    """

    table: int
    env: str
    options: Mapping[str, Any]
    effort: Effort
    methods: tuple[str, ...]
    final: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None


def _parts(
    mlp: Effort,
    lenet: Effort,
    resnet: Effort,
    horizons: Mapping[str, tuple[int, int]],
    actions: int,
    of_lenet: Mapping[str, Any],
    **shared: Any,
) -> dict[str, Part]:
    """The tasks.

    Args:
        mlp: effort of the tasks of the MNIST perceptron.
        lenet: of LeNet.
        resnet: of the networks on CIFAR-10.
        horizons: by student, the student steps of a teacher's episode and of the final training.
        actions: in both.
        of_lenet: options of LeNet's environments.
        shared: options of every environment.
    """

    def part(table: int, student: str, effort: Effort, methods: tuple[str, ...], **more: Any) -> Part:
        source = more.pop("source", None)
        taught, final = horizons[student]
        env = "TeachMNIST-v0" if table == 1 else "TeachCIFAR-v0"
        options = {"student": student, "horizon": taught, "steps_per_action": taught // actions, **shared, **more}
        longer = {"horizon": final, "steps_per_action": final // actions}
        return Part(table, env, options, effort, methods, longer if final != taught else {}, source)

    noisy = {"label_noise": 0.4}
    few = ("rmd", "l2t-dlf", "ddpg", TRANSFERRED)
    return {
        "mnist-mlp": part(1, "mlp", mlp, (*CLEAN, *DATA, *RL, *GRADIENT, *ABLATIONS)),
        "mnist-mlp-noisy-40": part(1, "mlp", mlp, (*NOISY, *RL[:1], *GRADIENT, *ABLATIONS), **noisy),
        "mnist-lenet": part(1, "lenet", lenet, (*CLEAN, *few), source="mnist-mlp", **of_lenet),
        "mnist-lenet-noisy-40": part(
            1, "lenet", lenet, (*NOISY, *few), source="mnist-mlp-noisy-40", **noisy, **of_lenet
        ),
        "cifar10-resnet8": part(2, "resnet8", resnet, (*CLEAN, "rmd", "l2t-dlf", "finite-difference")),
        "cifar10-resnet20": part(2, "resnet20", resnet, ("cross-entropy", TRANSFERRED), source="cifar10-resnet8"),
    }


def _effort(updates: int, horizon: int, final_students: int, **more: Any) -> Effort:
    """A budget of whole updates by one student each; tuning has a fifth and two fifths of it.

    Its first round trains students for a third of the final length.
    """
    steps = updates * horizon
    rungs = Rung(12, steps // 5, 1, 1, 1 / 3), Rung(3, 2 * steps // 5, 1, 2)
    return Effort(
        student_steps=steps, parallel=1, rungs=rungs, points=5, students=2, final_students=final_students, **more
    )


_SMOKE = Effort(student_steps=40, parallel=1, rungs=(Rung(1, 20, 1, 1),), points=1, students=1, final_students=1)
_LAPTOP = {"mlp": (600, 9000), "lenet": (200, 3000), "resnet8": (60, 600), "resnet20": (60, 600)}
# Ten passes over MNIST, eighty over CIFAR.
_PAPER = {"mlp": (30_000, 30_000), "lenet": (1_200, 1_200), "resnet8": (31_200, 31_200), "resnet20": (31_200, 31_200)}

SEEDS: dict[Preset, int] = {"smoke": 1, "laptop": 5, "paper": 5}

PRESETS: dict[Preset, dict[str, Part]] = {
    "smoke": _parts(
        mlp=_SMOKE,
        lenet=_SMOKE,
        resnet=_SMOKE,
        horizons=dict.fromkeys(_LAPTOP, (20, 40)),
        actions=10,
        of_lenet=SMALL_LENET,
        dev_size=500,
        dev_measured=200,
    ),
    "laptop": _parts(
        mlp=_effort(40, 600, 2),
        lenet=_effort(20, 200, 2),
        resnet=_effort(20, 60, 1),
        horizons=_LAPTOP,
        actions=20,
        of_lenet=SMALL_LENET,
        dev_size=5000,
        dev_measured=1000,
    ),
    "paper": _parts(
        mlp=_effort(60, 30_000, 3),
        lenet=_effort(60, 1_200, 3),
        resnet=_effort(100, 31_200, 1),
        horizons=_PAPER,
        actions=60,
        of_lenet=PAPERS_LENET,
        dev_size=5000,
    ),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of the image benchmark."""

    table: Literal[1, 2] | None = None
    """The paper's table: 1 is MNIST, 2 is CIFAR; by default both."""

    figure: Literal[3, 4] | None = None
    """Only what a figure of the paper needs: 3, the dev measure along the teacher's steps (LeNet); 4, Φ over time
    (ResNet-8, or the perceptron with --table 1)."""

    tasks: tuple[str, ...] | None = None
    """Names of tasks, such as mnist-mlp-noisy-40; by default all of the preset."""

    methods: tuple[str, ...] | None = None
    """What is run in each task, as far as the task has it; by default everything that it has."""

    large: bool = False
    """Only teach the large students (ResNet-20, WRN-40-10, DenseNet-BC) for a few steps, and report time and memory."""

    device: str | None = None
    """A torch device for the students, such as cuda; by default the CPU."""

    retune: bool = False
    """Tune anew, even where the rows that come with this repository have the tuning already."""

    workers: int | None = None
    """Processes, each on one core; by default as many as there are cores."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: an unknown task or method, or a number out of range.
        """
        super().__post_init__()
        parts = PRESETS[self.preset]
        for name in self.tasks or ():
            if name not in parts:
                raise unknown_name("task", name, parts)
        known = {method for part in parts.values() for method in part.methods}
        for name in self.methods or ():
            if name not in known:
                raise unknown_name("method", name, sorted(known))
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"found --workers {self.workers}, expected at least 1")


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, tables and figures."""
    if options.large:
        large.run(options.output_folder(NAME), NAME, options.workers or os.cpu_count() or 1, **_of_machine(options))
        return
    comparison = comparison_of(options)
    comparison.run()
    report.write(comparison.results.rows(), comparison.folder, comparison.seeds)


def _of_machine(options: Options) -> dict[str, str]:
    """Options of every environment: where its data and its students are."""
    given = {"data_root": options.data_root, "device": options.device}
    return {name: str(value) for name, value in given.items() if value is not None}


def chosen(options: Options) -> dict[str, Part]:
    """The tasks that the options ask for, each with the methods that they ask for.

    Raises:
        ValueError: nothing is left.
    """
    parts, methods = PRESETS[options.preset], options.methods
    if options.figure == 3:
        parts, methods = _only(parts, "mnist-lenet"), methods or ("rmd", "l2t-dlf")
    elif options.figure == 4:
        parts, methods = (
            _only(parts, "mnist-mlp" if options.table == 1 else "cifar10-resnet8"),
            methods or ("rmd", "l2t-dlf"),
        )
    found = {}
    for name, part in parts.items():
        kept = tuple(method for method in part.methods if methods is None or method in methods)
        if kept and (options.table in (None, part.table)) and (options.tasks is None or name in options.tasks):
            found[name] = replace(part, methods=kept)
    if not found:
        raise ValueError("no task of this preset has all that was asked for; leave out --table, --tasks or --methods")
    return found


def _only(parts: Mapping[str, Part], name: str) -> dict[str, Part]:
    return {key: part for key, part in parts.items() if key.startswith(name) and "noisy" not in key}


def comparison_of(options: Options) -> Comparison:
    """The comparison that the options describe; the data of its tasks is loaded once, to name it and to fail early."""
    parts = chosen(options)
    tasks = []
    for name, part in parts.items():
        methods = part.methods
        if TRANSFERRED in methods and not (part.source in parts and "rmd" in parts[part.source].methods):
            # A teacher that is taken over has to be taught in the same run, or to have been taught in an earlier one.
            if options.methods is not None:
                raise ValueError(
                    f"{name} takes over teachers that rmd taught on {part.source}: name these in --methods and --tasks "
                    f"too, or leave out {TRANSFERRED}"
                )
            methods = tuple(method for method in methods if method != TRANSFERRED)
        shared = {**part.options, **_of_machine(options)}
        table = "MNIST" if part.table == 1 else "CIFAR"
        setting = Setting(f"benchmarks.l2t_dlf_images.methods:{table}", part.env, shared, final=part.final)
        teaching = setting.make_single("cross-entropy", Configuration(0.1, "constant", 0)).teaching
        student = str(teaching.settings.student)
        tasks.append(Task(setting, name, teaching.task.dataset, student, part.effort, methods, part.source))
    return Comparison(
        NAME,
        tasks,
        options.seeds or SEEDS[options.preset],
        options.output_folder(NAME),
        options.workers or os.cpu_count() or 1,
        [] if options.retune else shipped_rows(SHIPPED),
    )
