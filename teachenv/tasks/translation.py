"""Translation: German to English, each next word of the translation a decision.

Data: `"numbers"`, sums in number words, made here, of whole words; `"multi30k"` and `"iwslt14"`, of pieces of words
(byte pairs, learned from both sides of the training data together). A sample's inputs are (2L,) token numbers: the
source with its end, padded to L, and what stands before each word of the translation. Targets are (L,): the
translation with its end, then `VOID`. Minibatches are of sentences of about one length, and cut to the longest.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from teachenv.bleu import corpus_bleu, references, texts
from teachenv.data.translation import TRANSLATIONS, Lines, Parallel, load_translation
from teachenv.data.vocabulary import BEGIN, END, PAD, Vocabulary, pieces_of, words_of
from teachenv.decoding import by_length, greedy, translated
from teachenv.errors import unknown_name
from teachenv.sequence_losses import drawn_candidates, expected_bleu, log_probabilities
from teachenv.students.translation import Translator
from teachenv.tasks.base import VOID, Task, subset_indices
from teachenv.tasks.measures import Measure, Network
from teachenv.tasks.splits import Split
from teachenv.tasks.tokens import TokenDecisions, TokenMeasure

_PIECES = {"multi30k": 8_000, "iwslt14": 25_000}
# Sentences that are run at once: logits of a thousand have gigabytes.
_CHUNK = 64

OBJECTIVES = ("accuracy", "likelihood", "token-accuracy", "expected-bleu")


def translation(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
    vocabulary_size: int | None = None,
    max_length: int | None = None,
    longer: str = "error",
) -> Task:
    """Makes a translation task. The pool is the training and validation data; sentences of test are translated whole.

    Args:
        data_root: where the files are; None for the usual places (see `teachenv.data.root`).
        dataset: `"numbers"` (the default), `"multi30k"` or `"iwslt14"`.
        pool_size: number of sentence pairs, drawn at random; None for all.
        split_seed: seed of that draw.
        vocabulary_size: pieces of words; None for 8,000 (Multi30k) and 25,000 (IWSLT-14, as in L2T-DLF).
        max_length: number L of tokens that a sentence has at most, its end included; None for the longest's.
        longer: what becomes of pairs of the pool that are longer: `"error"`, or `"drop"`.

    Raises:
        DatasetUnavailable: the files are not on this machine and cannot be downloaded, or do not fit together.
        ImportError: pieces of words are wanted and `tokenizers` is not installed.
        ValueError: an argument is not as above, or a sentence is too long; the message names file and line.
    """
    dataset = "numbers" if dataset is None else dataset
    if dataset not in TRANSLATIONS:
        raise unknown_name("dataset for task 'translation'", dataset, TRANSLATIONS)
    if longer not in ("error", "drop"):
        raise unknown_name("longer", longer, ("error", "drop"))
    if dataset == "numbers":
        if vocabulary_size is not None:
            raise ValueError(f"'numbers' is of whole words, found vocabulary_size={vocabulary_size}; leave it out")
        data, vocabulary, numbered = _numbers()
    else:
        data = load_translation(dataset, data_root=data_root)
        vocabulary = pieces_of(_both_sides(data), _PIECES[dataset] if vocabulary_size is None else vocabulary_size)
        numbered = _all_numbered(data, vocabulary)
    limit = max_length or max(len(side) for pairs in numbered.values() for pair in pairs for side in pair)
    fitting = {
        name: _fitting(getattr(data, name), pairs, limit, longer if name != "test" else "never")
        for name, pairs in numbered.items()
    }
    pool = fitting["train"] + fitting["valid"]
    if pool_size is not None:
        pool = [pool[i] for i in subset_indices(len(pool), pool_size, split_seed)]
    return Task(
        name=f"translation-{dataset}",
        dataset=data.dataset,
        pool=_split(pool, limit),
        test=_split(fitting["test"], limit),
        num_outputs=len(vocabulary),
        decisions=TranslationDecisions(vocabulary),
        lengths=np.array([max(map(len, pair)) for pair in pool]),
        trim=trimmed,
    )


Pair = tuple[list[int], list[int]]


@functools.cache  # comparisons make hundreds of environments, and each would make the same sentences
def _numbers() -> tuple[Parallel, Vocabulary, dict[str, list[Pair]]]:
    """The sums in number words; only read by callers."""
    data = load_translation("numbers")
    vocabulary = words_of(_both_sides(data))
    return data, vocabulary, _all_numbered(data, vocabulary)


def _both_sides(data: Parallel) -> list[str]:
    return [*data.train.source, *data.train.target]


def _all_numbered(data: Parallel, vocabulary: Vocabulary) -> dict[str, list[Pair]]:
    return {name: _numbered(getattr(data, name), vocabulary) for name in ("train", "valid", "test")}


def _numbered(lines: Lines, vocabulary: Vocabulary) -> list[Pair]:
    sides = ([[*vocabulary.encode(text), END] for text in side] for side in (lines.source, lines.target))
    return list(zip(*sides, strict=True))


def _fitting(lines: Lines, pairs: list[Pair], limit: int, longer: str) -> list[Pair]:
    hint = ', or leave such pairs out with longer="drop"' if longer == "error" else ""
    fitting = []
    for number, pair in enumerate(pairs, start=1):
        longest = max(map(len, pair))
        if longest <= limit:
            fitting.append(pair)
        elif longer != "drop":
            file = lines.files[0 if len(pair[0]) == longest else 1]
            raise ValueError(
                f"{file}, line {number}: found a sentence of {longest} tokens with its end, expected at most "
                f"max_length={limit}; raise it{hint}"
            )
    if not fitting:
        raise ValueError(f"{lines.files[0]}: no pair is within max_length={limit}; raise it")
    return fitting


def _split(pairs: Sequence[Pair], limit: int) -> Split:
    inputs = np.full((len(pairs), 2 * limit), PAD, dtype=np.int64)
    targets = np.full((len(pairs), limit), VOID, dtype=np.int64)
    for row, (source, target) in enumerate(pairs):
        inputs[row, : len(source)] = source
        inputs[row, limit : limit + len(target)] = [BEGIN, *target[:-1]]
        targets[row, : len(target)] = target
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def _used(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where either side has a word: (…, L)."""
    return (inputs[..., : targets.shape[-1]] != PAD) | (targets != VOID)


