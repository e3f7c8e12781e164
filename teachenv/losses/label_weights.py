"""A loss whose labels are distributions over classes, which the teacher moves: one for each sample of the pool."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from teachenv import checks
from teachenv.losses.base import LossFamily, weighted
from teachenv.losses.plain import cross_entropy
from teachenv.students.prediction import Prediction


class LabelWeights(LossFamily):
    """Mean over the minibatch of −Σ_c q_ic log p_ic with q_ic = 1[c = y_i] + scale · a_ic, for sample i of the *pool*.

    An action has a coordinate for each sample of the pool and each class, the classes of a sample side by side. The
    zero action is the cross-entropy of the labels y. `scale * a_i = r_i - onehot(y_i)` trains on the soft label r_i,
    and the derivative with respect to a_ic minus that to a_iy says what a change of the label from y towards c does. As
    with `DataWeights`, a step reads the coordinates of its minibatch alone.

    Args:
        scale: in (0, 1].
    """

    coefficient_label = "changes of the pool's labels, the classes of a sample side by side"
    reads = ("labels", "distributions")
    of_pool = True

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = checks.number("scale", scale, above=0, most=1)

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each sample of a minibatch and each class."""
        return num_outputs * batch_size

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The cross-entropy of the minibatch's moved labels."""
        log_p = F.log_softmax(prediction.outputs, 1)
        of_samples = action.view(-1, log_p.shape[1])
        # Of a sample with many decisions (`teachenv.tasks.decisions`) all have its coordinates.
        of_decisions = of_samples.repeat_interleave(len(targets) // len(of_samples), 0)
        correction = -weighted(of_decisions, log_p).sum(1)
        plain = prediction.mean(cross_entropy(prediction, targets))
        return plain + self.scale * prediction.mean(correction)
