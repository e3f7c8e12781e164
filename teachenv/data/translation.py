"""Parallel texts: Multi30k and IWSLT-14 from their files, and number words, made here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teachenv.data.numbers import german_number_words, number_words
from teachenv.data.reading import damaged, honest_name, text_lines
from teachenv.data.root import FileDataset, fetch, find_dataset
from teachenv.errors import DatasetUnavailable, unknown_name
from teachenv.randomness import Purpose, generator

Side = list[str]

TRANSLATIONS = ("numbers", "multi30k", "iwslt14")

_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_MULTI30K_FILES = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
# There are several versions of IWSLT-14's split; this is that of fairseq's script.
_OFFICIAL = {
    "multi30k": {"train pairs": 29_000, "valid pairs": 1_014, "test pairs": 1_000},
    "iwslt14": {"train pairs": 160_239, "valid pairs": 7_283, "test pairs": 6_750},
}
# Marks between the pieces of a word in files that went through subword-nmt.
_SPLIT = "@@ "
# How Moses' tokenizer writes what is a sign to it; BLEU would count "&apos;s" as four words.
_ESCAPES = dict(
    pair.split() for pair in ("&apos; '", '&quot; "', "&lt; <", "&gt; >", "&#91; [", "&#93; ]", "&#124; |", "&amp; &")
)
_ESCAPE = re.compile("|".join(_ESCAPES))
_MADE = {"train": 4_000, "valid": 400, "test": 400}
_SIGNS = {"plus": "plus", "minus": "minus", "mal": "times"}


@dataclass(frozen=True)
class Lines:
    """German sentences and their English translations.

    Attributes:
        source: the German sentences.
        target: their English translations, one for each.
        files: where they come from, for messages: (source, target).
    """

    source: Side
    target: Side
    files: tuple[str, str]

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.source)

    def at(self, indices: np.ndarray) -> Lines:
        """The pairs at the indices, in their order."""
        return Lines([self.source[i] for i in indices], [self.target[i] for i in indices], self.files)


@dataclass(frozen=True)
class Parallel:
    """A parallel text by what its parts are for.

    Attributes:
        name: the corpus's name, as `load_translation` was called with it.
        dataset: what the data really is.
        train: the sentences to learn from.
        valid: the sentences to select on.
        test: the sentences to report on.
    """

    name: str
    dataset: str
    train: Lines
    valid: Lines
    test: Lines


def load_translation(name: str, *, data_root: str | os.PathLike[str] | None = None) -> Parallel:
    """Loads German sentences and their English translations.

    Args:
        name: `"numbers"`: sums in number words, made here, in which German has ones before tens; `"multi30k"` (task 1,
            raw: 29,000, 1,014 and the 1,000 of test 2016); `"iwslt14"`: `{train,valid,test}.{de,en}`, as fairseq's
            script leaves them in `iwslt14.tokenized.de-en` (the marks of subword-nmt and the escapes of Moses are taken
            out).
        data_root: where the files are; None: the usual places (see `teachenv.data.root`).

    Raises:
        DatasetUnavailable: the files cannot be had; or two sides differ in length, or a line is empty or no text.
        ValueError: an unknown name.

    Warns:
        UserWarning: the files have other numbers of pairs than the official ones; `dataset` then says so.
    """
    if name not in TRANSLATIONS:
        raise unknown_name("parallel text", name, TRANSLATIONS)
    if name == "numbers":
        return Parallel(name, name, *_numbers())
    if name == "multi30k":
        names = {split: f"task1/raw/{stem}.{{}}.gz" for split, stem in _MULTI30K_FILES.items()}
        dataset = FileDataset("Multi30k", name, _both(names), _download_multi30k)
    else:
        names = {split: f"iwslt14.tokenized.de-en/{split}.{{}}" for split in _MADE}
        hint = "fairseq's examples/translation/prepare-iwslt14.sh makes them."
        dataset = FileDataset("IWSLT-14 German-English", name, _both(names), hint=hint)
    root = find_dataset(dataset, data_root)
    parts = [
        read_lines(root / file.format("de"), root / file.format("en"), escaped=name == "iwslt14")
        for file in names.values()
    ]
    sizes = {f"{split} pairs": len(part) for split, part in zip(names, parts, strict=True)}
    return Parallel(name, honest_name(name, root, sizes, _OFFICIAL[name]), *parts)


def read_lines(source: Path, target: Path, *, escaped: bool = False) -> Lines:
    """Two files of which line i is the translation of line i; `.gz` files are unpacked.

    Args:
        source: the file of the sentences.
        target: the file of their translations.
        escaped: whether Moses' tokenizer wrote them; its escapes (`&apos;`) are then taken out.

    Raises:
        DatasetUnavailable: a side is missing or damaged, the sides differ in length, or a line is empty or no UTF-8;
            the message names file and line.
    """
    sides = [_read(path, escaped) for path in (source, target)]
    if len(sides[0]) != len(sides[1]):
        raise DatasetUnavailable(
            f"{source} has {len(sides[0])} lines and {target} has {len(sides[1])}: expected as many, each the "
            "translation of the other's; copy two files that belong together there"
        )
    return Lines(sides[0], sides[1], (str(source), str(target)))


def _read(path: Path, escaped: bool) -> Side:
    sentences = []
    for number, line in enumerate(text_lines(path), start=1):
        text = line.replace(_SPLIT, "").strip()
        if escaped:
            text = _ESCAPE.sub(lambda escape: _ESCAPES[escape[0]], text)
        if not text:
            raise DatasetUnavailable(
                f"{path}, line {number}: found an empty line, expected a sentence; remove the line from both sides"
            )
        sentences.append(text)
    if not sentences:
        raise damaged(path, "it has no line")
    return sentences


def _both(names: Mapping[str, str]) -> dict[str, str]:
    return {file.format(side): "" for file in names.values() for side in ("de", "en")}


def _numbers() -> list[Lines]:
    """Sums in number words, no sentence twice, so that what is tested was not trained on."""
    drawn: set[str] = set()
    splits = []
    for index, (split, size) in enumerate(_MADE.items()):
        rng, source, target = generator(index, Purpose.SPLIT), list[str](), list[str]()
        while len(source) < size:
            german, english = _sum(rng)
            if german not in drawn:
                drawn.add(german)
                source.append(german)
                target.append(english)
        splits.append(Lines(source, target, (f"numbers ({split}, German)", f"numbers ({split}, English)")))
    return splits


def _sum(rng: np.random.Generator) -> tuple[str, str]:
    """One to three numbers below 1,000 with signs between them, in German and in English."""
    signs, german, english = list(_SIGNS), list[str](), list[str]()
    for place, number in enumerate(rng.integers(0, 1000, rng.integers(1, 4)).tolist()):
        if place:
            sign = signs[rng.integers(len(signs))]
            german.append(sign)
            english.append(_SIGNS[sign])
        german.append(german_number_words(number))
        english.append(number_words(number))
    return " ".join(german), " ".join(english)


def _download_multi30k(directory: Path) -> None:
    for stem in _MULTI30K_FILES.values():
        for side in ("de", "en"):
            fetch(f"{_MULTI30K}/{stem}.{side}.gz", directory / "task1" / "raw")
