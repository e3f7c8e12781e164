"""Language modelling: the next word of texts that are read side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from benchmarks.lot.problem import Batch, Problem, Reader, Reading, Role, Split, nearest_width, parameters_of
from teachenv.data import Corpus, columns, load_language
from teachenv.randomness import Purpose, generator
from teachenv.students.language import LanguageModel, make_language_model

# Texts side by side in an evaluation; the first words of each have no context.
_EVALUATION_BATCH = 10

Piece = tuple[bool, torch.Tensor]
"""(whether it is of the students' own order of reading, word numbers (T, B))."""


@functools.lru_cache(maxsize=1)
def _corpus(name: str, data_root: str | None, train_size: int | None, words: int | None) -> Corpus:
    return load_language(name, data_root=data_root, train_size=train_size, words=words)


class TextReader(Reader):
    """Carries what each network remembers, apart for the two orders of reading."""

    def __init__(self) -> None:
        self._networks: list[nn.Module] = []
        self._states: dict[tuple[int, bool], Any] = {}

    def __call__(self, network: nn.Module, inputs: Piece) -> Reading:
        """A language model's outputs, given what it has read before."""
        for_students, tokens = inputs
        if not any(network is known for known in self._networks):
            self._networks.append(network)
        key = (next(i for i, known in enumerate(self._networks) if known is network), for_students)
        spoken = network(tokens, self._states.get(key))
        self._states[key] = spoken.state
        return Reading(spoken.logits, spoken.penalty)

    def state(self) -> Any:
        """What each network remembers."""
        return dict(self._states)

    def load(self, state: Any) -> None:
        """Goes on from a `state`."""
        self._states = dict(state)


@dataclass(frozen=True)
class LanguageProblem(Problem):
    """A corpus and how it is learned.

    Attributes:
        corpus: a name that `load_language` knows.
        model: the teacher, a name in `LANGUAGE_MODELS`.
        options: the options of the teacher's network.
        student: likewise the students' model; None: the teacher's.
        student_options: the options of the students' networks; None: the teacher's.
        batch_size: number B of texts that are read side by side.
        bptt: number T of words in a piece of text.
        train_size: how many training tokens are used; None: all.
    """

    corpus: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    student: str | None = None
    student_options: Mapping[str, Any] | None = None
    momentum: float = field(default=0.3, kw_only=True)
    batch_size: int = 20
    bptt: int = 35
    train_size: int | None = None

    metric: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False
    nesterov: ClassVar[bool] = False

    @property
    def data(self) -> Corpus:
        """The corpus, read once in a process."""
        return _corpus(self.corpus, self.data_root, self.train_size, None)

    @property
    def dataset(self) -> str:
        """What the data really is."""
        return self.data.dataset

    @property
    def title(self) -> str:
        """The teacher's network in words."""
        return " ".join([self.model, *(f"{name} {value}" for name, value in self.options.items())])

    def with_students(self, share: float) -> Problem:
        """The problem with students of the model's kind and a share of its parameters; widths keep their ratios."""
        widths = {name: self.options[name] for name in ("embedding", "width", "inner") if name in self.options}
        model_width, words = self.options["width"], len(self.data.vocabulary)

        def options(width: int) -> dict[str, Any]:
            return {
                **self.options,
                **{name: max(1, round(value * width / model_width)) for name, value in widths.items()},
            }

        def parameters(width: int) -> int:
            with torch.device("meta"):
                network = make_language_model(self.model, words, **options(width))
            return parameters_of(network)

        width = nearest_width(parameters, model_width, share)
        return replace(self, student=None, student_options=None if width == model_width else options(width))

    def changed(self, options: Mapping[str, Any]) -> Problem:
        """The problem with other options; dropout is one of the networks'."""
        of_networks = {name: value for name, value in options.items() if name == "dropout"}
        others = {name: value for name, value in options.items() if name not in of_networks}
        return super().changed({**others, "options": {**self.options, **of_networks}})

    def network(self, role: Role) -> nn.Module:
        """Makes a network, initialised from torch's global generator."""
        words = len(self.data.vocabulary)
        if role == "student" and (self.student or self.student_options is not None):
            options = self.student_options if self.student_options is not None else {}
            return make_language_model(self.student or self.model, words, **options)
        return make_language_model(self.model, words, **self.options)

    @functools.cached_property
    def _train(self) -> torch.Tensor:
        return torch.from_numpy(columns(self.data.train, self.batch_size))

    @property
    def steps(self) -> int:
        """The number of minibatches in an epoch."""
        return max(1, (len(self._train) - 1) // self.bptt)

    def batch(self, seed: int, step: int, *, for_students: bool) -> Batch:
        """The next piece of text; the students' own reading begins elsewhere and goes round without an end."""
        text = self._train
        if for_students:
            begin = int(generator(seed, Purpose.BATCHES).integers(len(text)))
            place = (begin + step * self.bptt + torch.arange(self.bptt + 1)) % len(text)
        else:
            place = (step % self.steps) * self.bptt + torch.arange(min(self.bptt + 1, len(text)))
        piece = text[place]
        return (for_students, piece[:-1]), piece[1:]

    def read(self, network: nn.Module, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The logits (T, B, words) of a network that reads a split, and the next words (T, B), piece by piece."""
        assert isinstance(network, LanguageModel)
        tokens: np.ndarray = getattr(self.data, split)
        text, state = torch.from_numpy(columns(tokens, _EVALUATION_BATCH)), None
        network.eval()
        for start in range(0, len(text) - 1, self.bptt):
            stop = min(start + self.bptt, len(text) - 1)
            spoken = network(text[start:stop], state)
            state = spoken.state
            yield spoken.logits, text[start + 1 : stop + 1]

    def evaluate(self, network: nn.Module, split: Literal["valid", "test"]) -> float:
        """Perplexity over all words of a split but the first of each column."""
        total, count = 0.0, 0
        with torch.no_grad():
            for logits, targets in self.read(network, split):
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
                total, count = total + float(loss), count + targets.numel()
        return math.exp(min(total / count, 50.0))

    def reader(self) -> Reader:
        """Makes the reader, which carries what networks remember."""
        return TextReader()


@dataclass(frozen=True)
class FrequentWords(LanguageProblem):
    """A corpus of the most frequent words, in which all others are one, and a part of the validation text is used.

    Attributes:
        words: how many, with the unknown one, which all others are.
        valid_size: how many tokens of the validation text are used, from its beginning.
    """

    words: int = field(default=1000, kw_only=True)
    valid_size: int = field(default=15_000, kw_only=True)

    @property
    def data(self) -> Corpus:
        """The corpus, read once in a process."""
        whole = _corpus(self.corpus, self.data_root, self.train_size, self.words)
        return replace(whole, valid=whole.valid[: self.valid_size])
