"""What a teacher sees of the samples of the minibatch that its next action weighs.

An observer gives numbers in [0, 1]: some of the whole minibatch, and then, for each of its fields, one for each sample
in the minibatch's order, so that coordinate i of the action and number i of each field belong to the same sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from teachenv.losses.distillation import expectation
from teachenv.model import Model
from teachenv.optimizers import Tensors
from teachenv.state import Episode, StudentState
from teachenv.tasks.base import Task


class SampleObserver(ABC):
    """Observes the samples of minibatches.

    Attributes:
        of_minibatch: names of the numbers of the whole minibatch.
        fields: names of the numbers of each sample.
    """

    of_minibatch: tuple[str, ...] = ()
    fields: tuple[str, ...]

    def names(self, batch_size: int) -> tuple[str, ...]:
        """The name of each number, in the order in which `observe` gives them."""
        return (*self.of_minibatch, *(f"{name}_{i}" for name in self.fields for i in range(batch_size)))

    def begin(self, model: Model, episode: Episode) -> Any:
        """What is remembered at an episode's begin, a structure of tensors; None: nothing."""
        return None

    @abstractmethod
    def observe(self, model: Model, state: StudentState, episode: Episode, memory: Any) -> tuple[torch.Tensor, Any]:
        """Looks at the minibatch of the next step; after the last step, at the last minibatch.

        Args:
            model: network and data.
            state: the student, or a batch of B.
            episode: its episode.
            memory: what is remembered so far.

        Returns:
            The numbers, (k,) or (B, k), and what is remembered from now on.
        """


@dataclass(frozen=True)
class Visits:
    """How the student did on each labelled sample when it was observed in a minibatch, (N,) or (B, N) each.

    Attributes:
        count: how often that was.
        total: the sum of 1 − p, p the probability of the sample's label.
        last: the last 1 − p.
    """

    count: torch.Tensor
    total: torch.Tensor
    last: torch.Tensor


class LabelledSamples(SampleObserver):
    """Samples with one label each, as the student sees them in evaluation mode before the step.

    The fields, p the student's probabilities and y the sample's label in the pool:
        `label_probability`: p_y.
        `margin`: ½ + ½ (p_y − max_{j≠y} p_j).
        `entropy`: that of p over log C, C classes.
        `earlier_loss`: the mean of 1 − p_y over the sample's earlier minibatches; before any, the present 1 − p_y.
        `loss_change`: ½ + ½ (the present 1 − p_y minus the last one); before any, ½.
        `label_frequency`: the part of the pool that has this label.

    They cost one forward pass a step. The losses of earlier minibatches are those seen in these passes.

    Args:
        task: whose pool has the labels.
    """

    fields = ("label_probability", "margin", "entropy", "earlier_loss", "loss_change", "label_frequency")

    def __init__(self, task: Task) -> None:
        """Counts the labels."""
        labels = task.pool[1]
        self._frequency = torch.bincount(labels, minlength=task.num_outputs).double() / len(labels)

    def begin(self, model: Model, episode: Episode) -> Visits:
        """Nothing is known of any sample."""
        rows, student = len(model.rows.inputs), model.student
        zeros = torch.zeros(*episode.train.shape[:-1], rows, dtype=student.dtype, device=student.device)
        return Visits(zeros, zeros, zeros)

    def observe(
        self, model: Model, state: StudentState, episode: Episode, memory: Visits
    ) -> tuple[torch.Tensor, Visits]:
        """See `SampleObserver.observe`."""
        step = next_step(state, episode)
        indices = model.indices(episode, step)
        earlier = [values.gather(-1, indices) for values in (memory.count, memory.total, memory.last)]
        inputs, labels = model.minibatch(episode, step)

        def fields(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, labels: torch.Tensor, *earlier: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            prediction, _ = model.student(
                parameters, buffers, inputs, training=False, differentiable=model.mapping.form
            )
            log_p = F.log_softmax(prediction.outputs, -1)
            p = log_p.exp()
            of_label = p.gather(-1, labels[:, None])[:, 0]
            others = p.scatter(-1, labels[:, None], 0.0).amax(-1)
            entropy = -expectation(p, log_p) / math.log(p.shape[-1])
            loss, (count, total, last) = 1 - of_label, earlier
            mean = torch.where(count > 0, total / count.clamp(min=1), loss)
            change = torch.where(count > 0, 0.5 + 0.5 * (loss - last), 0.5)
            parts = [of_label, 0.5 + 0.5 * (of_label - others), entropy, mean, change, self._frequency[labels].to(p)]
            return torch.cat(parts), loss

        with torch.no_grad():
            seen, loss = model.mapping(fields)(state.parameters, state.buffers, inputs, labels, *earlier)
        count, total, _ = earlier
        return seen, Visits(
            memory.count.scatter(-1, indices, count + 1),
            memory.total.scatter(-1, indices, total + loss),
            memory.last.scatter(-1, indices, loss),
        )


def next_step(state: StudentState, episode: Episode) -> int | np.ndarray:
    """The step whose minibatch the next action weighs; after the last step, the last."""
    last = episode.batches.shape[-2] - 1
    return min(state.step, last) if isinstance(state.step, int) else state.step.clip(max=last)
