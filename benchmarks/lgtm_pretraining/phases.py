"""The two phases of a student's training: what it learns in each, by which network, and what is measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.lgtm_pretraining.networks import SentenceModel
from benchmarks.lgtm_pretraining.texts import Parts, Source, sentences, windows
from meta.distillation import Batch
from meta.distillation.learner import outputs_of
from teachenv.modes import evaluating
from teachenv.students.causal_transformer import CausalTransformer

Role = Literal["teacher", "student"]

# Pieces or sentences in an evaluation's minibatch.
_EVALUATION_BATCH = 32

_CLASSES = 2


@dataclass(frozen=True, kw_only=True)
class Phase(ABC):
    """A phase: its data, its networks, and how long training runs are.

    Attributes:
        source: the texts.
        networks: options of `CausalTransformer` by role.
        steps: minibatches of a student's training.
        teacher_steps: minibatches of the training of a teacher alone.
        teacher_rate: AdamW's learning rate of a teacher alone.
        beside_rate: that of a teacher that learns beside a student; a smaller one is tried as well.
        student_rates: four learning rates of students, in order, that are tried.
        influence_rates: two factors of LGTM's term that are tried.
        batch_size: pieces or sentences in a minibatch, of training and of feedback alike.
        evaluations: how often a training run is measured on dev.
    """

    source: Source
    networks: Mapping[Role, Mapping[str, Any]]
    steps: int
    teacher_steps: int
    teacher_rate: float
    beside_rate: float
    student_rates: tuple[float, float, float, float]
    influence_rates: tuple[float, float]
    batch_size: int
    evaluations: int = 4

    name: ClassVar[str]
    """The phase's name in rows."""

    metric: ClassVar[str]
    """What rates and checkpoints are selected by."""

    higher_is_better: ClassVar[bool]
    """Whether a larger number of the metric is better."""

    @property
    @abstractmethod
    def task(self) -> str:
        """What is learned, as rows have it."""

    @abstractmethod
    def parts(self) -> Parts:
        """The data, read once in a process."""

    @abstractmethod
    def network(self, role: Role) -> nn.Module:
        """Makes a network, initialised from torch's global generator."""

    @abstractmethod
    def measured(self, network: nn.Module, part: Batch) -> dict[str, float]:
        """Measures a network on a split, in evaluation mode."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What rows are known by; where data lie on this machine is not part of it."""
        config = asdict(self)
        del config["source"]["data_root"]
        return config

    @property
    def student(self) -> str:
        """The networks in words."""
        sizes = [f"{o['layers']}×{o['width']}" for o in (self.networks["teacher"], self.networks["student"])]
        return f"causal transformers, {sizes[0]} to {sizes[1]}"


class Pretraining(Phase):
    """The next word of a corpus; measured is the perplexity over a split's words."""

    name: ClassVar[str] = "pre-training"
    metric: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False

    @property
    def task(self) -> str:
        """The corpus."""
        return self.source.corpus

    def parts(self) -> Parts:
        """The corpus in pieces."""
        return windows(self.source)

    def network(self, role: Role) -> nn.Module:
        """Makes a language model."""
        return CausalTransformer(self.source.window, self.source.words, **self.networks[role])

    def measured(self, network: nn.Module, part: Batch) -> dict[str, float]:
        """Computes the perplexity; words at the begin of a piece have little before them to be predicted from."""
        said = _said(network, part)
        losses = torch.cat([F.cross_entropy(logits, labels, reduction="none") for logits, labels in said])
        return {"perplexity": math.exp(min(float(losses.mean()), 50.0))}


class FineTuning(Phase):
    """The class of sentences; measured is the accuracy."""

    name: ClassVar[str] = "fine-tuning"
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    @property
    def task(self) -> str:
        """What is classified."""
        return self.source.task

    def parts(self) -> Parts:
        """The sentences."""
        return sentences(self.source)

    def network(self, role: Role) -> nn.Module:
        """Makes a classifier."""
        return SentenceModel(self.source.length, self.source.words, _CLASSES, **self.networks[role])

    def measured(self, network: nn.Module, part: Batch) -> dict[str, float]:
        """Computes the share of sentences whose class is found."""
        right = torch.cat([logits.argmax(-1) == labels for logits, labels in _said(network, part)])
        return {"accuracy": float(right.double().mean())}


def _said(network: nn.Module, part: Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Gives (logits, labels) of a minibatch's decisions, one after the other: of a whole corpus they are gigabytes."""
    for start in range(0, len(part.labels), _EVALUATION_BATCH):
        batch = part.at(slice(start, start + _EVALUATION_BATCH))
        with torch.no_grad(), evaluating(network):
            said = outputs_of(network, batch).logits, batch.classes
        yield said
