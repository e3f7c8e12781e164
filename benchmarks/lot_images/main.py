"""The command: which networks on which images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from benchmarks.lot.main import Study, StudyOptions
from benchmarks.lot.main import run as run_studies
from benchmarks.lot_images import imitation, report
from benchmarks.lot_images.imitation import KINDS, Imitated
from benchmarks.lot_images.networks import NETWORKS
from benchmarks.lot_images.problem import ImageProblem
from benchmarks.measurements import Measurement, measure, rows_of
from benchmarks.options import Preset
from teachenv.errors import unknown_name
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row, agreeing

NAME = "lot_images"


@dataclass(frozen=True)
class Size:
    """What a preset fixes.

    Attributes:
        task: its data.
        model: the teacher.
        epochs: its.
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
    """Options of ``python -m benchmarks lot_images``."""

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
    """Students; by default the teacher's network."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ValueError: an unknown network or method, or a number out of range.
        """
        super().__post_init__()
        for name in (self.model, self.student):
            if name is not None and name not in NETWORKS:
                raise unknown_name("network", name, NETWORKS)


def problem(options: Options) -> ImageProblem:
    """What the options ask for."""
    size = SIZES[options.preset]
    task = options.task or size.task
    chosen: dict[str, Any] = {}
    if options.pool_size or size.pool_size:
        chosen["pool_size"] = options.pool_size or size.pool_size
    if task == "image-folder":
        chosen |= {"dataset": options.dataset, "image_size": options.image_size}
    root = None if options.data_root is None else os.fspath(options.data_root)
    return ImageProblem(
        task,
        options.model or size.model,
        options.student,
        chosen,
        epochs=options.epochs or size.epochs,
        learning_rate=0.1,
        data_root=root,
    )


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    given, size = problem(options), SIZES[options.preset]
    studies = tuple(study for study in options.study if study != "imitation")
    run_studies(NAME, replace(options, study=studies), {given.task: given}, size.seeds)
    if "imitation" in options.study:
        _imitation(options, given, options.seeds or size.seeds)


def _imitation(options: Options, given: ImageProblem, seeds: int) -> None:
    folder = options.output_folder(NAME)
    results = ResultsFile(folder / "results.jsonl")
    wanted = [
        Measurement(
            f"{given.task}: imitating a {kind} teacher, seed {seed}",
            imitation.imitate,
            {"problem": given, "kind": kind, "seed": seed},
            identity := _identity(given, kind, seed),
            "imitation_kl_test",
            partial(_rows, identity, given.precision),
        )
        for seed in range(seeds)
        for kind in KINDS
    ]
    measure(wanted, results, options.processes)
    rows = results.rows()
    shown = agreeing(rows, [_identity(given, kind, 0) for kind in KINDS])
    report.make(shown).write(folder, "imitation", "imitation")


def _identity(given: ImageProblem, kind: str, seed: int) -> dict[str, Any]:
    return {
        "benchmark": NAME,
        "task": given.task,
        "dataset": given.dataset,
        "student": given.title,
        "method": f"imitate:{kind}",
        "seed": seed,
        "config": {"problem": given.config, "shuffled": imitation.SHUFFLED},
    }


def _rows(identity: Mapping[str, Any], precision: str, found: Imitated) -> list[Row]:
    told = about(found.steps, found.seconds, matmul_precision="medium", precision=precision)
    _, train, test = found.curve[-1]
    # The one that says that all is there comes last.
    values = {
        "teacher_learned_accuracy": found.learned,
        "teacher_test_accuracy": found.test,
        "imitation_kl_train": train,
        "imitation_kl_test": test,
    }
    return rows_of(identity, values, told, found.curve)
