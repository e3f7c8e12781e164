"""The command: what is run in which order, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import gymnasium as gym

import teachenv  # noqa: F401 - registers the environments
from benchmarks.compare import distillation, methods, report
from benchmarks.comparison.engine import Comparison, Effort, Rung, Task, shipped_rows
from benchmarks.comparison.methods import Table
from benchmarks.comparison.work import Setting
from benchmarks.options import ParallelOptions, Preset
from teachenv.env import TeachEnv
from teachenv.errors import unknown_name

NAME = "compare"

# The rows that the tables of README and docs were made from; their tuning is taken over where the settings agree.
SHIPPED = Path(__file__).resolve().parent.parent / "results"


@dataclass(frozen=True, kw_only=True)
class Size(Effort):
    """What a preset fixes.

    Attributes:
        seeds: teachers of each kind.
        label_noise: the tasks.
    """

    seeds: int
    label_noise: tuple[float, ...]


PRESETS: dict[Preset, Size] = {
    "smoke": Size(
        seeds=1,
        student_steps=960,
        parallel=8,
        rungs=(Rung(2, 480, 8, 4),),
        points=1,
        students=4,
        final_students=8,
        label_noise=(0.0,),
    ),
    # Whole updates of 16 students of 60 steps: 100, and 3, 6 and 20 for tuning.
    "laptop": Size(
        seeds=3,
        student_steps=96_000,
        parallel=16,
        rungs=(Rung(48, 2_880, 16, 32), Rung(12, 5_760, 16, 64), Rung(3, 19_200, 16, 256)),
        points=6,
        students=32,
        final_students=256,
        label_noise=(0.0, 0.4),
    ),
    "paper": Size(
        seeds=10,
        student_steps=288_000,
        parallel=32,
        rungs=(Rung(48, 9_600, 32, 64), Rung(12, 19_200, 32, 128), Rung(4, 96_000, 32, 512)),
        points=15,
        students=128,
        final_students=512,
        label_noise=(0.0, 0.4),
    ),
}


class Kind(NamedTuple):
    """What is compared in the environments of a kind.

    Attributes:
        table: the methods.
        at: where they are; see `benchmarks.comparison.methods.table_at`.
        methods: those that are run where none are asked for.
        loss: the teachers' loss family where none is asked for.
        shipped: folder of its rows.
        sizes: by preset, where it has others than `PRESETS`.
    """

    table: Table
    at: str
    methods: tuple[str, ...]
    loss: str
    shipped: str
    sizes: Mapping[Preset, Size] = MappingProxyType({})


LOSSES = Kind(
    methods.TABLE,
    "benchmarks.compare.methods:TABLE",
    ("cross-entropy", "smooth-01", "large-margin", "label-smoothing", "random", "ddpg", "rmd", "finite-difference"),
    "bilinear",
    NAME,
)
DISTILLATION = Kind(
    distillation.TABLE,
    "benchmarks.compare.distillation:TABLE",
    ("prokt", "random", "lgtm:reweight", "ddpg", "rmd"),
    "distillation",
    f"{NAME}_distillation",
    {
        # A step of a pair costs three of a student: 30 updates, and 1, 3 and 10 for tuning.
        "laptop": replace(
            PRESETS["laptop"],
            student_steps=28_800,
            rungs=(Rung(48, 960, 16, 16), Rung(12, 2_880, 16, 32), Rung(3, 9_600, 16, 128)),
        )
    },
)


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of the comparison."""

    env: str = "TeachDigits-v0"
    """A registered environment; named objects of your own cannot be passed on a command line."""

    label_noise: tuple[float, ...] | None = None
    """Fractions of wrong labels in the pool, a task each; by default what the preset says (0 and 0.4)."""

    label_noise_kind: Literal["pair", "symmetric"] = "pair"
    """Class c becomes c + 1, or any other class."""

    methods: tuple[str, ...] | None = None
    """What is run; by default cross-entropy, smooth-01, large-margin, label-smoothing, random, ddpg, rmd and
    finite-difference; there are also ddpg:default (SB3's, out of the box), evolution-strategies and focal. On
    TeachDistill-v0: prokt (uniform weights), random, lgtm:reweight (influence), ddpg and rmd, and finite-difference.
    The table has all methods whose rows the folder holds."""

    loss: Literal["bilinear", "bilinear-sigmoid"] | None = None
    """The teachers' loss family, by default bilinear; TeachDistill-v0 has its own."""

    student_steps: int | None = None
    """Budget of each teacher, in student steps; by default what the preset says."""

    horizon: int | None = None
    """Student steps in an episode; by default the environment's own."""

    dataset: str | None = None
    """Other data for the environment; the CIFAR environments take synthetic."""

    retune: bool = False
    """Tune anew, even where the rows that come with this repository have the tuning already."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: an unknown method, or numbers out of range.
        """
        super().__post_init__()
        _check_environment(self.env)
        kind = self.kind
        for method in self.methods or ():
            if method not in kind.table.methods:
                raise unknown_name("method", method, kind.table.methods)
        if self.loss is not None and kind is DISTILLATION:
            raise ValueError(f"found --loss {self.loss}, but {self.env} has a loss of its own; leave --loss out")

    @property
    def kind(self) -> Kind:
        """What is compared in the environment."""
        spec = gym.registry.get(self.env)
        return (
            DISTILLATION
            if spec is not None and spec.kwargs.get("defaults", {}).get("loss") == "distillation"
            else LOSSES
        )


