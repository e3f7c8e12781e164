"""The command `python -m benchmarks lgtm_generation`: which methods distil which student, on how much data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from benchmarks.lgtm.study import TunedStudy
from benchmarks.lgtm_generation import report
from benchmarks.lgtm_generation.lines import Grid, lines, tuned_as
from benchmarks.lgtm_generation.setting import STUDENTS, TranslationSetting
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from teachenv.experiment.rows import judging

NAME = "lgtm_generation"


class Size(NamedTuple):
    """What a preset runs.

    Attributes:
        setting: data and networks.
        grid: what tuning chooses from.
        online_rate: learning rate of teachers that learn beside the student.
        seeds: repetitions.
        methods: names of those that are run unless the command says otherwise; None: all.
        tuning_part: how long training runs that tune are, as a part of those that judge.
    """

    setting: TranslationSetting
    grid: Grid
    online_rate: float
    seeds: int
    methods: tuple[str, ...] | None
    tuning_part: float = 1.0


_VALUES = {
    "smoothing": (0.0, 0.1),
    "student_labels": (0.0, 0.5),
    "teacher_rate": (1e-4, 5e-4),
    "influence_rate": (0.1, 1.0),
}
_LAPTOP = (
    "cross-entropy",
    "kd",
    "sequence-kd",
    "prokt",
    "lgtm:meta",
    "lgtm:released",
    "cross-entropy:mixed-12.5",
    "kd:mixed-12.5",
    "prokt:mixed-12.5",
)
SIZES: dict[Preset, Size] = {
    "smoke": Size(
        TranslationSetting(
            task="numbers", vocabulary_size=None, train_size=56, feedback_size=8, dev_size=8, epochs=1,
            teacher_epochs=1, batch_size=8, student="lstm-1", width=8, teacher_width=8, dropout=0.0,
            student_rate=4e-3, teacher_rate=4e-3, evaluations=2, watched=0,
        ),
        Grid((4e-3,), {name: values[-1:] for name, values in _VALUES.items()}),
        5e-4, 1, ("cross-entropy", "sequence-kd", "prokt", "lgtm:meta"),
    ),
    "laptop": Size(
        TranslationSetting(
            task="multi30k", vocabulary_size=1_000, train_size=7_000, feedback_size=1_000, dev_size=500, epochs=3,
            teacher_epochs=8, batch_size=32, student="lstm-1", width=64, teacher_width=128, dropout=0.1,
            student_rate=4e-3, teacher_rate=1e-3, evaluations=3, watched=0,
        ),
        Grid((2e-3, 6e-3), _VALUES), 5e-4, 3, _LAPTOP, tuning_part=0.5,
    ),
    "paper": Size(
        TranslationSetting(
            task="multi30k", vocabulary_size=8_000, train_size=25_375, feedback_size=3_625, dev_size=1_000, epochs=30,
            teacher_epochs=30, batch_size=64, student="lstm-1", width=128, teacher_width=256, dropout=0.3,
            student_rate=2e-3, teacher_rate=1e-3, evaluations=15, watched=0,
        ),
        Grid(
            (5e-4, 1e-3, 2e-3),
            {
                "smoothing": (0.0, 0.1, 0.2),
                "student_labels": (0.0, 0.3, 0.6),
                "teacher_rate": (3e-5, 1e-4, 5e-4),
                "influence_rate": (0.1, 0.3, 1.0),
            },
        ),
        1e-4, 5, None,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks lgtm_generation`."""

    student: Literal["lstm-1", "transformer-1"] = "lstm-1"
    """The student: an LSTM with attention, or a transformer, of one layer on each side."""

    methods: tuple[str, ...] | None = None
    """Which methods, such as kd or lgtm:meta; by default the preset's."""

    def _names(self) -> Names:
        return {"method": (self.methods, lines(0.0))}


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, table and figures."""
    studies = {name: _study(options, name) for name in STUDENTS}
    options.execute(
        NAME,
        studies[options.student].stages,
        lambda rows: report.make([row for study in studies.values() for row in study.shown(rows)]),
    )


def _study(options: Options, student: str) -> TunedStudy:
    size = SIZES[options.preset]
    setting, methods = replace(size.setting, student=student, data_root=options.root), lines(size.online_rate)
    return TunedStudy(
        NAME,
        [setting],
        methods,
        options.methods or size.methods,
        {setting.name: options.seeds or size.seeds},
        size.grid,
        "bleu",
        tuned_as(list(methods)),
        size.tuning_part,
    )


TABLES: Tables = {"table": lambda rows: report.make(judging(rows))}
