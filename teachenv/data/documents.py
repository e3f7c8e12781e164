"""Documents of several domains in one vocabulary: texts from their files, and Markov chains, made here.

A document is a window of a text, L + 1 tokens; windows that follow each other share one token, so that each token but
the first is predicted once. Texts are brought to one form, that of the Penn Treebank without its marks: small letters,
no punctuation, `<number>` for whatever has a digit, `<eos>` at the end of each line that has a word. Perplexities of
such text are not comparable with published ones.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teachenv.data.language import END as LINE_END
from teachenv.data.language import load_words
from teachenv.data.root import ENVIRONMENT_VARIABLE
from teachenv.data.translation import load_translation
from teachenv.data.vocabulary import SPECIAL, UNKNOWN, Vocabulary
from teachenv.errors import unknown_name
from teachenv.randomness import Purpose, generator

Tokens = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
TEXTS = ("ptb", "wikitext-2", "wikitext-2-valid", "multi30k")
CHAINS = ("target", "near", "far")

_NUMBER = "<number>"
_WORD = re.compile(r"'?[^\W\d_]+(?:'[^\W\d_]+)*")
_CHAIN_WORDS, _CHAIN_DOCUMENTS = 60, {"train": 6_000, "valid": 1_000, "test": 1_000}
# How sharply a chain chooses the next word: the standard deviation of the logits of its transitions.
_SHARPNESS, _NEARNESS = 2.0, 0.7


@dataclass(frozen=True)
class Documents:
    """Documents of several domains.

    Attributes:
        dataset: what the data really is.
        vocabulary: the words.
        parts: by domain and then by part (`"train"`, `"valid"`, `"test"`) documents, (n, L + 1) int64; of a domain that
            is not the target the training part alone.
    """

    dataset: str
    vocabulary: Vocabulary
    parts: Mapping[str, Mapping[str, Tokens]]


def chain_documents(names: Sequence[str], target: str, length: int) -> Documents:
    """Documents of Markov chains of order 1 over the same 60 words, made here: procedural data, not language.

    The logits of a chain's transitions are drawn from a normal distribution of standard deviation 2. Those of `"near"`
    are 0.7 times those of `"target"` and 0.71 times others; `"far"` has its own.

    Args:
        names: which of `CHAINS`.
        target: the domain that has all parts.
        length: L.

    Raises:
        ValueError: an unknown name.
    """
    vocabulary = Vocabulary([*SPECIAL, *(f"w{word}" for word in range(_CHAIN_WORDS))])
    parts = {
        name: {part: _chain(name, part, length) for part in (PARTS if name == target else PARTS[:1])}
        for name in (_known(name, CHAINS) for name in names)
    }
    return Documents("chains", vocabulary, parts)


@functools.lru_cache(maxsize=32)  # only read by callers
def _chain(name: str, part: str, length: int) -> Tokens:
    """Documents that begin at any word."""
    cumulative = np.cumsum(_transitions(name), 1)
    rng = generator(1 + 10 * CHAINS.index(name) + PARTS.index(part), Purpose.SPLIT)
    words = np.empty((_CHAIN_DOCUMENTS[part], length + 1), dtype=np.int64)
    words[:, 0] = rng.integers(0, _CHAIN_WORDS, len(words))
    for place, uniform in enumerate(rng.random((length, len(words))), start=1):
        words[:, place] = (cumulative[words[:, place - 1]] < uniform[:, None]).sum(1).clip(max=_CHAIN_WORDS - 1)
    return words + len(SPECIAL)


def _transitions(name: str) -> npt.NDArray[np.float64]:
    """The probabilities of the next word after each word, (words, words)."""
    of_target, of_near, of_far = generator(0, Purpose.SPLIT).normal(size=(3, _CHAIN_WORDS, _CHAIN_WORDS))
    near = _NEARNESS * of_target + (1 - _NEARNESS**2) ** 0.5 * of_near
    chances = np.exp(_SHARPNESS * {"target": of_target, "near": near, "far": of_far}[name])
    probabilities: npt.NDArray[np.float64] = chances / chances.sum(1, keepdims=True)
    return probabilities


def text_documents(
    names: Sequence[str],
    target: str,
    length: int,
    vocabulary_size: int,
    data_root: str | os.PathLike[str] | None = None,
) -> Documents:
    """Documents of texts from their files.

    The vocabulary is of the words that are most frequent in the training texts of all domains, each domain counting as
    much as the others.

    Args:
        names: which of `TEXTS`: the Penn Treebank, WikiText-2, its validation text alone in the place of a training
            text, and the English side of Multi30k.
        target: the domain that has all parts.
        length: L.
        vocabulary_size: words, the four special tokens included.
        data_root: where the files are; None: the usual places (see `teachenv.data.root`).

    Raises:
        DatasetUnavailable: files cannot be had.
        ValueError: an unknown name, or a target without texts to validate and test on.
    """
    if target == "wikitext-2-valid":
        raise ValueError(
            "target='wikitext-2-valid' has no text to test on; take 'wikitext-2', or another of the domains as target"
        )
    root, place = None if data_root is None else str(data_root), os.environ.get(ENVIRONMENT_VARIABLE)
    texts, names_read = {}, []
    for name in (_known(name, TEXTS) for name in names):
        texts[name], dataset = _text(name, PARTS if name == target else PARTS[:1], root, place)
        names_read.append(dataset)
    frequency: dict[str, float] = {}
    for words in (text["train"] for text in texts.values()):
        for word, count in Counter(words).items():
            frequency[word] = frequency.get(word, 0.0) + count / len(words)
    for special in (*SPECIAL, LINE_END):
        frequency.pop(special, None)
    frequent = sorted(frequency, key=lambda word: (-frequency[word], word))[: vocabulary_size - len(SPECIAL)]
    vocabulary = Vocabulary([*SPECIAL, *frequent])
    number = {word: place for place, word in enumerate(vocabulary.tokens)}
    parts = {name: {p: _windows(words, number, length) for p, words in text.items()} for name, text in texts.items()}
    return Documents("+".join(names_read), vocabulary, parts)


def _windows(words: Sequence[str], number: Mapping[str, int], length: int) -> Tokens:
    tokens = np.fromiter((number.get(word, UNKNOWN) for word in words), dtype=np.int64, count=len(words))
    count = max(0, (len(tokens) - 1) // length)
    starts = length * np.arange(count)[:, None]
    windows: Tokens = tokens[starts + np.arange(length + 1)]
    return windows


@functools.lru_cache(maxsize=8)  # comparisons make hundreds of environments, and each would read the same files
def _text(
    name: str, parts: tuple[str, ...], data_root: str | None, place: str | None
) -> tuple[dict[str, list[str]], str]:
    """The words of a text's parts in their common form, only read by callers; and what the data really is.

    Args:
        name: one of `TEXTS`.
        parts: which parts.
        data_root: where the files are; None: the usual places.
        place: what the environment variable says, on which the usual places depend.
    """
    if name == "multi30k":
        pairs = load_translation(name, data_root=data_root)
        lines = {part: getattr(pairs, part).target for part in parts}
        words = {part: [w for line in of_part for w in (*line.split(), LINE_END)] for part, of_part in lines.items()}
        dataset = pairs.dataset
    elif name == "wikitext-2-valid":
        words, dataset = load_words("wikitext-2", ["valid"], data_root=data_root)
        words, dataset = {"train": words["valid"]}, f"{dataset}-valid"
    else:
        words, dataset = load_words(name, parts, data_root=data_root)
    return {part: list(_plain(of_part)) for part, of_part in words.items()}, dataset


def _plain(words: Iterable[str]) -> Iterator[str]:
    """Words in their common form; of ends of lines that follow each other the first."""
    last = LINE_END
    for word in words:
        for form in _forms(word):
            if form != LINE_END or last != LINE_END:
                yield form
            last = form


@functools.lru_cache(maxsize=200_000)
def _forms(word: str) -> tuple[str, ...]:
    if word in (SPECIAL[UNKNOWN], LINE_END):
        return (word,)
    # The Penn Treebank has "N" for numbers.
    if word == "N" or any(sign.isdigit() for sign in word):
        return (_NUMBER,)
    return tuple(_WORD.findall(word.replace(".", "").lower()))


def _known(name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise unknown_name("domain", name, known)
    return name
