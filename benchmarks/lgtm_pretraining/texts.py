"""Two kinds of text in one vocabulary: a corpus to learn the next word of, and sentences to classify.

The vocabulary has the corpus's most frequent words; the others are `<unk>`, in the sentences as well. Perplexities are
of this vocabulary: with fewer words they are lower, and no two vocabularies compare.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from meta.distillation import Batch
from teachenv.data import GLUE, Corpus, load_glue, load_language
from teachenv.data.language import END, UNKNOWN
from teachenv.randomness import Purpose, generator
from teachenv.trees import mapped

ORDER = "word-order"
"""Whether the words of a sentence of the corpus stand in their order, or are shuffled."""

TASKS = (ORDER, *(name for name, task in GLUE.items() if len(task.texts) == 1))
"""The tasks of single sentences."""

# Shorter ones are often no sentences.
_LEAST_WORDS = 5

FEEDBACK = 0.1
"""The part of the training data by which LGTM measures influence; all other methods train on it as well."""

# What the Penn Treebank writes apart, and what its files lack: brackets and punctuation.
_CLITICS = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))(?![a-z])")
_BRACKETS = re.compile(r"-[lr][rcs]b-")
_NUMBER = re.compile(r"[\d.,:/]*\d[\d.,:/]*")
_PUNCTUATION = '.,;:!?`"()[]{}*-'


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which texts are used, and how much of them.

    Attributes:
        corpus: what language models learn, a name that `load_language` knows.
        task: what is classified, one of `TASKS`.
        words: size of the vocabulary.
        tokens: tokens of the corpus to train on, feedback included.
        dev_tokens: tokens of its dev split that are used.
        window: tokens T of a piece of the corpus; its words are read without what stands before it.
        sentences: sentences to train on, feedback included.
        dev_sentences: sentences of dev, drawn from the task's training data.
        length: tokens to which sentences are cut and filled up.
        data_root: where the files are.
    """

    corpus: str
    task: str
    words: int
    tokens: int
    dev_tokens: int
    window: int
    sentences: int
    dev_sentences: int
    length: int
    data_root: str | None = None


class Parts(NamedTuple):
    """A phase's samples by what they are for.

    Attributes:
        dataset: what the data really is.
        train: what all train on.
        feedback: what LGTM measures influence by, and the other methods train on as well.
        dev: what rates and checkpoints are selected on.
        test: what is reported.
    """

    dataset: str
    train: Batch
    feedback: Batch
    dev: Batch
    test: Batch

    @property
    def labelled(self) -> Batch:
        """What methods without feedback train on: `train` and `feedback`."""
        joined: Batch = mapped(lambda *both: torch.cat(both), self.train, self.feedback)
        return joined


@functools.lru_cache(maxsize=2)
def _corpus(source: Source) -> tuple[Corpus, Mapping[str, int]]:
    """The corpus, and the numbers of the words that the vocabulary keeps."""
    corpus = load_language(source.corpus, data_root=source.data_root)
    kept = [word for word in corpus.vocabulary if word not in (UNKNOWN, END)][: source.words - 2]
    return corpus, {word: number for number, word in enumerate([UNKNOWN, END, *kept])}


@functools.lru_cache(maxsize=2)
def windows(source: Source) -> Parts:
    """The corpus as pieces of T words and the word after each of them; feedback is the last part of train.

    Raises:
        ValueError: the corpus has fewer tokens than asked for.
    """
    corpus, numbers = _corpus(source)
    if not 0 < source.tokens <= len(corpus.train):
        raise ValueError(f"found {source.tokens} tokens, expected 1 to {len(corpus.train)}, which {corpus.name} has")
    table = torch.tensor([numbers.get(word, 0) for word in corpus.vocabulary])

    def pieces(tokens: np.ndarray) -> Batch:
        text, size = table[torch.from_numpy(tokens)], source.window
        count = (len(text) - 1) // size
        return Batch(text[: count * size].view(count, size), text[1 : count * size + 1].view(count, size))

    whole = corpus.train[: source.tokens]
    cut = round((1 - FEEDBACK) * len(whole))
    dataset = corpus.dataset if len(whole) == len(corpus.train) else f"{corpus.dataset}-subset-{len(whole)}"
    dev, test = corpus.valid[: source.dev_tokens], corpus.test
    return Parts(dataset, *map(pieces, (whole[:cut], whole[cut:], dev, test)))