def _check_environment(name: str) -> None:
    """Refuses what is no environment, or one that trains no student.

    Raises:
        ValueError: it is one of these; the message has those that can be compared in.
    """
    entry_points = ("teachenv.env:TeachEnv", TeachEnv)
    teaching = [known for known, spec in gym.registry.items() if spec.entry_point in entry_points]
    if name in gym.registry and name not in teaching:
        raise ValueError(f"found --env {name}, which trains no student, expected one of {', '.join(sorted(teaching))}")
    if name not in gym.registry:
        raise unknown_name("environment", name, teaching)


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, table and figures."""
    comparison = comparison_of(options)
    comparison.run()
    loss = options.loss or options.kind.loss
    report.make(comparison.results.rows(), loss, comparison.seeds).write(comparison.folder)


def comparison_of(options: Options) -> Comparison:
    """The comparison that the options describe; its tasks' data is loaded once, to name it and to fail early."""
    kind = options.kind
    size = kind.sizes.get(options.preset, PRESETS[options.preset])
    loss, names = options.loss or kind.loss, options.methods or kind.methods
    tasks = []
    for noise in options.label_noise or size.label_noise:
        shared: dict[str, Any] = {"label_noise": noise, "label_noise_kind": options.label_noise_kind}
        for name in ("horizon", "dataset"):
            if getattr(options, name) is not None:
                shared[name] = getattr(options, name)
        if options.data_root is not None:
            shared["data_root"] = str(options.data_root)
        setting = Setting(kind.at, options.env, shared, loss)
        teaching = setting.make(1, names[0], kind.table.grid(names[0], loss)[0]).teaching
        effort = replace(size, student_steps=options.student_steps or size.student_steps)
        task, student = teaching.task, str(teaching.settings.student)
        if task.decisions is not None:
            raise ValueError(
                f"found --env {options.env}, whose samples have many labels each, expected one with a label for each "
                "sample, such as TeachDigits-v0, TeachMNIST-v0 or TeachCIFAR-v0"
            )
        if teaching.settings.teacher is not None:
            student = f"{student} beside {teaching.settings.teacher}"
        tasks.append(Task(setting, task.name, task.dataset, student, effort, names))
    return Comparison(
        NAME,
        tasks,
        options.seeds or size.seeds,
        options.output_folder(NAME),
        options.processes,
        [] if options.retune else shipped_rows(SHIPPED / kind.shipped / "results.jsonl"),
    )
