"""Sequence-level knowledge distillation: Kim & Rush 2016."""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

from meta.distillation.base import DistillationSettings
from meta.distillation.batch import Batch, checked_batch
from meta.distillation.kd import KD
from meta.distillation.learner import Outputs
from meta.distillation.losses import cross_entropy
from teachenv.data.vocabulary import PAD
from teachenv.decoding import beam, beside, cut, translated
from teachenv.modes import evaluating
from teachenv.optimizers import Tensors
from teachenv.students.translation import Translator
from teachenv.tasks.base import VOID


class SequenceKD(KD):
    """λ CE(y, S) + (1 − λ) CE(ŷ, S), ŷ the teacher's own translation of the source, which a beam finds (section 3.2).

    The teacher's distribution over whole translations is replaced by its mode, as in the paper. The teacher is fixed,
    so that it translates a source once, when it is first seen; `prepare` does that for all of a data set. What it has
    said is no part of the state.

    Args:
        teacher: a fine-tuned network that translates, which stays as it is.
        student: the network that is taught, changed in place.
        settings: options that all methods share; `temperature` is not used.
        width: how many translations the beam follows (the paper: 5).
        penalty: exponent of the length by which a log-probability is divided; see `teachenv.decoding.beam`.

    Raises:
        TypeError: a teacher that does not translate.
        ValueError: a width below 1.
    """

    def __init__(
        self,
        teacher: Translator,
        student: Translator,
        settings: DistillationSettings,
        width: int = 5,
        penalty: float = 1.0,
    ) -> None:
        super().__init__(teacher, student, settings)
        if not isinstance(teacher, Translator):
            raise TypeError(
                f"found a teacher {type(teacher).__name__}, expected a teachenv.students.translation.Translator, which "
                "says whole sentences; take KD for other networks"
            )
        if width < 1:
            raise ValueError(f"found width={width}, expected at least 1, which is greedy")
        self._translate = functools.partial(beam, teacher, width=width, penalty=penalty)
        self._said: dict[tuple[int, ...], torch.Tensor] = {}

    def prepare(self, data: Batch) -> None:
        """Translates the sources that have not been translated yet, those of about one length together."""
        data = checked_batch("data", data)
        source = _sources(data)
        new = {key: row for row, key in enumerate(_keys(source)) if key not in self._said}
        if new:
            with evaluating(self.teacher.network):
                translations = translated(self._translate, source[list(new.values())])
            self._said |= dict(zip(new, map(_ended, translations), strict=True))

    def said(self, batch: Batch) -> Batch:
        """The batch with the teacher's translations in place of the labels."""
        self.prepare(batch)
        source = cut(_sources(batch))
        rows = [self._said[key] for key in _keys(source)]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        inputs = beside(source, tokens)
        labels = F.pad(tokens.where(tokens != PAD, VOID), (0, inputs.shape[1] // 2 - tokens.shape[1]), value=VOID)
        return Batch(inputs, labels)

    def student_gradient(self, batch: Batch, *, training: bool, taught: Outputs | None = None) -> tuple[Tensors, float]:
        """Returns (the gradient of the student's loss, that loss); the class has the formula."""
        weight = self.settings.student_labels
        loss = (1 - weight) * self._cross_entropy(self.said(batch), training)
        if weight:
            loss = loss + weight * self._cross_entropy(batch, training)
        return self.student.gradient(loss), float(loss.detach())

    def _cross_entropy(self, batch: Batch, training: bool) -> torch.Tensor:
        return cross_entropy(self.student.outputs(batch, training=training).logits, batch.classes)


def _sources(batch: Batch) -> torch.Tensor:
    """The sources of a batch, (B, L), of inputs (B, 2L)."""
    source: torch.Tensor = batch.inputs.chunk(2, 1)[0]
    return source


def _keys(source: torch.Tensor) -> list[tuple[int, ...]]:
    """The words of each source, without padding."""
    return [tuple(token for token in row if token != PAD) for row in source.tolist()]


def _ended(tokens: torch.Tensor) -> torch.Tensor:
    """A translation (L,) without its padding."""
    return tokens[tokens != PAD].clone()