def trimmed(inputs: torch.Tensor, targets: torch.Tensor) -> Split:
    """Both sides cut to the longest sentence: (…, 2L) and (…, L) to (…, 2L') and (…, L')."""
    source, before = inputs.chunk(2, -1)
    longest = int(_used(inputs, targets).flatten(0, -2).any(0).sum())
    return torch.cat([source[..., :longest], before[..., :longest]], -1), targets[..., :longest]


class TranslationMeasure(TokenMeasure):
    """BLEU of greedy translations, over 100, by sacrebleu; and a smooth objective by name.

    `"token-accuracy"`: the mean over tokens of the probability of the right one at temperature τ, the words before it
    given (teacher forcing). `"likelihood"`: minus the mean cross-entropy. `"expected-bleu"`: minimum risk (Shen et al.
    2016): Σ_k q_k BLEU(y_k) over K translations that the student draws, each a constant, with q_k ∝ p(y_k)^α among
    them; BLEU of sentences is smoothed (add one to the n-gram counts). Draws are the same for the same student.

    Args:
        vocabulary: the words that outputs stand for.
        temperature: temperature τ of the softmax.
        objective: name of J, one of the three above.
        candidates: number K of translations that are drawn.
        sharpness: exponent α of the probabilities.
    """

    decodes = True
    score_name = "bleu"

    def __init__(
        self,
        vocabulary: Vocabulary,
        temperature: float = 0.2,
        objective: str = "token-accuracy",
        candidates: int = 8,
        sharpness: float = 0.05,
    ) -> None:
        if objective not in OBJECTIVES:
            raise unknown_name("objective", objective, OBJECTIVES)
        super().__init__(temperature, objective == "likelihood")
        self.vocabulary, self.name = vocabulary, objective
        self.candidates, self.sharpness = candidates, sharpness

    def _mean(
        self,
        of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        network: Network,
        inputs: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """The mean over tokens of what sums over sentences say, without gigabytes of logits at a time."""

        def each(rows: torch.Tensor) -> torch.Tensor:
            x, y = trimmed(inputs[rows], targets[rows])
            return of(network(x), y)

        sums = by_length(_used(inputs, targets).sum(1), each, _CHUNK)
        return sums.sum() / (targets != VOID).sum().clamp(min=1)

    def objective_of(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The objective that was chosen, of a network."""
        if self.name == "expected-bleu":
            return self._expected_bleu(network, inputs, targets)
        return self._mean(self._sums, network, inputs, targets)

    def judge(
        self, network: Network, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The objective, BLEU, and no features."""
        objective = self.objective_of(network, inputs, targets)
        bleu = objective.new_tensor(self.bleu(network, inputs, targets))
        return objective, bleu, objective.new_zeros(0)

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of what `report_of` gives: `bleu` and `token_accuracy`."""
        return ("bleu", "token_accuracy")

    def report_of(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """BLEU of greedy translations over 100, and the accuracy of tokens."""
        return {
            "bleu": self.bleu(network, inputs, targets),
            "token_accuracy": float(self._mean(self._right, network, inputs, targets)),
        }

    def translations(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The network's greedy translations, (n, L)."""
        source = inputs[:, : targets.shape[-1]]
        with network.module() as model:
            assert isinstance(model, Translator)
            # As long as the model can: what is cut off here would depend on the other sentences.
            return translated(functools.partial(greedy, model), source, _CHUNK)

    def bleu(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """BLEU of greedy translations over 100."""
        hypotheses = texts(self.vocabulary, self.translations(network, inputs, targets))
        return corpus_bleu(hypotheses, references(self.vocabulary, targets))

    def _expected_bleu(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        draws = torch.Generator(device=inputs.device).manual_seed(0)
        with network.module() as model:
            assert isinstance(model, Translator)
            candidates = drawn_candidates(model, self.vocabulary, inputs, targets, self.candidates, draws)
        log_p = log_probabilities(network, inputs[:, : targets.shape[1]], candidates.tokens)
        return expected_bleu(log_p.sum(2), candidates, self.sharpness)


class TranslationDecisions(TokenDecisions):
    """Each token of the translation is classified; see `TokenDecisions`."""

    def measure(self, num_classes: int, temperature: float) -> Measure:
        """The measure of translations, a `TranslationMeasure`."""
        return TranslationMeasure(self.vocabulary, temperature)

    def judged_by(self, num_classes: int, temperature: float, objective: str) -> Measure:
        """The measure of translations with one of its own objectives."""
        return TranslationMeasure(self.vocabulary, temperature, objective)
