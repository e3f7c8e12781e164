"""The tasks of the tables, and what each preset spends on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from teachenv.experiment.contest import Effort, Rung

CLEAN = ("cross-entropy", "smooth-01", "large-margin", "focal", "label-smoothing")
NOISY = (*CLEAN, "generalized-cross-entropy")
DATA = ("self-paced", "random-drop", "l2t-data")
RL = ("ddpg", "td3", "sac", "evolution-strategies")
GRADIENT = ("rmd", "rmd:tau-1", "sigmoid:tuned", "rmd:sigmoid", "l2t-dlf")
ABLATIONS = ("rmd:static", "finite-difference")
TRANSFERRED = "rmd:transferred"
# For wrong labels.
BOUNDED, BOUNDED_TRANSFERRED = "rmd:generalized", "rmd:generalized-transferred"
# Of students that are trained as the paper's are; the second of the released code.
PUBLISHED = ("cross-entropy", "sigmoid", "published", "published:tau-0.2")
RELEASED = ("published:margin", "published:mixture", "sigmoid:mixture")


@dataclass(frozen=True)
class Part:
    """One task of a table.

    Attributes:
        table: the paper's, 1 (MNIST) or 2 (CIFAR).
        env: a registered id.
        options: the options of the environment that teachers learn on.
        effort: what is spent on it.
        methods: names of those that the task can have; see `benchmarks.l2t_dlf_images.methods`.
        final: the options in which the final students' training differs.
        source: the task whose teachers are used by methods that learn none; it may be the part itself.
        by_default: its methods where none are asked for; None: all; none: all if the task is asked for.
        rates: learning rates of students that are tuned over.
        schedules: likewise their schedules.
    """

    table: int
    env: str
    options: Mapping[str, Any]
    effort: Effort
    methods: tuple[str, ...]
    final: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    by_default: tuple[str, ...] | None = None
    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    schedules: tuple[str, ...] = ("linear", "cosine")


@dataclass(frozen=True)
class Size:
    """How long a student is trained, and what is spent on teaching it.

    Attributes:
        effort: what is spent.
        taught: student steps of the episodes that teachers learn on.
        final: student steps of the final training run.
        actions: how many each of the two has.
        options: further options of the environment.
        train_size: samples that an episode trains on, where the final training run has the whole pool: fewer steps then
            make as many passes over them as the final training makes, or more; None: all.
    """

    effort: Effort
    taught: int
    final: int
    actions: int
    options: Mapping[str, Any] = field(default_factory=dict)
    train_size: int | None = None


class _Task(NamedTuple):
    """What of a `Part` is the same in every preset."""

    table: int
    env: str
    student: str
    methods: tuple[str, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    source: str | None = None


_NOISE = {"label_noise": 0.4}
_FEW = ("rmd", "l2t-dlf")
_TASKS = {
    "mnist-mlp": _Task(1, "TeachMNIST-v0", "mlp", (*CLEAN, *DATA, *RL, *GRADIENT, *ABLATIONS)),
    "mnist-mlp-noisy-40": _Task(1, "TeachMNIST-v0", "mlp", (*NOISY, "ddpg", *GRADIENT, BOUNDED, *ABLATIONS), _NOISE),
    "mnist-lenet": _Task(1, "TeachMNIST-v0", "lenet", (*CLEAN, "ddpg", *_FEW, TRANSFERRED), {}, "mnist-mlp"),
    "mnist-lenet-noisy-40": _Task(
        1, "TeachMNIST-v0", "lenet", (*NOISY, "ddpg", *_FEW, TRANSFERRED, BOUNDED_TRANSFERRED), _NOISE,
        "mnist-mlp-noisy-40",
    ),
    "cifar10-resnet8": _Task(2, "TeachCIFAR-v0", "resnet8", (*CLEAN, *_FEW, "finite-difference")),
    "cifar10-resnet20": _Task(2, "TeachCIFAR-v0", "resnet20", (*CLEAN, *_FEW, TRANSFERRED), {}, "cifar10-resnet8"),
    "cifar10-resnet32": _Task(2, "TeachCIFAR-v0", "resnet32", (*CLEAN, *_FEW)),
    "cifar10-wrn": _Task(2, "TeachCIFAR-v0", "wrn", (*CLEAN, *_FEW)),
    "cifar10-densenet": _Task(2, "TeachCIFAR-v0", "densenet", (*CLEAN, *_FEW)),
    "cifar100-resnet8": _Task(2, "TeachCIFAR100-v0", "resnet8", (*CLEAN, *_FEW)),
    "cifar100-resnet20": _Task(2, "TeachCIFAR100-v0", "resnet20", (*CLEAN, *_FEW)),
    "cifar100-resnet32": _Task(2, "TeachCIFAR100-v0", "resnet32", (*CLEAN, *_FEW)),
}  # fmt: skip


def _parts(sizes: Mapping[str, Size], by_default: Mapping[str, tuple[str, ...]] | None = None) -> dict[str, Part]:
    """The tasks of a preset, by name.

    Args:
        sizes: how long students train and what is spent on teaching them, by task.
        by_default: the methods of a task where none are asked for, by task; a task that is not named has all.
    """
    parts = {}
    for name, size in sizes.items():
        task = _TASKS[name]
        taught, final = (
            {"horizon": horizon, "steps_per_action": horizon // size.actions, "train_size": train_size}
            for horizon, train_size in ((size.taught, size.train_size), (size.final, None))
        )
        parts[name] = Part(
            task.table,
            task.env,
            {"student": task.student, **task.options, **size.options, **taught},
            size.effort,
            task.methods,
            final if final != taught else {},
            task.source,
            (by_default or {}).get(name),
            schedules=("linear", "cosine") if task.table == 1 else ("step", "cosine"),
        )
    return parts


def _published(student: str, steps: int, options: Mapping[str, Any], methods: tuple[str, ...], name: str) -> Part:
    """L2T-DLF as it is published, without any tuning: rate 0.01, momentum 0.9, 60 updates by one student each.

    What the paper does not say is ours: how long a student is trained, the size of dev, a constant rate, and 120
    actions where the paper's Φ may change at every step.
    """
    effort = Effort(student_steps=60 * steps, parallel=1, rungs=(), points=3, students=2, final_students=3)
    taught = {"student": student, "horizon": steps, "steps_per_action": steps // 120, "dev_size": 5000, **options}
    return Part(1, "TeachMNIST-v0", taught, effort, methods, source=name, rates=(0.01,), schedules=("constant",))


def _effort(updates: int, horizon: int, students: int, first: float, finalists: int, tuned: int = 5) -> Effort:
    """A budget of whole updates by one student each.

    Args:
        updates: how many a gradient teacher makes.
        horizon: student steps of the episodes that it learns on.
        students: final students of each seed; the last round of tuning has twice as many.
        first: how long the first round of tuning trains, as a part of the final training run.
        finalists: configurations in the last round of tuning. It has the whole budget: with two fifths of it, a rate
            won that was worse at the end.
        tuned: the first round of tuning has 1/tuned of the budget.
    """
    steps = updates * horizon
    rungs = Rung(12, steps // tuned, 1, 1, first), Rung(finalists, steps, 1, 2 * students)
    return Effort(student_steps=steps, parallel=1, rungs=rungs, points=5, students=2, final_students=students)


_ONE = Effort.smallest(horizon=10)
_SMOKE = Size(_ONE, 10, 20, 5, {"batch_size": 50, "dev_size": 200, "dev_measured": 100}, 1000)
_SMOKE_CIFAR = Size(
    replace(_ONE, student_steps=4, rungs=()),
    4,
    8,
    2,
    {"batch_size": 16, "dev_size": 100, "dev_measured": 50, "autocast": "bfloat16"},
    500,
)

# Larger batches than the paper's 20 make three passes over MNIST in seconds. Autocast is for speed alone.
_MLP = Size(
    _effort(24, 120, 2, 1 / 3, 3),
    120,
    720,
    12,
    {"batch_size": 250, "dev_size": 5000, "dev_measured": 2500},
    3000,
)
# Noise is undone by larger changes of Φ, in more updates, and hardly by teachers of shorter training runs.
_NOISY_MLP = Size(
    _effort(40, 240, 2, 1 / 3, 3, 10),
    240,
    720,
    12,
    {"batch_size": 250, "dev_size": 10_000, "dev_measured": 2000},
)
_LENET = Size(
    _effort(10, 48, 1, 1 / 6, 2),
    48,
    480,
    12,
    {"batch_size": 250, "dev_size": 5000, "dev_measured": 1000, "autocast": "bfloat16"},
    1200,
)
_RESNET = Size(
    _effort(8, 24, 1, 1 / 4, 2), 24, 240, 12, {"dev_size": 2000, "dev_measured": 500, "autocast": "bfloat16"}, 1000
)

# Ten passes over MNIST, eighty over CIFAR, all differentiated; as many actions as student steps between them, since
# that keeps the fewest states.
_PAPERS_MLP = Size(_effort(60, 30_000, 3, 1 / 3, 3), 30_000, 30_000, 200, {"batch_size": 20, "dev_size": 5000})
_PAPERS_LENET = Size(_effort(60, 1_200, 3, 1 / 3, 3), 1_200, 1_200, 40, {"batch_size": 500, "dev_size": 5000})
_PAPERS_CIFAR = Size(_effort(100, 31_200, 1, 1 / 3, 3), 31_200, 31_200, 200, {"dev_size": 5000})
# 70 states of WRN-40-10 and its momentum are 31 GB, and √31,200 · 2 of them would be 160.
_PAPERS_LARGE = Size(_effort(100, 1_200, 1, 1 / 3, 3), 1_200, 31_200, 40, {"dev_size": 5000})

Presets = Literal["smoke", "laptop", "published", "paper"]
SEEDS: dict[Presets, int] = {"smoke": 1, "laptop": 5, "published": 2, "paper": 5}

_LAPTOP = {
    "mnist-mlp": _MLP,
    "mnist-mlp-noisy-40": _NOISY_MLP,
    "mnist-lenet": _LENET,
    "mnist-lenet-noisy-40": _LENET,
    "cifar10-resnet8": _RESNET,
    "cifar10-resnet20": _RESNET,
}

PRESETS: dict[Presets, dict[str, Part]] = {
    "smoke": _parts(
        {
            "mnist-mlp": _SMOKE,
            "mnist-mlp-noisy-40": _SMOKE,
            "mnist-lenet": _SMOKE,
            "mnist-lenet-noisy-40": _SMOKE,
            "cifar10-resnet8": _SMOKE_CIFAR,
            "cifar10-resnet20": _SMOKE_CIFAR,
        },
        {
            "mnist-mlp": ("cross-entropy", "rmd"),
            "cifar10-resnet8": ("rmd",),
            # No time for these unless they are asked for.
            "mnist-mlp-noisy-40": (),
            "mnist-lenet": (),
            "mnist-lenet-noisy-40": (),
            "cifar10-resnet20": (),
        },
    ),
    "laptop": _parts(
        _LAPTOP,
        {
            # Finite differences, RMD's gradient again, are left to --methods.
            "mnist-mlp": (*CLEAN, *DATA, *RL, *GRADIENT, "rmd:static"),
            "mnist-mlp-noisy-40": (*NOISY, "ddpg", "rmd", BOUNDED),
            "mnist-lenet": (*CLEAN, "rmd", TRANSFERRED),
            # On the perceptron teachers of as short training runs as LeNet's own did not learn to undo noise; of those
            # that did, there is time for the better ones.
            "mnist-lenet-noisy-40": (*NOISY, BOUNDED_TRANSFERRED),
            "cifar10-resnet8": (*CLEAN, "rmd"),
            # Half an hour for ("cross-entropy", TRANSFERRED), when asked for.
            "cifar10-resnet20": (),
        },
    ),
    "published": {
        "mnist-mlp-published": _published(
            "mlp", 15_000, {"batch_size": 20}, (*PUBLISHED, *RELEASED), "mnist-mlp-published"
        ),
        "mnist-lenet-published": _published(
            "lenet", 1_200, {"batch_size": 500, "autocast": "bfloat16"}, PUBLISHED, "mnist-lenet-published"
        ),
    },
    "paper": _parts(
        dict.fromkeys(_TASKS, _PAPERS_CIFAR)
        | dict.fromkeys(("mnist-mlp", "mnist-mlp-noisy-40"), _PAPERS_MLP)
        | dict.fromkeys(("mnist-lenet", "mnist-lenet-noisy-40"), _PAPERS_LENET)
        | dict.fromkeys(("cifar10-wrn", "cifar10-densenet"), _PAPERS_LARGE)
    ),
}
