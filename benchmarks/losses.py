"""Which of the library's plain losses is best, with right labels and with wrong ones? Each is tuned alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.options import ParallelOptions, Preset, Tables
from teachenv.experiment import comparison_report
from teachenv.experiment.comparison import Comparison
from teachenv.experiment.comparison_report import Results
from teachenv.experiment.contest import Contest, Effort, Rung
from teachenv.experiment.methods import GRIDS, fixed
from teachenv.experiment.setting import Setting

NAME = "losses"
RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
LOSSES = {
    **GRIDS,
    "generalized-cross-entropy": fixed("generalized-cross-entropy", q=[0.3, 0.5, 0.7, 0.9]),
    **{loss: fixed(loss, weight_decay=[0.0, 1e-3, 3e-3, 1e-2]) for loss in ("brier", "hinge")},
}


class Size(NamedTuple):
    """What is spent on each loss: students of each configuration, of the best six of them, and of each seed."""

    tried: int
    compared: int
    final: int
    options: Mapping[str, Any] = {"lr_schedule": "linear"}

    @property
    def effort(self) -> Effort:
        """What is spent on each loss; there are no teachers to spend on."""
        rungs = Rung(24, 0, 1, self.tried), Rung(6, 0, 1, self.compared)
        return Effort(student_steps=0, parallel=1, rungs=rungs, points=1, students=1, final_students=self.final)


_MNIST = {"lr_schedule": "linear", "batch_size": 100, "horizon": 400, "steps_per_action": 100, "dev_size": 5000}
_SHORT = {"lr_schedule": "linear", "horizon": 10, "steps_per_action": 10, "dev_size": 100}
SIZES: dict[Preset, dict[str, Size]] = {
    "smoke": {"TeachDigits-v0": Size(1, 1, 2, _SHORT)},
    "laptop": {"TeachDigits-v0": Size(32, 128, 64), "TeachMNIST-v0": Size(1, 2, 2, _MNIST)},
    "paper": {"TeachDigits-v0": Size(128, 512, 256), "TeachMNIST-v0": Size(4, 16, 8, {**_MNIST, "horizon": 2400})},
}
SEEDS: dict[Preset, int] = {"smoke": 1, "laptop": 5, "paper": 10}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks losses`."""

    label_noise: tuple[float, ...] = (0.0, 0.4)
    """Fractions of labels in the pool that are the next class's; each is a task."""


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, tables, figures and page."""
    sizes = SIZES[options.preset]
    contests = [_contest(env, size, noise, options) for env, size in sizes.items() for noise in options.label_noise]
    comparison = Comparison(NAME, contests, options.seeds or SEEDS[options.preset])
    options.execute(
        NAME,
        comparison.stages,
        lambda rows: comparison_report.make("Plain losses compared", comparison.results(rows)),
    )


def _contest(env: str, size: Size, noise: float, options: Options) -> Contest:
    noisy = {"label_noise": noise, "label_noise_kind": "pair", "data_root": options.root}
    setting = Setting(env, {**size.options, **noisy})
    return Contest.of(setting, size.effort, LOSSES, lambda loss: {"learning_rate": RATES})


TABLES: Tables = {"table": lambda rows: comparison_report.make("Plain losses compared", Results.of(rows, LOSSES))}
