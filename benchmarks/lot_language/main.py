"""The command `python -m benchmarks lot_language`: which models learn which texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from benchmarks.lot import main as lot
from benchmarks.lot.main import Presets, StudyOptions, Tuned
from benchmarks.lot.methods import LOT, Method
from benchmarks.lot.regularisers import Regime
from benchmarks.lot_language.problem import FrequentWords, LanguageProblem
from benchmarks.options import Names, Tables
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

# (α, N, epochs) of each; its students see labels, and have α on their KL.
_RECIPES: Mapping[str, tuple[float, int, int]] = {
    "ptb-lstm": (1.0, 5, 60),
    "ptb-transformer-xl": (0.5, 5, 10),
    "wikitext-103-lstm": (0.1, 4, 3),
    "wikitext-103-transformer-xl": (0.1, 4, 4),
}

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
EPOCHS: Mapping[Presets, int] = {"smoke": 8, "laptop": 4}
SEEDS: Mapping[Presets, int] = {"smoke": 1, "laptop": 3, "released": 3, "paper": 3}

# Words of which a model of 2 x 100 units memorises many, and the rates that are tried there.
_OVERFITTING: Mapping[Presets, tuple[int, ...]] = {"smoke": (800,), "laptop": (30_000,), "paper": (30_000, 100_000)}
_RATES: Mapping[str, tuple[float, ...]] = {"adam": (1e-3, 3e-3, 1e-2), "sgd": (3.0, 7.0, 15.0)}


@dataclass(frozen=True)
class Options(StudyOptions):
    """Options of `python -m benchmarks lot_language`."""

    model: tuple[Model, ...] = ("lstm",)
    """Teacher, whose kind students are of: lstm, awd-lstm, transformer-xl; the preset says how large."""

    corpus: str | None = None
    """ptb, wikitext-2, wikitext-103, or numbers (made here); by default ptb, in the smoke preset numbers."""

    def recipes(self) -> Mapping[str, Method]:
        """The released code's recipes by task, in the preset that trains by them."""
        if self.preset != "released":
            return {}
        recipes = {task: (alpha, steps) for task, (alpha, steps, _) in _RECIPES.items()}
        return {
            task: replace(LOT, alpha=alpha, student_steps=steps, labels=True)
            for task, (alpha, steps) in recipes.items()
        }

    def _names(self) -> Names:
        return {**super()._names(), "corpus": (None if self.corpus is None else [self.corpus], LANGUAGE)}


def problems(options: Options) -> dict[str, LanguageProblem]:
    """The problems that the options ask for, by the names of the tasks.

    Raises:
        ValueError: the released code has no recipe for one of them, and the preset is its.
    """
    preset = options.preset
    corpus = options.corpus or ("numbers" if preset == "smoke" else "ptb")
    chosen = {}
    for model in options.model:
        problem = SETTINGS.get(f"{corpus}-{model}", SETTINGS[model])
        if preset == "released":
            if f"{corpus}-{model}" not in _RECIPES:
                known = ", ".join(_RECIPES)
                raise ValueError(
                    f"found --model {model} and the corpus {corpus} with --preset released, expected one of the "
                    f"released recipes: {known}"
                )
            problem = replace(problem, epochs=_RECIPES[f"{corpus}-{model}"][2])
        elif preset != "paper":
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
        if options.optimizer not in (None, problem.optimizer_name):
            problem = replace(problem, optimizer_name=options.optimizer, learning_rate=_RATES[options.optimizer][1])
        chosen[f"{corpus}-{model}"] = replace(problem, epochs=options.epochs or problem.epochs)
    return chosen


def regimes(options: Options, study: Tuned) -> dict[str, Regime]:
    """Where models overfit, by the task's name in rows: few words, and no dropout; options narrow it."""
    if study == "sizes" and options.preset != "paper":
        return _sized(options)
    preset = options.preset
    corpus = options.corpus or ("numbers" if preset == "smoke" else "ptb")
    few = 1 if preset == "smoke" else None
    rates = {name: _RATES[name][:few] for name in _RATES if options.optimizer in (None, name)}
    chosen = {}
    for tokens in (options.train_size,) if options.train_size else _OVERFITTING[preset]:
        problem = replace(
            _LSTM,
            corpus=corpus,
            data_root=options.root,
            train_size=tokens,
            epochs=options.epochs or (1 if preset == "smoke" else 40),
            options={"width": 16 if preset == "smoke" else 100, "layers": 2, "dropout": 0.0},
            clip=0.25,
        )
        chosen[f"{corpus}-{tokens}"] = Regime(problem, rates, 1 if preset == "smoke" else 5)
    return chosen


def _sized(options: Options) -> dict[str, Regime]:
    """Where students of several sizes are compared: 1,000 words in small minibatches, for which minutes are enough."""
    smoke, tokens = options.preset == "smoke", options.train_size or (800 if options.preset == "smoke" else 10_000)
    corpus = options.corpus or ("numbers" if smoke else "ptb")
    problem = FrequentWords(
        corpus,
        "lstm",
        {"width": 16 if smoke else 100, "layers": 2, "dropout": 0.0},
        epochs=options.epochs or (1 if smoke else 25),
        learning_rate=1e-3,
        clip=0.25,
        batch_size=10,
        bptt=20,
        train_size=tokens,
        data_root=options.root,
        words=20 if smoke else 1000,
    )
    optimizer = options.optimizer or "adam"
    rates: dict[str, Sequence[float]] = {optimizer: _RATES[optimizer][1 : 2 if smoke else 3]}
    return {f"{corpus}-{tokens}": Regime(problem, rates, 1 if smoke else 5)}


def run(options: Options) -> None:
    """Runs what the folder does not hold yet; writes rows, tables and figures."""
    # The tables show all models, whichever this command trains.
    asked, corpus = problems(options), options.corpus or "ptb"
    models = [m for m in get_args(Model) if options.preset != "released" or f"{corpus}-{m}" in _RECIPES]
    shown = problems(replace(options, model=tuple(models)))
    seeds = options.seeds or SEEDS[options.preset]
    lot.run(NAME, options, asked, seeds, lambda study: regimes(options, study), shown)


TABLES: Tables = lot.tables(NAME)
