"""Image–text matching: which caption belongs to which image, by the symmetric contrastive loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.lot.problem import Batch, Reader, Role, Split, nearest_width, parameters_of
from benchmarks.lot_images.problem import ImageProblem
from benchmarks.lot_multimodal.captions import Captions, make_captions
from benchmarks.lot_multimodal.networks import TwoTowers

_KIND = "two-towers-"
_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class PairProblem(ImageProblem):
    """Images with captions that are made here; `model` and `student` are `"two-towers-WIDTH"`.

    A minibatch of N pairs has 2N targets: the place of each image's caption, and of each caption's image. The
    cross-entropy of these, and students' KL, are means over both directions. Two pairs of a minibatch may have captions
    that fit both images; the loss counts one of them as right, as it does in the paper.

    `evaluate` is the accuracy of what the paper calls zero-shot classification: no classifier is trained, an image has
    the class whose prompts it is nearest to, in the mean over the class's names.
    """

    @property
    def captions(self) -> Captions:
        """All captions, written once in a process."""
        return make_captions(self.data, self.task)

    @property
    def precision(self) -> str:
        """Always float32."""
        return "float32"

    def with_students(self, share: float) -> PairProblem:
        """The problem with students of a share of the model's parameters."""
        model_width, shape, words = _width(self.model), self.shape, len(self.captions.vocabulary)

        def parameters(width: int) -> int:
            with torch.device("meta"):
                return parameters_of(TwoTowers(shape, words, width))

        width = nearest_width(parameters, model_width, share)
        return replace(self, student=None if width == model_width else f"{_KIND}{width}")

    def network(self, role: Role) -> nn.Module:
        """Makes two towers, initialised from torch's global generator."""
        name = self.student if role == "student" and self.student is not None else self.model
        return TwoTowers(self.shape, len(self.captions.vocabulary), _width(name), self.dropout)

    def batch(self, seed: int, step: int, *, for_students: bool) -> Batch:
        """A minibatch of pairs, and the places (2, N) of what belongs together."""
        images, _ = super().batch(seed, step, for_students=for_students)
        captions = self.captions.train[torch.from_numpy(self.chosen(seed, step, for_students))]
        return (images, captions), _places(len(images))

    def read(self, network: nn.Module, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The logits (2, N, N) of minibatches of a split, in its order, and the places (2, N) of what is right."""
        network.eval()
        for images, captions in self._pairs(split, self.batch_size):
            yield network((images, captions)), _places(len(images))

    def evaluate(self, network: nn.Module, split: Literal["valid", "test"]) -> float:
        """Measures the accuracy of classes by prompts; on validation data, of the classes that captions tell."""
        assert isinstance(network, TwoTowers)
        network.eval()
        labels, prompts = getattr(self.data, split)[1], self.captions.prompts
        with torch.no_grad():
            of_prompts = network.embedded_texts(prompts.flatten(0, 1))
            classes = F.normalize(of_prompts.view(*prompts.shape[:2], -1).mean(1), dim=-1)
            predicted = [
                (network.embedded(images) @ classes.T).argmax(-1) for images, _ in self._pairs(split, _EVALUATION_BATCH)
            ]
        return float((torch.cat(predicted) == labels).double().mean())

    def further(self, network: nn.Module) -> dict[str, float]:
        """The share of test pairs that are found first among those of a minibatch, the mean over both directions.

        A caption that is word for word the right one is right, too.
        """
        hits: list[torch.Tensor] = []
        with torch.no_grad():
            for (logits, _), (_, captions) in zip(
                self.read(network, "test"), self._pairs("test", self.batch_size), strict=True
            ):
                same = (captions[:, None] == captions[None]).all(-1)
                hits += [same[torch.arange(len(same)), nearest] for nearest in logits.argmax(-1)]
        return {"recall_at_1": float(torch.cat(hits).double().mean())}

    def reader(self) -> Reader:
        """Makes the reader, which calls networks with pairs."""
        return Reader()

    def _pairs(self, split: Split, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        parts: tuple[Any, Any] = getattr(self.data, split)[0], getattr(self.captions, split)
        yield from zip(*(torch.split(part, size) for part in parts), strict=True)


def _places(count: int) -> torch.Tensor:
    return torch.arange(count).expand(2, count)


def _width(name: str) -> int:
    return int(name.removeprefix(_KIND))