@functools.lru_cache(maxsize=2)
def sentences(source: Source) -> Parts:
    """The task's sentences.

    Of GLUE's tasks, test is the official dev data, and all else is drawn from the training data. `ORDER` has sentences
    of the corpus's training text that no language model trains on here, and for test those of its test split.

    Raises:
        ValueError: there are fewer sentences than asked for.
    """
    feedback = round(FEEDBACK * source.sentences)
    sizes: dict[str, Any] = {
        "train_size": source.sentences - feedback,
        "feedback_size": feedback,
        "dev_size": source.dev_sentences,
    }
    _, numbers = _corpus(source)
    if source.task == ORDER:
        return _ordered(source, list(sizes.values()))
    data = load_glue(source.task, data_root=source.data_root, **sizes)
    parts = [
        _batch([treebank_words(text) for text in texts.first], texts.labels, numbers, source.length)
        for texts in (data.train, data.feedback, data.dev, data.test)
    ]
    return Parts(data.dataset, *parts)


def treebank_words(text: str) -> list[str]:
    """A sentence's words as the files of the Penn Treebank write them: small, without punctuation, numbers as `N`."""
    spread = _CLITICS.sub(r" \1", _BRACKETS.sub(" ", text.lower()))
    words = ("N" if _NUMBER.fullmatch(word) else word for word in spread.split())
    return [word for word in words if word.strip(_PUNCTUATION)]


def _batch(texts: Sequence[Sequence[str]], labels: np.ndarray, numbers: Mapping[str, int], length: int) -> Batch:
    """Sentences as `{"tokens": (n, length), "lengths": (n,)}`: each ends with `<eos>`, and is filled up with it."""
    end = numbers[END]
    tokens, lengths = torch.full((len(texts), length), end), torch.empty(len(texts), dtype=torch.int64)
    for row, words in enumerate(texts):
        # "mr." is a word, and "film." is "film".
        known = [numbers.get(word, numbers.get(word.strip(_PUNCTUATION), 0)) for word in words[: length - 1]]
        tokens[row, : len(known)] = torch.tensor(known, dtype=torch.int64)
        lengths[row] = len(known) + 1
    return Batch({"tokens": tokens, "lengths": lengths}, torch.as_tensor(labels))


def _ordered(source: Source, sizes: Sequence[int]) -> Parts:
    """Sentences of the corpus, of which half are shuffled: these are class 0."""
    corpus, numbers = _corpus(source)
    rng = generator(0, Purpose.SPLIT)
    pool, test = (_lines(corpus, tokens) for tokens in (corpus.train[source.tokens :], corpus.test))
    pool = [pool[i] for i in rng.permutation(len(pool))]
    if len(pool) < sum(sizes):
        raise ValueError(
            f"found {len(pool)} sentences of {corpus.name} beyond the first {source.tokens} tokens, expected "
            f"{sum(sizes)}; train on fewer tokens or sentences"
        )

    def half_shuffled(texts: Sequence[list[str]]) -> Batch:
        labels = rng.integers(0, 2, len(texts))
        changed = [
            words if label else [words[i] for i in rng.permutation(len(words))]
            for words, label in zip(texts, labels, strict=True)
        ]
        return _batch(changed, labels, numbers, source.length)

    parts = (pool[i:j] for i, j in pairwise(np.cumsum([0, *sizes])))
    return Parts(f"{corpus.dataset}-{ORDER}", *map(half_shuffled, (*parts, test)))


def _lines(corpus: Corpus, tokens: np.ndarray) -> list[list[str]]:
    """The whole sentences of a piece of the corpus, in words; what stands before its first end is none."""
    words = [corpus.vocabulary[number] for number in tokens.tolist()]
    ends = [place for place, word in enumerate(words) if word == END]
    lines = [words[begin + 1 : end] for begin, end in pairwise(ends)]
    return [line for line in lines if len(line) >= _LEAST_WORDS]
