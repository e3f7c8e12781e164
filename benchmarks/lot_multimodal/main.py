"""The command `python -m benchmarks lot_multimodal`: which pairs are matched, and by which ways to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from benchmarks.lot import report
from benchmarks.lot.methods import LOT
from benchmarks.lot.regularisers import Comparison, Regime, Regulariser, regularisers
from benchmarks.lot.sizes import lot_of
from benchmarks.lot_multimodal.problem import PairProblem
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from teachenv.experiment.rows import judging

NAME = "lot_multimodal"

_SHARES = Fraction(1, 4), Fraction(1, 16)
_RATES = (3e-4, 1e-3, 3e-3)
# Less than where classes are learned: two untrained towers hold each other back for longer.
_ALPHAS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_BATCH = 100


class Size(NamedTuple):
    """What a preset trains, and for how long.

    Attributes:
        task: where the images are from.
        width: channels of the towers' first convolution.
        epochs: how many the model trains.
        seeds: repetitions.
        pairs: training pairs.
        held: validation pairs, with captions as wrong as theirs.
        rates: of Adam, which are tried.
    """

    task: Literal["cifar10", "synthetic"]
    width: int
    epochs: int
    seeds: int
    pairs: int
    held: int
    rates: tuple[float, ...] = _RATES


SIZES: Mapping[Preset, Size] = {
    "smoke": Size("synthetic", 4, 1, 1, 100, 100, _RATES[1:2]),
    "laptop": Size("cifar10", 16, 40, 5, 2_000, 1_000),
    "paper": Size("cifar10", 64, 100, 10, 15_000, 5_000),
}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks lot_multimodal`."""

    methods: tuple[str, ...] | None = None
    """Which ways to train: teacher-only, teacher-only:total-steps, weight-decay, dropout, label-smoothing,
    weight-average, dml, self-distillation, lot, lot:size-1/4, lot:size-1/16; by default all."""

    task: Literal["cifar10", "synthetic"] | None = None
    """Images: cifar10, synthetic (made here); by default the preset's."""

    train_size: int | None = None
    """Pairs to learn from; by default what the preset says."""

    epochs: int | None = None
    """Epochs of the model; by default what the preset says."""

    label_noise: float = 0.4
    """Share of pairs whose caption names another class, in training and validation data."""

    def __post_init__(self) -> None:
        """Checks the share of wrong captions, beside what all benchmarks check.

        Raises:
            ValueError: it is no number from 0 up to 1.
        """
        super().__post_init__()
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"found --label-noise {self.label_noise:g}, expected a share from 0 up to 1, such as 0.4")

    def _names(self) -> Names:
        return {"method": (self.methods, compared())}


def compared() -> dict[str, Regulariser]:
    """What is compared, by name: the regularisers of the other benchmarks, and LoT with smaller students."""
    lines = regularisers(_ALPHAS, (1,))
    # Its students would learn from the captions, too; in mutual learning they do.
    del lines["lot:labels"]
    return lines | {lot_of(share): Regulariser(LOT, "alpha", _ALPHAS, float(share)) for share in _SHARES}


def regimes(options: Options) -> dict[str, Regime]:
    """What is learned, by the task's name in rows."""
    size = SIZES[options.preset]
    task, pairs = options.task or size.task, options.train_size or size.pairs
    problem = PairProblem(
        task,
        f"two-towers-{size.width}",
        None,
        {"pool_size": pairs + size.held},
        epochs=options.epochs or size.epochs,
        learning_rate=1e-3,
        optimizer_name="adam",
        weight_decay=0.0,
        batch_size=min(_BATCH, pairs),
        augment=False,
        valid_size=size.held / (pairs + size.held),
        label_noise=options.label_noise,
        data_root=options.root,
    )
    wrong = f"-wrong-{100 * options.label_noise:g}" if options.label_noise else ""
    return {f"{task}-pairs-{pairs}{wrong}": Regime(problem, {"adam": size.rates}, size.seeds)}


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, table and figures."""
    comparison = Comparison(NAME, regimes(options), compared(), options.methods, options.seeds)
    options.execute(
        NAME,
        comparison.stages,
        lambda rows: report.of_regularisers(comparison.shown(rows), NAME, tuple(comparison.compared)),
    )


TABLES: Tables = {"table": lambda rows: report.of_regularisers(judging(rows), NAME, tuple(compared()))}
