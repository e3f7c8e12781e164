"""Losses that weigh samples as the teacher says: those of a minibatch by their places, or those of the whole pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from teachenv import checks
from teachenv.losses.base import LossFamily, weighted
from teachenv.losses.plain import needs_head, plain_loss, plain_options, reads
from teachenv.students.prediction import Prediction

if TYPE_CHECKING:
    from teachenv.tasks.base import Task


class SampleWeights(LossFamily):
    """Mean over the minibatch of w_i · l_i with w_i = 1 + scale · a_i, l a plain loss.

    The zero action is the mean loss. Coordinate i belongs to the i-th sample of the current minibatch. Held at the zero
    action it is also how a student is trained with any fixed loss: `SampleWeights(base="smooth-01")`.

    Args:
        base: a name in `teachenv.losses.PLAIN_LOSSES`.
        scale: in (0, 1], so that no weight is negative.
        normalise: whether weights are divided by their mean over the minibatch, as L2RW (Ren et al. 2018, eq. 8) and
            the released code of Meta-Weight-Net (Shu et al. 2019) do: an action then says how samples share the step,
            and not how large it is. Where all weights are zero the loss is 0. The zero action stays the mean loss.
        **options: options of the base loss.
    """

    coefficient_label = "sample weights of the minibatch"
    of_places = True

    def __init__(
        self, base: str = "cross-entropy", scale: float = 1.0, normalise: bool = False, **options: Any
    ) -> None:
        self.scale, self.normalise = checks.number("scale", scale, above=0, most=1), checks.flag("normalise", normalise)
        known = ["base", "scale", "normalise", *plain_options(base)]
        checks.known_options(f"weighted samples of {base!r}:", options, known)
        self.base, self.options = base, options
        self._sample_loss = plain_loss(base, **options)
        self.needs_head, self.reads = needs_head(base), reads(base)

    @property
    def drops_samples(self) -> bool:  # type: ignore[override]
        """Whether the action −1 drops a sample: at scale 1 its weight is 0."""
        return self.of_places and self.scale == 1.0

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each sample of a minibatch."""
        return batch_size

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The mean of the samples' weighted losses."""
        losses = self._sample_loss(prediction, targets)
        # Of a sample with many decisions (`teachenv.tasks.decisions`) all have its weight; they stand side by side.
        action = action.unsqueeze(1).expand(-1, len(losses) // len(action)).reshape(-1)
        if not self.normalise:
            return prediction.mean(losses) + self.scale * prediction.mean(weighted(action, losses))
        weights = 1.0 + self.scale * action
        # What the weights differ from 1 by is exactly 0 at the zero action.
        beyond = _over(weights - (mean := prediction.mean(weights)), mean, otherwise=-1.0)
        return prediction.mean(losses) + prediction.mean(weighted(beyond, losses))

    def fitted(self, task: Task) -> SampleWeights:
        """The family whose base loss knows the counts of the pool's labels, if it asks for them.

        Raises:
            ValueError: samples have no single label, or other counts were given than there are classes.
        """
        if "counts" not in plain_options(self.base):
            return self
        targets, num_classes = task.pool[1], task.num_outputs
        if (counts := self.options.get("counts")) is not None:
            if len(counts) != num_classes:
                raise ValueError(f"counts has {len(counts)} numbers, expected one for each of {num_classes} classes")
            return self
        if targets.dim() != 1 or targets.is_floating_point():
            raise ValueError(
                f"{self.base!r} counts labels, one a sample, found targets that are {targets.dtype} of shape "
                f"{tuple(targets.shape[1:])} a sample; give how frequent each class is: counts=(...)"
            )
        of_pool = tuple(torch.bincount(targets, minlength=num_classes).tolist())
        return type(self)(self.base, self.scale, self.normalise, **{**self.options, "counts": of_pool})

    def of_data(self) -> DataWeights:
        """Weights of the pool's samples in the same plain loss, w = 1 + a."""
        return DataWeights(self.base, **self.options)

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The weights, one row."""
        return self.weights(action.view(1, -1))

    def weights(self, action: torch.Tensor) -> torch.Tensor:
        """The weights of a minibatch's samples, or of several ones, (..., batch).

        Args:
            action: their coordinates, of the same shape.
        """
        weights = 1.0 + self.scale * action
        return _over(weights, weights.mean(-1, keepdim=True), otherwise=0.0) if self.normalise else weights


class DataWeights(SampleWeights):
    """Mean over the minibatch of w_i · l_i, where w_i = 1 + scale · a_i belongs to sample i of the *pool*.

    An action has a coordinate for each sample of the pool, in the pool's order, and a sample keeps its weight wherever
    it comes up in a minibatch: held for a whole training (`steps_per_action=horizon`), the derivative of the return
    with respect to the action says which samples helped. A step reads and differentiates the weights of its minibatch
    alone, so that a large pool costs no more than a small one. The zero action is the mean loss.

    Args:
        base: a name in `teachenv.losses.PLAIN_LOSSES`.
        scale: in (0, 1], so that no weight is negative.
        normalise: whether a step divides the weights of its minibatch by their mean, as in `SampleWeights`.
        **options: options of the base loss.
    """

    coefficient_label = "weights of the pool's samples"
    of_places = False
    of_pool = True

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The weights, not divided, in rows of about as many as there are rows; the last is filled up with ones."""
        weights = 1.0 + self.scale * action
        width = max(1, round(len(weights) ** 0.5))
        rows = -(-len(weights) // width)
        return torch.nn.functional.pad(weights, (0, rows * width - len(weights)), value=1.0).view(rows, width)


def _over(values: torch.Tensor, mean: torch.Tensor, otherwise: float) -> torch.Tensor:
    """Values divided by a mean, or another number where the mean is 0."""
    some = mean > 0
    return torch.where(some, values / torch.where(some, mean, 1.0), otherwise)
