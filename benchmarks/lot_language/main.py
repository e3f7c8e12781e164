"""The command `python -m benchmarks lot_language`: which models learn which texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from benchmarks.lot.main import StudyOptions, cases, make_report
from benchmarks.lot_language.problem import LanguageProblem
from benchmarks.options import Names, Preset
from teachenv.data import LANGUAGE

NAME = "lot_language"

Model = Literal["lstm", "awd-lstm", "transformer-xl"]

_LSTM = LanguageProblem(
    "ptb", "lstm", {"width": 650, "layers": 2, "dropout": 0.45}, epochs=60, learning_rate=30.0, clip=0.2
)
_TRANSFORMER = LanguageProblem(
    "ptb",
    "transformer-xl",
    {"width": 200, "layers": 4, "heads": 8, "head_width": 20, "inner": 1000, "dropout": 0.25, "memory": 70},
    optimizer_name="adam",
    epochs=60,
    learning_rate=1e-3,
    clip=0.35,
    batch_size=60,
    bptt=70,
)

SETTINGS: Mapping[str, LanguageProblem] = {
    "lstm": _LSTM,
    # Merity et al. 2018; pieces have one length here.
    "awd-lstm": LanguageProblem(
        "ptb",
        "awd-lstm",
        momentum=0.0,
        weight_decay=1.2e-6,
        bptt=70,
        epochs=500,
        learning_rate=30.0,
        clip=0.25,
        schedule="constant",
        patience=5,
    ),
    "transformer-xl": _TRANSFORMER,
    "wikitext-103-lstm": replace(
        _LSTM,
        corpus="wikitext-103",
        epochs=3,
        options={"width": 650, "layers": 2, "dropout": 0.1},
        learning_rate=40.0,
        batch_size=30,
        bptt=100,
    ),
    "wikitext-103-transformer-xl": replace(
        _TRANSFORMER,
        corpus="wikitext-103",
        epochs=4,
        options={
            **_TRANSFORMER.options,
            "width": 410,
            "heads": 12,
            "head_width": 41,
            "inner": 2100,
            "dropout": 0.1,
            "memory": 100,
        },
        clip=0.25,
        batch_size=30,
        bptt=100,
    ),
}
"""The released code's settings, and AWD-LSTM's own."""

# Widths for which an epoch of the Penn Treebank is minutes, not hours.
_SMALL: Mapping[str, dict[str, Any]] = {
    "lstm": {"width": 200, "layers": 2, "dropout": 0.2},
    "awd-lstm": {"embedding": 200, "width": 400, "layers": 2},
    "transformer-xl": {"width": 128, "layers": 2, "heads": 4, "head_width": 32, "inner": 256, "dropout": 0.1},
}
_TINY: Mapping[str, dict[str, Any]] = {
    "lstm": {"width": 48, "layers": 2, "dropout": 0.1},
    "awd-lstm": {"embedding": 24, "width": 48, "layers": 2, "weight_dropout": 0.1},
    "transformer-xl": {"width": 32, "layers": 2, "heads": 2, "head_width": 16, "inner": 64, "memory": 35},
}
EPOCHS: Mapping[Preset, int] = {"smoke": 8, "laptop": 4}
SEEDS: Mapping[Preset, int] = {"smoke": 1, "laptop": 3, "paper": 3}


@dataclass(frozen=True)
class Options(StudyOptions):
    """Options of `python -m benchmarks lot_language`."""

    model: tuple[Model, ...] = ("lstm",)
    """Teacher, whose kind students are of: lstm, awd-lstm, transformer-xl; the preset says how large."""

    corpus: str | None = None
    """ptb, wikitext-2, wikitext-103, or numbers (made here); by default ptb, in the smoke preset numbers."""

    train_size: int | None = None
    """Training tokens; by default all."""

    def _names(self) -> Names:
        return {**super()._names(), "corpus": (None if self.corpus is None else [self.corpus], LANGUAGE)}


def problems(options: Options) -> dict[str, LanguageProblem]:
    """The problems that the options ask for, by the names of the tasks."""
    preset = options.preset
    corpus = options.corpus or ("numbers" if preset == "smoke" else "ptb")
    chosen = {}
    for model in options.model:
        problem = SETTINGS.get(f"{corpus}-{model}", SETTINGS[model])
        if preset != "paper":
            problem = replace(
                problem,
                epochs=EPOCHS[preset],
                options=(_SMALL if preset == "laptop" else _TINY)[model],
                learning_rate=problem.learning_rate if model == "transformer-xl" else 20.0,
                batch_size=20,
                bptt=35,
                patience=None,
                schedule="cosine",
            )
        size = options.train_size or (20_000 if preset == "smoke" else None)
        problem = replace(problem, corpus=corpus, data_root=options.root, train_size=size)
        chosen[f"{corpus}-{model}"] = replace(problem, epochs=options.epochs or problem.epochs)
    return chosen


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    wanted_cases = cases(NAME, options, problems(options), options.seeds or SEEDS[options.preset])
    # Of all models, whichever this command trains.
    shown = problems(replace(options, model=get_args(Model)))
    options.execute(NAME, [lambda session: wanted_cases], partial(make_report, NAME, options, shown))
