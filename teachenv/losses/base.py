"""What a loss family is: a documented map from an action in the box to a differentiable loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from teachenv.students.prediction import Prediction
from teachenv.tasks.targets import TargetKind

if TYPE_CHECKING:
    from teachenv.tasks.base import Task


class LossFamily(ABC):
    """A map from an action in Box(-1, 1) to a loss, whose zero action is the family's plain loss.

    A family of one's own subclasses this and goes to `TeachEnv(loss=...)`, which tries it on a minibatch at once
    (`teachenv.trial`). The loss must be twice differentiable almost everywhere in the outputs and once in the action,
    must work under `torch.func.vmap` (no data-dependent shapes, no `.item()`), and must give exactly the plain loss's
    gradient at the zero action: write it as plain loss + correction, with a correction that is exactly 0 there.

    Attributes:
        needs_head: whether `Prediction.features` and `Prediction.head_weight` are wanted.
        of_pairs: whether the outputs are those of a teacher network and of a student; see `teachenv.joint`.
        of_places: whether an action's coordinates belong to the places of a minibatch, so that they mean nothing for a
            batch of another size.
        reads: kinds of targets that the loss is of, see `teachenv.tasks.targets`: `"labels"`, `"numbers"`,
            `"distributions"`, `"indicators"`; those of decisions are labels. Empty: whatever the task has.
        drops_samples: whether the action −1 at a place drops the sample there from the minibatch's loss.
        of_pool: whether an action has coordinates for each sample of the pool, as many for each and side by side, of
            which a step gives the loss those of its minibatch; `action_size` is then the number that the loss is given.
        of_domains: whether an action has a coordinate for each of the task's domains. A step gives the loss, for each
            sample of its minibatch, the coordinate of its domain, and behind them all coordinates; `action_size` is
            then the number of both.
        coefficient_label: what `coefficients` shows, for figures.
    """

    needs_head: bool = False
    of_pairs: bool = False
    of_places: bool = False
    reads: tuple[TargetKind, ...] = ()
    drops_samples: bool = False
    of_pool: bool = False
    of_domains: bool = False
    coefficient_label: str = "coefficients"

    @abstractmethod
    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """The number of action coordinates for students with `num_outputs` outputs and minibatches of `batch_size`."""

    @abstractmethod
    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The minibatch's loss under an action.

        Args:
            action: (n,) in the box.
            prediction: the student's outputs, (batch, outputs).
            targets: (batch,) class labels, or what the task gives.

        Returns:
            A tensor without dimensions in the dtype of the outputs, the mean over the minibatch.
        """

    def sides(self) -> tuple[tuple[LossFamily, str], ...]:
        """The losses that a student step takes in order, each with the beginning of its parameters' names.

        One loss moves all parameters, but in distillation, where the teacher network's comes first. A parameter is
        moved by one loss at most; one whose name begins with none of them stays as it was initialised, so that
        `((self, "head."),)` trains a head alone.
        """
        return ((self, ""),)

    def fitted(self, task: Task) -> LossFamily:
        """The family with what it takes from the data, such as how frequent a class is; by default as it is.

        Args:
            task: the data, as it is labelled.

        Raises:
            ValueError: the family does not fit such data.
        """
        return self

    def of_data(self) -> LossFamily | None:
        """The family whose actions weigh the pool's samples in this family's plain loss; None: there is none."""
        return None

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """What the action stands for, as a matrix to look at; by default the action itself, one row."""
        return action.view(1, -1)

    def numbers(self, action: torch.Tensor) -> torch.Tensor:
        """The numbers of the loss that the action sets, of any shape; by default its `coefficients`."""
        return self.coefficients(action)


def weighted(weights: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Products with 0 · v = 0 for a v that is not finite: a loss may be ∞ where a logit is −∞, and needs a weight."""
    return weights * losses.masked_fill((weights == 0) & ~losses.isfinite(), 0.0)
