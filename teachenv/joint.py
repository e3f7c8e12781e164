"""Joint distillation as a student's training: a teacher network learns on each minibatch, and then its student does.

A student step is two updates of one `StudentState`, whose tensors are those of both networks
(`teachenv.students.pair.Pair`): the teacher's along its loss, then the student's along its own, under the teacher as it
is then. Each update moves one of the networks; derivatives with respect to the other one are kept, so that the return
can be differentiated through both. Each runs both networks in training mode: running statistics, where a network has
any, follow the minibatch twice.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from teachenv.losses.distillation import expectation, halves
from teachenv.losses.plain import cross_entropy
from teachenv.model import Model
from teachenv.optimizers import Tensors
from teachenv.samples import SampleObserver, next_step
from teachenv.state import Episode, StudentState
from teachenv.students.prediction import Prediction
from teachenv.tasks.measures import Measure

BATCH_FIELDS = ("teacher_loss", "student_loss", "entropy_gap", "agreement")
"""What is observed of the minibatch that the next action weighs: means, and then of each sample."""


class PairMeasure(Measure):
    """What a pair is judged by: its student's cross-entropy on dev, and accuracy.

    J is minus the cross-entropy, so that the reward is its fall.
    """

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Minus the student's cross-entropy."""
        return -cross_entropy(Prediction(halves(outputs)[1]), targets).mean()

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The student's accuracy."""
        return (halves(outputs)[1].argmax(-1) == targets).to(outputs.dtype).mean()


class PairSamples(SampleObserver):
    """Samples as a pair of networks sees them in evaluation mode: means over the minibatch, and of each sample.

    Losses l are those of the labels, as 1 − exp(−l), one minus the label's probability; the entropy gap is
    ½ + (H(S) − H(T)) / (2 log classes); agreement is whether both would answer the same.
    """

    of_minibatch = BATCH_FIELDS
    fields = BATCH_FIELDS

    def observe(self, model: Model, state: StudentState, episode: Episode, memory: None) -> tuple[torch.Tensor, None]:
        """(4 + 4 · batch,) or (B, ...); see `SampleObserver.observe`."""

        def features(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            prediction, _ = model.student(
                parameters, buffers, inputs, training=False, differentiable=model.mapping.form
            )
            logs = [F.log_softmax(logits, -1) for logits in halves(prediction.outputs)]
            missing = [1 - log.exp().gather(-1, targets[:, None])[:, 0] for log in logs]
            entropies = [-expectation(log.exp(), log) for log in logs]
            gap = 0.5 + (entropies[1] - entropies[0]) / (2 * math.log(logs[0].shape[-1]))
            same = (logs[0].argmax(-1) == logs[1].argmax(-1)).to(gap.dtype)
            each = torch.stack([*missing, gap, same])
            return torch.cat([each.mean(1), each.flatten()])

        minibatch = model.minibatch(episode, next_step(state, episode))
        with torch.no_grad():
            return model.mapping(features)(state.parameters, state.buffers, *minibatch), None
