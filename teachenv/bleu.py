"""BLEU of translations that are given as token numbers, by sacrebleu, as a fraction."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from teachenv.data.vocabulary import END, PAD, Vocabulary
from teachenv.optional import needed_for
from teachenv.tasks.base import VOID

with needed_for("translation"):
    import sacrebleu

# What stands for a word that the vocabulary lacks: one token for sacrebleu, which would make three of "<unk>", and
# another one in hypotheses than in references, since they would be different words.
_SAID, _WANTED = "⁇", "⁈"

_SENTENCE = sacrebleu.BLEU(effective_order=True, smooth_method="add-k", smooth_value=1)


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a corpus with sacrebleu's defaults."""
    return float(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score) / 100


def corpus_signature() -> str:
    """How `corpus_bleu` counts, in sacrebleu's notation."""
    metric = sacrebleu.BLEU()
    metric.corpus_score(["a"], [["a"]])  # it knows the number of references only then
    return str(metric.get_signature())


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """BLEU of a sentence, smoothed by adding one to the counts of n-grams."""
    return _SENTENCE.sentence_score(hypothesis, [reference]).score / 100


def texts(vocabulary: Vocabulary, tokens: torch.Tensor) -> list[str]:
    """Hypotheses, (n, L) token numbers, as texts."""
    return [vocabulary.decode(row, _SAID) for row in tokens.tolist()]


def references(vocabulary: Vocabulary, targets: torch.Tensor) -> list[str]:
    """Targets, (n, L) token numbers with `VOID` after the end, as texts."""
    return [vocabulary.decode(row, _WANTED) for row in targets.where(targets != VOID, PAD).tolist()]


def sentence_bleus(vocabulary: Vocabulary, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """BLEU of each of K hypotheses for each target: (n, K, L') and (n, L) to (n, K)."""
    scores = [
        [sentence_bleu(text, reference) for text in texts(vocabulary, hypotheses)]
        for hypotheses, reference in zip(tokens, references(vocabulary, targets), strict=True)
    ]
    return torch.tensor(scores, dtype=torch.float64)


def bleu_gains(vocabulary: Vocabulary, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What each word adds to the BLEU of the words up to it, 0 from the end on: (n, L') and (n, L) to (n, L').

    They add up to the BLEU of the whole.
    """
    gains = torch.zeros(tokens.shape, dtype=torch.float64)
    for row, (said, reference) in enumerate(zip(tokens.tolist(), references(vocabulary, targets), strict=True)):
        before = 0.0
        for place, token in enumerate(said):
            if token in (END, PAD):
                break
            (text,) = texts(vocabulary, tokens[row : row + 1, : place + 1])
            score = sentence_bleu(text, reference)
            gains[row, place], before = score - before, score
    return gains
