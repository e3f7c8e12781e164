"""The command `python -m benchmarks compare`: which methods meet in which environment, and what is spent on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import stable_baselines3
from stable_baselines3.common.noise import NormalActionNoise

import agents.methods
import meta.methods
import teachenv  # noqa: F401 - registers the environments
from benchmarks.compare import distillation
from benchmarks.options import Names, ParallelOptions, Tables
from meta.wrappers.vec_env import as_vec_env
from teachenv.env import TeachEnv
from teachenv.errors import unknown_name
from teachenv.experiment import comparison_report, methods
from teachenv.experiment.comparison import Comparison, shipped_rows
from teachenv.experiment.comparison_report import Results
from teachenv.experiment.contest import Contest, Effort, Rung
from teachenv.experiment.methods import Method, candidates
from teachenv.experiment.row import Row
from teachenv.experiment.setting import Configuration, Setting

NAME = "compare"

# The rows that the tables of README and docs were made from; their tuning is used where the settings agree.
SHIPPED = Path(__file__).resolve().parent.parent / "results"


@dataclass(frozen=True, kw_only=True)
class Size(Effort):
    """How long students of a preset train, and what it spends on teaching them.

    Attributes:
        seeds: teachers of each kind.
        label_noise: fractions of wrong labels; each is a task.
    """

    seeds: int
    label_noise: tuple[float, ...]


Preset = Literal["smoke", "quick", "laptop", "paper"]

PRESETS: dict[Preset, Size] = {
    "smoke": Size.smallest(60, 8, seeds=1, label_noise=(0.0,)),
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


def _quick(size: Size) -> Size:
    """An effort with as many updates of teachers, each by 12 students instead of 16, and with fewer measurements.

    With half as many updates RMD's students were no better than those of the best fixed loss, with 100 samples of dev
    instead of all 400 they were hardly better. With 10 students they lose a part of the lead under label noise.
    """
    parallel = 12
    steps = size.student_steps * parallel // size.parallel
    return replace(size, student_steps=steps, parallel=parallel, points=3, students=16, final_students=64)


PRESETS["quick"] = _quick(PRESETS["laptop"])


def _default_ddpg(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    """SB3's DDPG as it comes, but for the noise without which it does not explore."""
    env = as_vec_env(env)
    size = env.action_space.shape[0]
    noise = NormalActionNoise([0.0] * size, [0.1] * size)  # type: ignore[arg-type]
    return stable_baselines3.DDPG("MlpPolicy", env, action_noise=noise, buffer_size=200_000, seed=seed, device="cpu")


class Kind(NamedTuple):
    """What is compared in the environments of a kind.

    Attributes:
        methods: the methods that are compared, by name.
        run: names of those that are run where none are asked for.
        loss: the teachers' loss family where none is asked for.
        shipped: folder of the rows that come with the package.
        slow: those of `run` that the quick preset leaves out.
        sizes: what each preset fixes, where that is not what `PRESETS` has.
    """

    methods: Mapping[str, Method]
    run: tuple[str, ...]
    loss: str
    shipped: str
    slow: tuple[str, ...] = ()
    sizes: Mapping[Preset, Size] = MappingProxyType({})


LOSSES = Kind(
    {
        **methods.GRIDS,
        "random": meta.methods.GRIDS["random"],
        **agents.methods.GRIDS,
        # Each step of its students is followed by one of its large networks: with fewer of them it would take half of
        # the time.
        "ddpg:default": Method(
            candidates("ddpg:default", {"scale": 0.5}), _default_ddpg, learns=True, tuned_as="ddpg", students_factor=4
        ),
        **meta.methods.GRIDS,
    },
    ("cross-entropy", "smooth-01", "large-margin", "label-smoothing", "random", "ddpg", "rmd", "finite-difference"),
    "bilinear",
    NAME,
    # RMD's gradient once more, as a check of it.
    slow=("finite-difference",),
)
# A step of a pair costs three of a student: 30 updates, and 1, 3 and 10 for tuning.
_PAIRS = replace(
    PRESETS["laptop"],
    student_steps=28_800,
    rungs=(Rung(48, 960, 16, 16), Rung(12, 2_880, 16, 32), Rung(3, 9_600, 16, 128)),
)
DISTILLATION = Kind(
    distillation.METHODS,
    ("prokt", "random", "influence-weights", "ddpg", "rmd"),
    "distillation",
    f"{NAME}_distillation",
    sizes={"laptop": _PAIRS, "quick": _quick(_PAIRS)},
)

