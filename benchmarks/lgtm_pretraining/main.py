"""The command `python -m benchmarks lgtm_pretraining`: which cells of the two phases are measured, and how large."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from benchmarks.lgtm_pretraining import report
from benchmarks.lgtm_pretraining.methods import ALL, FIRST, FOLLOWED, METHODS, NONE, SCRATCH, TELLING, Cell
from benchmarks.lgtm_pretraining.phases import FineTuning, Pretraining, Role
from benchmarks.lgtm_pretraining.study import Study
from benchmarks.lgtm_pretraining.texts import ORDER, TASKS, Source
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from teachenv.experiment.row import Row
from teachenv.experiment.rows import judging

NAME = "lgtm_pretraining"


class Size(NamedTuple):
    """What a preset measures.

    Attributes:
        corpus: what language models learn.
        tasks: what is classified.
        source: sizes of texts and vocabulary, as `Source` has them.
        teacher: width and layers of teachers.
        student: those of students.
        pretraining: lengths of training runs and rates, as `Phase` has them.
        tuning: the same of the second phase.
        cells: which pairs of methods.
        seeds: repetitions.
    """

    corpus: str
    tasks: tuple[str, ...]
    source: dict[str, int]
    teacher: tuple[int, int]
    student: tuple[int, int]
    pretraining: dict[str, Any]
    tuning: dict[str, Any]
    cells: tuple[Cell, ...]
    seeds: int


_SMOKE: dict[str, Any] = {
    "steps": 4,
    "teacher_steps": 4,
    "batch_size": 8,
    "evaluations": 2,
    "teacher_rate": 1e-2,
    "beside_rate": 1e-2,
    "student_rates": (5e-3, 1e-2, 2e-2, 4e-2),
    "influence_rates": (0.1, 0.3),
}

# Rates of pre-training and of fine-tuning. The wider a transformer, the smaller are the rates at which it learns best.
_SMALL: dict[str, Any] = {"student_rates": (2.5e-3, 5e-3, 1e-2, 2e-2), "teacher_rate": 3e-3, "beside_rate": 1e-3}
_SMALL_TUNED: dict[str, Any] = {"student_rates": (1e-3, 2e-3, 4e-3, 8e-3), "teacher_rate": 1e-3, "beside_rate": 1e-3}
_LARGE: dict[str, Any] = {"student_rates": (5e-4, 1e-3, 2e-3, 4e-3), "teacher_rate": 5e-4, "beside_rate": 2e-4}
_LARGE_TUNED: dict[str, Any] = {"student_rates": (1e-4, 2e-4, 4e-4, 8e-4), "teacher_rate": 2e-4, "beside_rate": 2e-4}

SIZES: dict[Preset, Size] = {
    "smoke": Size(
        "numbers",
        (ORDER,),
        {"words": 40, "tokens": 4_000, "dev_tokens": 400, "window": 16, "sentences": 200, "dev_sentences": 100,
         "length": 24},
        (16, 2),
        (8, 1),
        _SMOKE,
        _SMOKE,
        ((NONE, NONE), (SCRATCH, NONE), (FOLLOWED, NONE), (NONE, "kd")),
        1,
    ),
    "laptop": Size(
        "ptb",
        (ORDER, "sst-2"),
        {"words": 4_000, "tokens": 200_000, "dev_tokens": 10_000, "window": 32, "sentences": 6_000,
         "dev_sentences": 1_000, "length": 28},
        (128, 4),
        (64, 2),
        {"steps": 1_000, "teacher_steps": 2_500, "batch_size": 8, "influence_rates": (0.3, 1.0), **_SMALL},
        {"steps": 300, "teacher_steps": 500, "batch_size": 32, "influence_rates": (0.1, 0.3), **_SMALL_TUNED},
        TELLING,
        3,
    ),
    "paper": Size(
        "ptb",
        TASKS,
        {"words": 10_000, "tokens": 700_000, "dev_tokens": 73_760, "window": 64, "sentences": 6_000,
         "dev_sentences": 1_000, "length": 48},
        (512, 6),
        (256, 3),
        {"steps": 20_000, "teacher_steps": 40_000, "batch_size": 32, "evaluations": 10, "influence_rates": (0.3, 1.0),
         **_LARGE},
        {"steps": 2_000, "teacher_steps": 4_000, "batch_size": 32, "evaluations": 10, "influence_rates": (0.1, 0.3),
         **_LARGE_TUNED},
        ALL,
        5,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks lgtm_pretraining`."""

    tasks: tuple[str, ...] | None = None
    """What is classified: word-order (whether a sentence of the corpus is shuffled) and sst-2; by default both."""

    first: tuple[str, ...] | None = None
    """How students are pre-trained: scratch (not at all), none (alone), kd, prokt, lgtm, lgtm:released; with --second,
    all pairs of both. By default the preset's cells."""

    second: tuple[str, ...] | None = None
    """How they are fine-tuned: none, kd, prokt, lgtm, lgtm:released."""

    def _names(self) -> Names:
        return {
            "task": (self.tasks, TASKS),
            "way to pre-train": (self.first, FIRST),
            "way to fine-tune": (self.second, METHODS),
        }

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that are asked for, in the order in which they are measured."""
        if self.first is None and self.second is None:
            return SIZES[self.preset].cells
        return tuple(
            (first, second) for first, second in ALL
            if first in (self.first or FIRST) and second in (self.second or METHODS)
        )  # fmt: skip


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    studies = [_study(options, task) for task in options.tasks or SIZES[options.preset].tasks]
    known = [_study(options, task) for task in TASKS]
    stages = [stage for study in studies for stage in study.stages]
    options.execute(NAME, stages, lambda rows: report.make(_shown(rows, known)))


def _shown(rows: Sequence[Row], studies: Iterable[Study]) -> list[Row]:
    """The rows of this preset's settings, of all cells, tasks and seeds that the folder has of them."""
    shown: dict[int, Row] = {id(row): row for study in studies for row in study.shown(rows)}
    return [row for row in rows if id(row) in shown]


def _study(options: Options, task: str) -> Study:
    size = SIZES[options.preset]
    source = Source(corpus=size.corpus, task=task, data_root=options.root, **size.source)
    networks: dict[Role, dict[str, Any]] = {"teacher": _network(*size.teacher), "student": _network(*size.student)}
    # What is classified later does not shape the language models: one serves all tasks.
    words = replace(source, task="", sentences=0, dev_sentences=0, length=0)
    return Study(
        benchmark=NAME,
        pretraining=Pretraining(source=words, networks=networks, **size.pretraining),
        tuning=FineTuning(source=source, networks=networks, **size.tuning),
        cells=options.cells,
        seeds=options.seeds or size.seeds,
    )


def _network(width: int, layers: int) -> dict[str, Any]:
    return {"width": width, "layers": layers, "heads": 4, "inner": 2 * width, "dropout": 0.1}


TABLES: Tables = {"table": lambda rows: report.make(judging(rows))}
