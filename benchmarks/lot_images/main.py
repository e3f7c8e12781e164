"""The command `python -m benchmarks lot_images`: which networks learn which images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from benchmarks.lot import main as lot
from benchmarks.lot.main import Further, Presets, Study, StudyOptions, Tuned, check_names_differ
from benchmarks.lot.methods import LOT, Method
from benchmarks.lot.regularisers import Regime
from benchmarks.lot_images import imitation, report
from benchmarks.lot_images.imitation import KINDS
from benchmarks.lot_images.networks import NETWORKS
from benchmarks.lot_images.problem import ImageProblem
from benchmarks.options import Names, Tables
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

NAME = "lot_images"


class Size(NamedTuple):
    """What a preset trains, and for how long.

    Attributes:
        task: name of the data.
        model: name of the teacher's network.
        epochs: how many the teacher trains.
        seeds: repetitions.
        train_size: labelled images; None: all.
    """

    task: str
    model: str
    epochs: int
    seeds: int
    train_size: int | None = None


SIZES: Mapping[Presets, Size] = {
    "smoke": Size("synthetic", "preresnet-8", 8, 1, 1_000),
    "laptop": Size("cifar10", "preresnet-20", 15, 3),
    "released": Size("cifar100", "preresnet-20", 180, 3),
    "paper": Size("cifar100", "preresnet-20", 180, 3),
}
# The rest of the released recipe.
_RECIPE = replace(LOT, alpha=0.5, student_steps=2, labels=True)
_RELEASED = {"learning_rate": 1.0, "batch_size": 256}

# Where networks overfit: few images, and labels of which some are wrong. Networks without a regulariser of their own.
_OVERFITTING: Mapping[Presets, tuple[Size, ...]] = {
    "smoke": (Size("synthetic", "cnn", 1, 1, 80),),
    "laptop": (
        Size("mnist", "mlp-200", 40, 10, 1_000),
        Size("mnist", "mlp-200", 40, 10, 5_000),
        Size("cifar10", "cnn", 30, 5, 5_000),
    ),
    "paper": (Size("cifar100", "preresnet-20", 180, 3),),
}
# Of these, where students of several sizes are compared.
_SIZED: Mapping[Presets, tuple[Size, ...]] = {
    "smoke": _OVERFITTING["smoke"],
    "laptop": (Size("mnist", "mlp-200", 40, 5, 5_000),),
    "paper": (
        Size("mnist", "mlp-200", 40, 10, 5_000),
        Size("cifar10", "cnn", 30, 10, 5_000),
        *_OVERFITTING["paper"],
    ),
}
_NOISES = 0.0, 0.4
# Images beside the training images, with labels as wrong as theirs.
_VALIDATION = 1_000
_RATES: Mapping[str, tuple[float, ...]] = {"adam": (3e-4, 1e-3, 3e-3), "sgd": (0.01, 0.03, 0.1)}


@dataclass(frozen=True)
class Options(StudyOptions):
    """Options of `python -m benchmarks lot_images`."""

    study: tuple[Study | Literal["imitation"], ...] = ("table",)  # type: ignore[assignment]
    """Which study to run: table (with students and without), peers (mutual learning, self-distillation), alpha, n
    (student steps for each of the teacher's), form (students that see labels, L2, two students), regularisers (LoT
    beside weight decay, dropout and others where models overfit, each tuned), sizes (students of shares of the model's
    parameters, there too), imitation (is a teacher that generalises easier to imitate than one that memorised
    shuffled labels?)."""

    task: Literal["mnist", "cifar10", "cifar100", "image-folder", "synthetic"] | None = None
    """Data: mnist, cifar10, cifar100, image-folder (see --dataset), synthetic (made here); by default the preset's."""

    dataset: str | None = None
    """Folder of an image-folder task in the data root: train/CLASS/* and val/CLASS/*."""

    image_size: int = 64
    """Side to which the images of a folder are resized."""

    label_noise: tuple[float, ...] | None = None
    """Shares of wrong labels (any other class), for the studies regularisers (by default 0 and 0.4) and sizes (0.4)."""

    model: str | None = None
    """Teacher: preresnet-20 (or 8, 14, 32, 56, 110), resnet-18, resnet-50, mobilenet-v2, vit, swin, mlp-200, cnn."""

    student: str | None = None
    """Network of the students; by default the teacher's network."""

    def __post_init__(self) -> None:
        """Checks the shares of wrong labels, beside what all benchmarks check.

        Raises:
            ValueError: a share that is no number from 0 up to 1, or two that rows would call the same.
        """
        super().__post_init__()
        check_names_differ("--label-noise", self.label_noise, 100.0)
        for share in self.label_noise or ():
            if not 0 <= share < 1:
                raise ValueError(f"found --label-noise {share:g}, expected a share from 0 up to 1, such as 0.4")

    def recipes(self) -> Mapping[str, Method]:
        """The released code's recipe by task, in the preset that trains by it."""
        return {self.task or SIZES["released"].task: _RECIPE} if self.preset == "released" else {}

    def _names(self) -> Names:
        networks = [name for name in (self.model, self.student) if name is not None]
        return {**super()._names(), "network": (networks, NETWORKS)}


