"""Which tasks the presets of L2T-DLN have, and what is run on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.l2t_dln.methods import BOUNDED, CROWD, FIXED, RELEASED, RELEASED_METHOD, RELEASED_SCALE, SMOOTH
from teachenv.experiment.precision import on_any_machine
from teachenv.experiment.setting import Setting

Presets = Literal["smoke", "laptop", "released", "paper"]


@dataclass(frozen=True)
class Task:
    """A task of a preset.

    Attributes:
        setting: environment and options.
        rates: learning rates of the grid.
        metric: what the report shows, as `evaluate` calls it after the split's name.
        methods: names of those that the table has.
        wrapper: options of `meta.WindowGradient`.
        teacher_students: training runs that a teacher that learns from whole ones may have.
        studied: the method whose studies are run on it (of teachers, of N, of what might mend it); None: none are.
        seeds: repetitions, unless the command says otherwise.
        tuned: whether methods choose on dev; False: each is as its first configuration has it.
        by_default: whether it is run without being named.
    """

    setting: Setting
    rates: tuple[float, ...]
    metric: str
    methods: tuple[str, ...]
    wrapper: Mapping[str, Any] = field(default_factory=dict)
    teacher_students: int = 8
    studied: str | None = None
    seeds: int = 3
    tuned: bool = True
    by_default: bool = True

    @property
    def shared(self) -> dict[str, Any]:
        """The part of the rows' config that is the same for all methods."""
        setting = self.setting
        return {"env": setting.env, "options": on_any_machine(setting.options), "wrapper": dict(self.wrapper)}


_LEARNED = ("l2t-dlf", "l2t-dln")
_PLAIN = ("cross-entropy", "focal", "label-smoothing", "loss-network", *_LEARNED)
_NOISY = (*FIXED, *_LEARNED, CROWD, *BOUNDED, *SMOOTH)
_BOXES = ("cross-entropy", "focal", "loss-network", *_LEARNED)
_LINEAR: Mapping[str, Any] = {"lr_schedule": "linear", "steps_per_action": 15}


def _task(env: str, rates: tuple[float, ...], metric: str, methods: tuple[str, ...], **options: Any) -> Task:
    # Who does not learn from dev while teaching trains on its labels in the end.
    setting = Setting(env, {**_LINEAR, **options}, loss=None, final={"train_on": "pool"})
    return Task(setting, rates, metric, methods)


def _with(task: Task, *, students: int = 8, dev_batch: int | None = None, **changes: Any) -> Task:
    wrapper = {} if dev_batch is None else {"dev_batch": dev_batch}
    return replace(task, wrapper=wrapper, teacher_students=students, **changes)


_LAPTOP = {
    "digits-noisy-40": _with(
        _task("TeachDigits-v0", (0.1, 0.2, 0.4), "error", _NOISY, horizon=300, label_noise=0.4),
        students=40,
        studied="l2t-dln",
        seeds=5,
    ),
    "cifar10-resnet8": _with(
        _task(
            "TeachCIFAR-v0", (0.02, 0.05), "error", _PLAIN, horizon=600, batch_size=25, dev_size=2000,
            dev_measured=500, autocast="bfloat16",
        ),
        students=4,
        dev_batch=100,
    ),
    "segmentation-camvid": _with(
        _task(
            "TeachSegmentation-v0", (0.05, 0.1), "miou", _PLAIN, dataset="camvid",
            task_kwargs={"image_size": [45, 60]}, horizon=300, batch_size=4, dev_size=15,
        ),
        students=4,
        dev_batch=8,
    ),
    "detection-coco128": _with(
        _task(
            "TeachDetection-v0", (0.02, 0.05), "map_50", _BOXES, dataset="coco128",
            task_kwargs={"image_size": 64}, horizon=300, batch_size=4, dev_size=24,
        ),
        students=4,
        dev_batch=12,
    ),
}  # fmt: skip

_SMOKE_OPTIONS: Mapping[str, Any] = {"steps_per_action": 2, "horizon": 4, "batch_size": 4, "dev_size": 10}
_SMOKE = {
    name: _with(_task(env, (0.05,), metric, methods, **options, **_SMOKE_OPTIONS), students=1, dev_batch=5, seeds=1)
    for name, env, metric, methods, options in (
        ("digits-noisy-40", "TeachDigits-v0", "error", ("cross-entropy", "l2t-dlf", "l2t-dln"), {"label_noise": 0.4}),
        ("segmentation-shapes", "TeachSegmentation-v0", "miou", ("cross-entropy", "l2t-dln"), {"pool_size": 40}),
        ("detection-shapes", "TeachDetection-v0", "map_50", ("cross-entropy", "l2t-dln"), {"pool_size": 40}),
    )
}

