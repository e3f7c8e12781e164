"""The command `python -m benchmarks lot_images`: which networks learn which images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.lot.main import Study, StudyOptions, cases, make_report
from benchmarks.lot_images import imitation, report
from benchmarks.lot_images.imitation import KINDS
from benchmarks.lot_images.networks import NETWORKS
from benchmarks.lot_images.problem import ImageProblem
from benchmarks.options import Names, Preset
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

NAME = "lot_images"


@dataclass(frozen=True)
class Size:
    """What a preset trains, and for how long.

    Attributes:
        task: name of the data.
        model: name of the teacher's network.
        epochs: how many the teacher trains.
        seeds: repetitions.
        pool_size: labelled images; None: all.
    """

    task: str
    model: str
    epochs: int
    seeds: int
    pool_size: int | None = None


SIZES: Mapping[Preset, Size] = {
    "smoke": Size("synthetic", "preresnet-8", 8, 1, 1_000),
    "laptop": Size("cifar10", "preresnet-20", 15, 3),
    # The released code's; it also takes N = 2 and α = 0.5, and a learning rate of 1.
    "paper": Size("cifar100", "preresnet-20", 180, 3),
}


@dataclass(frozen=True)
class Options(StudyOptions):
    """Options of `python -m benchmarks lot_images`."""

    study: tuple[Study | Literal["imitation"], ...] = ("table",)  # type: ignore[assignment]
    """What is asked: table (with students and without), peers (mutual learning, self-distillation), alpha, n (student
    steps for each of the teacher's), form (students that see labels, L2, two students), size (smaller and larger
    students), imitation (is a teacher that generalises easier to imitate than one that knows shuffled labels by
    heart?)."""

    task: Literal["cifar10", "cifar100", "image-folder", "synthetic"] | None = None
    """Data: cifar10, cifar100, image-folder (see --dataset), synthetic (made here); by default the preset's."""

    dataset: str | None = None
    """Folder of an image-folder task in the data root: train/CLASS/* and val/CLASS/*."""

    image_size: int = 64
    """Side to which the images of a folder are resized."""

    pool_size: int | None = None
    """Labelled images; by default all."""

    model: str | None = None
    """Teacher: preresnet-20 (or 8, 14, 32, 56, 110), resnet-18, resnet-50, mobilenet-v2, vit, swin."""

    student: str | None = None
    """Network of the students; by default the teacher's network."""

    def _names(self) -> Names:
        networks = [name for name in (self.model, self.student) if name is not None]
        return {**super()._names(), "network": (networks, NETWORKS)}


def problem(options: Options) -> ImageProblem:
    """The problem that the options ask for."""
    size = SIZES[options.preset]
    task = options.task or size.task
    chosen: dict[str, Any] = {}
    if options.pool_size or size.pool_size:
        chosen["pool_size"] = options.pool_size or size.pool_size
    if task == "image-folder":
        chosen |= {"dataset": options.dataset, "image_size": options.image_size}
    return ImageProblem(
        task,
        options.model or size.model,
        options.student,
        chosen,
        epochs=options.epochs or size.epochs,
        learning_rate=0.1,
        data_root=options.root,
    )


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    images, size = problem(options), SIZES[options.preset]
    seeds, problems = options.seeds or size.seeds, {images.task: images}
    wanted_cases = cases(NAME, options, problems, seeds)
    if "imitation" in options.study:
        wanted_cases += [imitation.case(NAME, images, kind, seed) for seed in range(seeds) for kind in KINDS]

    def reports(rows: Sequence[Row]) -> Report:
        whole = make_report(NAME, options, problems, rows)
        if "imitation" in options.study:
            whole.beside["imitation"] = report.make(
                agreeing(rows, [imitation.case(NAME, images, kind, 0).identity for kind in KINDS])
            )
        return whole

    options.execute(NAME, [lambda session: wanted_cases], reports)
