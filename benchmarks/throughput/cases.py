"""What the throughput benchmark measures: its cases, how much of each, and their data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from benchmarks.options import Preset
from teachenv.data.root import candidate_roots
from teachenv.registration import ENVIRONMENTS
from teachenv.tasks import make_task
from teachenv.tasks.base import Task
from teachenv.tasks.synthetic import make_synthetic


@dataclass(frozen=True)
class Size:
    """How much of everything a preset measures.

    Attributes:
        seeds: repetitions, unless `--seeds` says otherwise.
        pieces: turns that each contender takes in a repetition.
        steps: student steps in a piece of an mlp, or in its differentiated episode.
        conv_steps: the same for a network of convolutions.
        vector_steps: student steps of each of the vectorised students.
    """

    seeds: int
    pieces: int
    steps: int
    conv_steps: int
    vector_steps: int


SIZES: dict[Preset, Size] = {
    "smoke": Size(seeds=1, pieces=1, steps=10, conv_steps=1, vector_steps=10),
    "laptop": Size(seeds=3, pieces=5, steps=20, conv_steps=1, vector_steps=60),
    "paper": Size(seeds=10, pieces=15, steps=40, conv_steps=4, vector_steps=60),
}


@dataclass(frozen=True)
class Measured:
    """One comparison of times: what is measured, and on which students.

    Attributes:
        measurement: `"step"`, `"vector"`, `"paths"` or `"gradient"`; see `benchmarks.throughput`.
        source: which data: `"digits"`, `"mnist"` or `"cifar10"`.
        student: name of the student network.
        students: how many are trained at once; 1 is the single environment.
        method: what is measured, as in the rows.
        settings: environment settings that differ from the registered environment's.
    """

    measurement: Literal["step", "vector", "paths", "gradient"]
    source: Literal["digits", "mnist", "cifar10"]
    student: str
    students: int
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.measurement}: {self.method}, {self.student} on {self.source}, students {self.students}"

    def steps(self, size: Size) -> int:
        """The student steps in a piece."""
        return size.steps if self.student == "mlp" else size.conv_steps

    def options(self, task: Task) -> dict[str, Any]:
        """The environment's keyword arguments."""
        registered = ENVIRONMENTS[ENVIRONMENT_OF[self.source]]
        return registered | {"task": task, "student": self.student} | dict(self.settings)


# A small dev split where ten or a hundred evaluations would take longer than what is measured.
_SMALL = {"dev_size": 200}
_SMALL_RESNET = _SMALL | {"batch_size": 32}

CASES = (
    Measured("step", "mnist", "mlp", 1, "env-step"),
    Measured("step", "cifar10", "resnet8", 1, "env-step", _SMALL),
    Measured("vector", "digits", "mlp", 64, "vector-env"),
    Measured("paths", "digits", "mlp", 8, "vmap"),
    Measured("paths", "mnist", "mlp", 8, "vmap", _SMALL),
    Measured("paths", "mnist", "lenet", 8, "vmap", _SMALL),
    Measured("paths", "cifar10", "resnet8", 8, "vmap", _SMALL_RESNET),
    Measured("gradient", "digits", "mlp", 1, "rmd"),
    Measured("gradient", "digits", "mlp", 1, "finite-difference"),
    Measured("gradient", "digits", "mlp", 16, "rmd"),
    Measured("gradient", "digits", "mlp", 16, "finite-difference"),
    Measured("gradient", "mnist", "mlp", 1, "rmd", _SMALL),
    Measured("gradient", "mnist", "mlp", 1, "finite-difference", _SMALL),
    Measured("gradient", "cifar10", "resnet8", 1, "rmd", _SMALL_RESNET),
    Measured("gradient", "cifar10", "resnet8", 1, "finite-difference", _SMALL_RESNET),
)

ENVIRONMENT_OF = {"digits": "TeachDigits-v0", "mnist": "TeachMNIST-v0", "cifar10": "TeachCIFAR-v0"}


def load_task(source: str, data_root: str | None) -> Task:
    """The data, or procedural data of its shape if it is not on the disk, which is said on stderr."""
    if source == "digits":
        return make_task("digits")
    file = {"mnist": "MNIST/raw/train-images-idx3-ubyte", "cifar10": "cifar-10-batches-py/data_batch_1"}[source]
    roots = candidate_roots(data_root)
    if any((folder / file).exists() for root in roots for folder in (root, root / source)):
        return make_task(source, data_root=data_root, pool_size=5000)
    print(f"{source} is not on this machine: timing on procedural data of its shape", file=sys.stderr, flush=True)
    if source == "cifar10":
        return make_synthetic(pool_size=2000, test_size=10)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2010, 1, 28, 28), dtype=np.float32)
    labels = rng.integers(10, size=len(images))
    pool, test = (images[:2000], labels[:2000]), (images[2000:], labels[2000:])
    return Task("mnist", "procedural-28x28", pool, test, num_outputs=10)  # type: ignore[arg-type] # arrays are accepted
