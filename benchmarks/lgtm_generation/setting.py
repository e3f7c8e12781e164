"""Translation as what is distilled: a transformer teaches an LSTM, on few sentences of each seed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.lgtm.setting import SHOWN, Measured, Parts, Setting
from meta.distillation import Batch
from meta.distillation.learner import outputs_of
from teachenv.bleu import corpus_bleu, corpus_signature, references, texts
from teachenv.data.vocabulary import PAD, Vocabulary
from teachenv.decoding import by_length, greedy, translated
from teachenv.experiment.precision import MatmulPrecision
from teachenv.modes import evaluating
from teachenv.randomness import Purpose, generator
from teachenv.students import make_student
from teachenv.students.translation import Translator
from teachenv.tasks.base import VOID
from teachenv.tasks.tokens import TokenDecisions
from teachenv.tasks.translation import translation, trimmed

# Sentences that are measured at a time.
_TOGETHER = 64

STUDENTS = {"lstm-1": ("lstm", 1), "transformer-1": ("transformer", 1)}
"""Networks and their layers by name: an LSTM with attention, and a transformer, of one layer on each side."""


@dataclass(frozen=True, kw_only=True)
class TranslationSetting(Setting):
    """Sentences of which each seed draws its own, a transformer of two layers as teacher, and small students.

    Attributes:
        student: a name in `STUDENTS`.
        width: width of students.
        teacher_width: width of teachers, which have two layers on each side.
        teacher_epochs: how many epochs a teacher has, before it teaches.
        dropout: fraction that both drop.
        vocabulary_size: pieces of words; None: the words of a task that has whole ones.
        train_size: sentences to train on.
        feedback_size: sentences of feedback, which are held out from the training data.
        dev_size: sentences of dev.
        data_root: where the files are.
    """

    student: str
    width: int
    teacher_width: int
    teacher_epochs: float
    dropout: float
    vocabulary_size: int | None
    train_size: int
    feedback_size: int
    dev_size: int
    data_root: str | None = None

    precision: ClassVar[MatmulPrecision] = "medium"

    @property
    def name(self) -> str:
        """The data, and how many sentences there are to train on."""
        return f"{self.task}-{self.train_size}"

    @property
    def title(self) -> str:
        """The networks in words."""
        return f"transformer-2 of {self.teacher_width} to {self.student} of {self.width}"

    @property
    def fine_tuning_epochs(self) -> float:
        """Those of teachers, which begin untrained."""
        return self.teacher_epochs

    @property
    def size(self) -> int:
        """The students' width."""
        return self.width

    @property
    def versions(self) -> Mapping[str, str]:
        """The precision of products, and how BLEU counts."""
        return {**super().versions, "bleu": corpus_signature()}

    def parts(self, seed: int) -> Parts:
        """The sentences, which the seed draws from the pool; test is the task's own."""
        sentences = _sentences(self.task, self.vocabulary_size, self.data_root)
        order = torch.from_numpy(generator(seed, Purpose.SPLIT).permutation(len(sentences.pool.labels)))
        sizes = [self.train_size, self.feedback_size, self.dev_size]
        if sum(sizes) > len(order):
            raise ValueError(
                f"{sentences.dataset} has {len(order)} sentences, expected {sum(sizes)}; take smaller sizes"
            )
        train, feedback, dev = map(sentences.pool.at, torch.split(order[: sum(sizes)], sizes))
        scores = functools.partial(_bleu, sentences.vocabulary)
        return Parts(sentences.dataset, len(sentences.vocabulary), scores, train, feedback, dev, dev, sentences.test)

    def network(self, size: int | None, classes: int) -> nn.Module:
        """Makes a translator: the teacher if no size is given, else a student of a width."""
        name, layers = ("transformer", 2) if size is None else STUDENTS[self.student]
        width = size or self.teacher_width
        options: dict[str, Any] = {"layers": layers, "width": width, "dropout": self.dropout}
        if name == "transformer":
            options |= {"heads": 4, "inner": 4 * width}
        length = _sentences(self.task, self.vocabulary_size, self.data_root).test.labels.shape[1]
        return make_student(name, (2 * length,), classes, options)()

    def between(self, teacher: nn.Module) -> int:
        """Half of the way from the student's width to the teacher's."""
        return (self.width + self.teacher_width) // 4 * 2

    def lengths(self, batch: Batch) -> np.ndarray:
        """The longer side of each sentence, in tokens, (n,)."""
        source = batch.inputs.chunk(2, 1)[0]
        lengths: np.ndarray = torch.maximum((source != PAD).sum(1), (batch.labels != VOID).sum(1)).numpy()
        return lengths

    def trimmed(self, batch: Batch) -> Batch:
        """A minibatch without the padding that all of its sentences have."""
        return Batch(*trimmed(*batch))

    def evaluate(self, model: nn.Module, batch: Batch, right: torch.Tensor, parts: Parts) -> Measured:
        """Measures BLEU of greedy translations, and cross-entropy and entropy over tokens, the words before given.

        The predictions are the probabilities of whole sentences, as geometric means over their tokens.
        """
        assert isinstance(model, Translator)
        with torch.no_grad(), evaluating(model):
            said = translated(functools.partial(greedy, model), batch.inputs.chunk(2, 1)[0], _TOGETHER)
            each = functools.partial(_sums, model, batch)
            sums = by_length(torch.from_numpy(self.lengths(batch)), each, _TOGETHER)
        loss, entropy, _ = (sums.sum(0) / sums[:, 2].sum()).tolist()
        likelihoods = torch.exp(-sums[:SHOWN, 0] / sums[:SHOWN, 2])
        scores = parts.scores(said.numpy(), batch.labels.numpy())
        return Measured(scores, loss, entropy, [round(float(p), 4) for p in likelihoods])

    def selecting(self, scores: Mapping[str, float]) -> float:
        """What checkpoints are selected by: BLEU, since students of `sequence-kd` do not learn dev's likelihood."""
        return scores["bleu"]

    @property
    def config(self) -> Mapping[str, Any]:
        """The setting without the folder."""
        return {key: value for key, value in asdict(self).items() if key != "data_root"}


class _Sentences(NamedTuple):
    dataset: str
    pool: Batch
    test: Batch
    vocabulary: Vocabulary


@functools.lru_cache(maxsize=2)
def _sentences(task: str, vocabulary_size: int | None, data_root: str | None) -> _Sentences:
    """A task's sentences, read once in a process."""
    read = translation(dataset=task, vocabulary_size=vocabulary_size, data_root=data_root)
    assert isinstance(read.decisions, TokenDecisions)
    return _Sentences(read.dataset, Batch(*read.pool), Batch(*read.test), read.decisions.vocabulary)


def _bleu(vocabulary: Vocabulary, said: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """BLEU of translations (n, L) of a split, a fraction."""
    hypotheses, wanted = texts(vocabulary, torch.from_numpy(said)), references(vocabulary, torch.from_numpy(labels))
    return {"bleu": corpus_bleu(hypotheses, wanted)}


def _sums(model: nn.Module, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
    """Sums over the tokens of each of some sentences, (rows, 3): minus log-likelihood, entropy, how many there are."""
    part = Batch(*trimmed(*batch.at(rows)))
    logs = F.log_softmax(outputs_of(model, part).logits, -1)
    entropies = -(logs.exp() * logs).sum(1)
    each = torch.stack([F.nll_loss(logs, part.classes, reduction="none"), entropies, torch.ones_like(entropies)], 1)
    return torch.zeros(len(rows), 3).index_add(0, part.to_decisions(torch.arange(len(rows))), each)