# Of the student. The sigmoid flattens the loss: its students want larger steps (see teachenv.losses.BilinearSigmoid).
# The zero action of the others is cross-entropy; fixed losses have its rates.
_RATES, _SIGMOID_RATES = (0.1, 0.2, 0.4, 0.8), (0.4, 0.8, 1.6, 3.2)
_SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks compare`."""

    # One more than the other benchmarks have.
    preset: Preset = "quick"  # type: ignore[assignment]
    """Size of the run: smoke only checks that everything runs, quick reaches the conclusions of laptop in half of the
    time, laptop made the tables of README and docs, paper takes hours."""

    env: str = "TeachDigits-v0"
    """A registered environment; for a task or a network of your own there is `teachenv.compare`."""

    label_noise: tuple[float, ...] | None = None
    """Fractions of wrong labels in the pool, each a task; by default what the preset says (0 and 0.4)."""

    label_noise_kind: Literal["pair", "symmetric"] = "pair"
    """Class c becomes c + 1, or any other class."""

    methods: tuple[str, ...] | None = None
    """What is run; by default cross-entropy, smooth-01, large-margin, label-smoothing, random, ddpg, rmd and, unless
    the preset is quick, finite-difference; there are also ddpg:default (SB3's, out of the box), td3, sac, ppo,
    evolution-strategies and focal. On TeachDistill-v0: prokt (uniform weights), random, influence-weights, ddpg and
    rmd, and finite-difference. The table has all methods whose rows the folder holds."""

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
        """Checks environment and loss besides.

        Raises:
            ValueError: an unknown name, numbers out of range, or a loss that the environment cannot have.
        """
        _check_environment(self.env)
        super().__post_init__()
        if self.loss is not None and self.kind is DISTILLATION:
            raise ValueError(f"found --loss {self.loss}, but {self.env} has a loss of its own; leave --loss out")

    def _names(self) -> Names:
        return {"method": (self.methods, self.kind.methods)}

    @property
    def kind(self) -> Kind:
        """What is compared in the environment."""
        defaults = gym.spec(self.env).kwargs.get("defaults", {})
        return DISTILLATION if defaults.get("loss") == "distillation" else LOSSES

    @property
    def run(self) -> tuple[str, ...]:
        """Names of the methods that are run."""
        left_out = self.kind.slow if self.preset == "quick" else ()
        return self.methods or tuple(method for method in self.kind.run if method not in left_out)


def _check_environment(name: str) -> None:
    """Refuses what is no environment, or one that trains no student.

    Raises:
        ValueError: it is one of these; the message has those that can be compared in.
    """
    entry_points = ("teachenv.env:TeachEnv", TeachEnv)
    known_ids = [known for known, spec in gym.registry.items() if spec.entry_point in entry_points]
    if name in gym.registry and name not in known_ids:
        raise ValueError(f"found --env {name}, which trains no student, expected one of {', '.join(sorted(known_ids))}")
    if name not in gym.registry:
        raise unknown_name("environment", name, known_ids)


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, table and figures."""
    comparison = comparison_of(options)
    options.execute(NAME, comparison.stages, comparison.report)


def comparison_of(options: Options) -> Comparison:
    """The comparison that the options describe; its tasks' data is loaded once, to name it and to fail early."""
    kind = options.kind
    size = kind.sizes.get(options.preset, PRESETS[options.preset])
    shared = {name: value for name in ("horizon", "dataset") if (value := getattr(options, name)) is not None}
    shared |= {"data_root": options.root, "label_noise_kind": options.label_noise_kind}
    contests = [
        _contest(options, kind, size, shared | {"label_noise": noise})
        for noise in options.label_noise or size.label_noise
    ]
    shipped = [] if options.retune else shipped_rows(SHIPPED / kind.shipped / "results.jsonl")
    return Comparison(NAME, contests, options.seeds or size.seeds, shipped)


def _contest(options: Options, kind: Kind, size: Size, shared: Mapping[str, Any]) -> Contest:
    loss = options.loss or kind.loss
    setting, run = Setting(options.env, shared, loss), options.run
    problem = setting.make_single(kind.methods[run[0]], Configuration({})).problem
    if problem.task.decisions is not None:
        raise ValueError(
            f"found --env {options.env}, whose samples have many labels each, expected one with a label for each "
            "sample, such as TeachDigits-v0, TeachMNIST-v0 or TeachCIFAR-v0"
        )

    def tuned(method: Method) -> dict[str, tuple[Any, ...]]:
        flat = loss == "bilinear-sigmoid" and method.make is not None
        return {"learning_rate": _SIGMOID_RATES if flat else _RATES, "lr_schedule": _SCHEDULES}

    effort = replace(size, student_steps=options.student_steps or size.student_steps)
    return Contest.of(setting, effort, kind.methods, tuned, run, problem)


def _kind_of(rows: Sequence[Row]) -> Kind:
    """What the rows compare."""
    return DISTILLATION if any(row.config["loss"] == "distillation" for row in rows) else LOSSES


TABLES: Tables = {
    "table": lambda rows: comparison_report.make("Teachers compared", Results.of(rows, _kind_of(rows).methods))
}
