"""Words or pieces of words as numbers."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from teachenv.data.reading import read_bytes
from teachenv.data.root import candidate_roots
from teachenv.errors import DatasetUnavailable
from teachenv.files import whole_file
from teachenv.optional import needed_for

PAD, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")


class Vocabulary:
    """Texts to numbers and back; the first four numbers are padding, an unknown word, a text's begin and its end.

    Args:
        tokens: all tokens, special ones first.
        tokenizer: a tokenizer of the package tokenizers, for pieces of words; None: words between blanks.
    """

    def __init__(self, tokens: Sequence[str], tokenizer: Any = None) -> None:
        self.tokens, self._tokenizer = tuple(tokens), tokenizer
        self._numbers = {token: number for number, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        """The number of tokens, the four special ones included."""
        return len(self.tokens)

    @property
    def digest(self) -> str:
        """A name for its content: two vocabularies with the same one number tokens alike."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """A text's numbers, without begin and end."""
        if self._tokenizer is not None:
            numbers: list[int] = self._tokenizer.encode(text).ids
        else:
            numbers = [self._numbers.get(word, UNKNOWN) for word in text.split()]
        # A text that writes "<eos>" itself does not end there.
        return [UNKNOWN if number < len(SPECIAL) else number for number in numbers]

    def decode(self, numbers: Iterable[int], unknown: str = SPECIAL[UNKNOWN]) -> str:
        """The text of numbers up to the first end; padding and begin are left out.

        Args:
            numbers: token numbers.
            unknown: what stands for an unknown word.
        """
        tokens = []
        for number in numbers:
            if number == END:
                break
            if number not in (PAD, BEGIN):
                tokens.append(unknown if number == UNKNOWN else self.tokens[number])
        if self._tokenizer is not None:
            text: str = self._tokenizer.decoder.decode(tokens)
            return text
        return " ".join(tokens)


def words_of(texts: Iterable[str]) -> Vocabulary:
    """All words of texts, frequent ones first; what a text writes as one of the special tokens is an unknown word."""
    counts = Counter(word for text in texts for word in text.split() if word not in SPECIAL)
    return Vocabulary([*SPECIAL, *sorted(counts, key=lambda word: (-counts[word], word))])


def pieces_of(texts: Sequence[str], size: int) -> Vocabulary:
    """A byte-pair encoding of texts (Sennrich et al. 2016), kept in the user's cache once it is made.

    Pieces that begin a word carry a "▁", so that decoding gives back a text's blanks.

    Args:
        texts: what the encoding is learned from.
        size: tokens, special ones included; there may be fewer if the texts have no more.

    Raises:
        DatasetUnavailable: the kept one is damaged, or is one of other texts.
        ModuleNotFoundError: the package tokenizers is not installed.
        ValueError: a size that leaves no room for a piece.
    """
    if size <= len(SPECIAL):
        raise ValueError(f"found a vocabulary of {size}, expected more than the {len(SPECIAL)} special tokens")
    with needed_for("a vocabulary of pieces of words"):
        import tokenizers
    sums = hashlib.sha256(f"{tokenizers.__version__} {size}\n".encode())
    for text in texts:
        sums.update(text.encode() + b"\n")
    digest = sums.hexdigest()[:24]
    path = candidate_roots()[-1] / "bpe" / f"{digest}.kept.json"
    if os.path.exists(path):
        tokenizer = tokenizers.Tokenizer.from_str(_kept(path, digest))
    else:
        tokenizer = _trained(tokenizers, texts, size)
        _keep(path, digest, tokenizer.to_str())
    return Vocabulary([str(tokenizer.id_to_token(number)) for number in range(tokenizer.get_vocab_size())], tokenizer)


def _trained(tokenizers: Any, texts: Sequence[str], size: int) -> Any:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _kept(path: Path, of: str) -> str:
    """What `_keep` wrote, compared with what it should be."""
    try:
        record = json.loads(read_bytes(path))
        encoding, digest = str(record["encoding"]), record["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise _unusable(path, f"it is no byte-pair encoding that was kept whole ({error!r})") from error
    if digest != _digest(encoding):
        raise _unusable(path, "its content is not what was written")
    if record.get("of") != of:
        raise _unusable(path, "it belongs to other texts")
    return encoding


def _unusable(path: Path, problem: str) -> DatasetUnavailable:
    return DatasetUnavailable(f"{path} is damaged or foreign: {problem}; delete it, it is made again")


def _keep(path: Path, of: str, encoding: str) -> None:
    record = {"of": of, "sha256": _digest(encoding), "encoding": encoding}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(record), "utf-8")
    except OSError as error:
        warnings.warn(f"the byte-pair encoding could not be kept in {path} ({error}); it is made again", stacklevel=3)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