# The released code's: ten times 250 windows of 15 steps, batches of 25, 100 dev images a window, no momentum.
_RELEASED_CODE: Mapping[str, Any] = {
    "horizon": 37_500, "steps_per_action": 15, "batch_size": 25, "momentum": 0.0, "lr_schedule": "constant",
    "objective": "likelihood",
}  # fmt: skip
_SEEN: Mapping[str, Any] = {"dev_batch": 100, "unit": RELEASED_SCALE}


def _released(env: str, dev_size: int, *, studied: bool = False, **options: Any) -> Task:
    """The released code's setting, without any tuning: half of the pool is dev, and no student trains on that half."""
    chosen = {**_RELEASED_CODE, "dev_size": dev_size, **options}
    return Task(
        Setting(env, chosen, loss=None),
        (0.1,),
        "error",
        RELEASED,
        _SEEN,
        studied=RELEASED_METHOD if studied else None,
        seeds=5,
        tuned=False,
    )


_NOISE: Mapping[str, Any] = {"label_noise": 0.4}
_CLEAN_DEV: Mapping[str, Any] = {**_NOISE, "dev_noise": False}
_DIGITS: Mapping[str, Any] = {"env": "TeachDigits-v0", "dev_size": 500}
_MNIST: Mapping[str, Any] = {"env": "TeachMNIST-v0", "dev_size": 30_000, "dev_measured": 5_000}
_RELEASED = {
    "digits-noisy-40-released": _released(**_DIGITS, **_NOISE, studied=True),
    "digits-noisy-40-clean-dev-released": _released(**_DIGITS, **_CLEAN_DEV, studied=True),
    "digits-released": _released(**_DIGITS),
    "mnist-noisy-40-released": _released(**_MNIST, **_NOISE),
    "mnist-noisy-40-clean-dev-released": _released(**_MNIST, **_CLEAN_DEV),
    "mnist-released": _released(**_MNIST),
    # Each sample is for training and for dev by turns; the released code's halves change places.
    "digits-noisy-40-redivided-released": replace(
        _released(**_DIGITS, **_NOISE, train_on="pool"), wrapper={**_SEEN, "dev_from": "pool"}, by_default=False
    ),
    "cifar10-resnet8-released": replace(
        _released("TeachCIFAR-v0", 10_000, dev_measured=1_000, autocast="bfloat16"), seeds=1, by_default=False
    ),
}

_PAPERS: Mapping[str, Any] = {**_RELEASED_CODE, "dev_size": 25_000, "dev_measured": 5_000}
_PAPER = {
    f"{data}-{student}": _with(
        _task(env, (0.05, 0.1), "error", _PLAIN, student=student, **_PAPERS),
        dev_batch=100,
        studied="l2t-dln" if student == "resnet8-wide" and data == "cifar10" else None,
        seeds=5,
    )
    for data, env in (("cifar10", "TeachCIFAR-v0"), ("cifar100", "TeachCIFAR100-v0"))
    for student in ("resnet8-wide", "resnet20-wide", "resnet32-wide")
} | {
    f"segmentation-{data}": _with(
        _task(
            "TeachSegmentation-v0", (0.02, 0.05, 0.1), "miou", _PLAIN, dataset=data, student="deeplab",
            student_kwargs={"width": 64}, task_kwargs={"image_size": [side, side]}, horizon=30_000, batch_size=16,
            dev_size=dev,
        ),
        dev_batch=16, seeds=5,
    )
    for data, side, dev in (("camvid", 256, 100), ("voc2012", 256, 300))
} | {
    f"detection-{data}": _with(
        _task(
            "TeachDetection-v0", (0.01, 0.03), "map", _BOXES, dataset=data, student_kwargs={"width": 64},
            task_kwargs={"image_size": 320}, horizon=90_000, batch_size=32, dev_size=1000,
        ),
        dev_batch=32, seeds=5,
    )
    for data in ("voc2012", "coco")
}  # fmt: skip

PRESETS: dict[Presets, dict[str, Task]] = {
    "smoke": _SMOKE,
    "laptop": _LAPTOP,
    "released": _RELEASED,
    "paper": _PAPER,
}
