"""What a minibatch is, and which decisions its samples are made of: one, or one for each place of a sequence.

Losses and methods see decisions alone, (N, classes) logits and (N,) labels, and their means are over decisions: of
sequences over the tokens of a minibatch, so that a long sentence counts for more than a short one, as in the loss of
translations elsewhere in this library. Where a sequence has ended (`VOID`) there is no decision: what a network says
there, and how far sequences are padded, changes nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from teachenv import checks
from teachenv.tasks.base import VOID
from teachenv.trees import at, mapped


class _Samples(NamedTuple):
    inputs: Any
    labels: torch.Tensor


class Batch(_Samples):
    """A minibatch of labelled samples, a named tuple.

    Attributes:
        inputs: the argument that networks are called with: a tensor, or tensors in a nesting of dicts, lists and
            tuples.
        labels: the class of each sample, (B,), int64; of sequences the class of each of L places, (B, L). Where it is
            `VOID` (-1) there is nothing to decide. They are looked at once, and not to be changed in place afterwards.
    """

    def at(self, indices: torch.Tensor | slice) -> Batch:
        """Returns the samples at the indices, as a smaller batch."""
        return at(self, indices)

    @cached_property
    def decisions(self) -> torch.Tensor:
        """Where there is a decision: N places in the labels, sample after sample, (N,).

        Raises:
            ValueError: there is none.
        """
        count, _, _ = self._counted
        # By `nonzero` a GPU would be waited for once more.
        return (self.labels.flatten() == VOID).to(torch.uint8).argsort(stable=True)[:count]

    @cached_property
    def _counted(self) -> tuple[int, int, int]:
        """(How many decisions there are, the lowest of their classes, the highest), for which a GPU is waited for once.

        Raises:
            ValueError: there is none.
        """
        decided = self.labels != VOID
        none = f"found a batch without a label other than {VOID}: nothing to learn; leave it out"
        if not decided.numel():
            raise ValueError(none)
        labels = self.labels.where(decided, torch.iinfo(self.labels.dtype).max)
        count, lowest, highest = torch.stack([decided.sum(), labels.amin(), self.labels.amax()]).tolist()
        if not count:
            raise ValueError(none)
        return count, lowest, highest

    @cached_property
    def classes(self) -> torch.Tensor:
        """The label of each decision, (N,)."""
        return self.labels.flatten()[self.decisions]

    def decided(self, logits: torch.Tensor) -> torch.Tensor:
        """Takes the logits of a network to those of each decision.

        Args:
            logits: (B, classes), or (B, classes, L) for labels (B, L): classes second, as PyTorch's losses have them.

        Returns:
            (N, classes).

        Raises:
            ValueError: logits of another shape, or of one class; labels that are none of their classes.
        """
        shape = self.labels.shape
        if logits.ndim != len(shape) + 1 or (logits.shape[0], *logits.shape[2:]) != tuple(shape):
            expected = ", ".join(map(str, (shape[0], "classes", *shape[1:])))
            raise ValueError(
                f"found logits of shape {tuple(logits.shape)}, expected ({expected}) for labels of shape {tuple(shape)}"
            )
        if logits.shape[1] < 2:
            raise ValueError(
                f"found logits of {logits.shape[1]} class, expected at least 2: softmax of one logit is 1; give two "
                "outputs for two classes"
            )
        _, lowest, highest = self._counted
        if lowest < 0 or highest >= logits.shape[1]:
            raise ValueError(
                f"found labels from {lowest} to {highest}, expected 0 to {logits.shape[1] - 1} for logits of "
                f"{logits.shape[1]} classes, and {VOID} where there is nothing to decide"
            )
        return logits.movedim(1, -1).flatten(0, -2).index_select(0, self.decisions)

    def of_samples(self, values: torch.Tensor) -> torch.Tensor:
        """Sums a number of each decision within samples, and divides by the mean count of decisions in a sample.

        So the mean over samples is the mean over decisions; with one decision a sample nothing changes.

        Args:
            values: (N,).

        Returns:
            (B,).
        """
        samples = len(self.labels)
        return values.new_zeros(samples).index_add(0, self._samples, values) * (samples / len(values))

    def to_decisions(self, values: torch.Tensor) -> torch.Tensor:
        """Repeats a number of each sample, (B,), for each of its decisions, (N,)."""
        return values[self._samples]

    @cached_property
    def _samples(self) -> torch.Tensor:
        """The sample of each decision, (N,)."""
        return self.decisions // (self.labels.numel() // len(self.labels))


def checked_batch(name: str, value: object) -> Batch:
    """A batch that is one by its types: what its labels are is seen where the classes are known.

    Args:
        name: what the batch is, for messages.
        value: what the user gave.

    Returns:
        The batch, whose labels are looked at anew.

    Raises:
        TypeError: it is no `Batch`, or arrays of NumPy, or labels of another type are in it.
    """
    if not isinstance(value, Batch):
        raise TypeError(f"{name} must be a meta.Batch(inputs, labels), found a {type(value).__name__}")
    mapped(_refuse_array, value, of=np.ndarray)
    labels: object = value.labels
    if not isinstance(labels, torch.Tensor) or not labels.ndim:
        raise TypeError(
            f"found labels {checks.shown(labels)} in {name}, expected a tensor with the class of each sample: "
            "torch.as_tensor(labels)"
        )
    if labels.dtype != torch.int64:
        raise TypeError(f"found labels of {labels.dtype} in {name}, expected torch.int64: labels.long()")
    return Batch(*value)


def _refuse_array(array: np.ndarray) -> None:
    raise TypeError(f"found a NumPy array of shape {array.shape} in a batch, expected tensors: torch.from_numpy(array)")