def problem(options: Options) -> ImageProblem:
    """The problem that the options ask for."""
    sized = _sized(options, SIZES[options.preset])
    return replace(sized, **_RELEASED) if options.preset == "released" else sized  # type: ignore[arg-type]


def _sized(options: Options, size: Size, **more: Any) -> ImageProblem:
    """A problem of this size, unless the options ask for another."""
    task, images = options.task or size.task, options.train_size or size.train_size
    chosen: dict[str, Any] = {"pool_size": images} if images else {}
    if task == "image-folder":
        chosen |= {"dataset": options.dataset, "image_size": options.image_size}
    return ImageProblem(
        task,
        options.model or size.model,
        options.student,
        chosen,
        epochs=options.epochs or size.epochs,
        optimizer_name=options.optimizer or "sgd",
        learning_rate=_RATES[options.optimizer][1] if options.optimizer == "adam" else 0.1,
        data_root=options.root,
        **more,
    )


def regimes(options: Options, study: Tuned) -> dict[str, Regime]:
    """Where networks overfit, by the task's name in rows; options narrow it."""
    chosen: dict[str, Regime] = {}
    rates = {name: _RATES[name] for name in _RATES if options.optimizer in (None, name)}
    noises = options.label_noise or (_NOISES if study == "regularisers" else _NOISES[-1:])
    if options.preset == "smoke":
        rates, noises = {name: values[:1] for name, values in rates.items()}, noises[-1:]
    sizes = (_OVERFITTING if study == "regularisers" else _SIZED)[options.preset]
    for size in [size for size in sizes if size.task == options.task] or sizes:
        plain = _sized(options, size, augment=False, batch_size=100, weight_decay=0.0)
        images = plain.task_options.get("pool_size")
        if images is not None:
            held = min(_VALIDATION, images)
            pool = {**plain.task_options, "pool_size": images + held}
            plain = replace(plain, task_options=pool, valid_size=held / (images + held))
        for share in noises:
            name = f"{plain.task}-{images or 'all'}" + (f"-symmetric-{100 * share:g}" if share else "")
            chosen.setdefault(name, Regime(replace(plain, label_noise=share), rates, size.seeds))
    return chosen


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    images, size, further = problem(options), SIZES[options.preset], None
    seeds = options.seeds or size.seeds
    if "imitation" in options.study:

        def imitations(rows: Sequence[Row]) -> Report:
            return report.make(agreeing(rows, [imitation.case(NAME, images, kind, 0).identity for kind in KINDS]))

        cases = [imitation.case(NAME, images, kind, seed) for seed in range(seeds) for kind in KINDS]
        further = Further("imitation", cases, imitations)
    lot.run(NAME, options, {images.task: images}, seeds, lambda study: regimes(options, study), further=further)


TABLES: Tables = {
    **lot.tables(NAME),
    "imitation": lambda rows: report.make([row for row in rows if row.method.startswith("imitate:")]),
}
