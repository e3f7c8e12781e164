"""Joint distillation as a student's training: a teacher network learns on each minibatch, and then its student does.

A student step is two steps of optimisers on one `StudentState`, whose tensors are those of both networks
(`teachenv.students.pair.Pair`): the teacher's along its loss, then the student's along its own, under the teacher as it
is then. Each is a step of a `Dynamics` that moves one of the networks; derivatives with respect to the other one are
kept, so that the return can be differentiated through both. Each half runs both networks in training mode: running
statistics, where a network has any, follow the minibatch twice.
"""

from __future__ import annotations

import math
from copy import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from teachenv.batched import BatchedDynamics
from teachenv.dynamics import Dynamics
from teachenv.losses.base import LossFamily
from teachenv.losses.distillation import Distillation, expectation, halves
from teachenv.losses.plain import cross_entropy
from teachenv.optimizers import Tensors
from teachenv.recording import Recorder
from teachenv.state import Episode, Outcome, StudentState
from teachenv.students.functional import Prediction
from teachenv.tasks.base import Measure

if TYPE_CHECKING:
    import numpy as np

BATCH_FIELDS = ("teacher_loss", "student_loss", "entropy_gap", "agreement")
"""What is observed of the minibatch that the next action weighs: means, and then of each sample."""


class PairMeasure(Measure):
    """What a pair is judged by: its student's cross-entropy on dev, and accuracy.

    J is minus the cross-entropy, so that the reward is its fall.
    """

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """−CE of the student."""
        return -cross_entropy(Prediction(halves(outputs)[1]), targets).mean()

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Accuracy of the student."""
        return (halves(outputs)[1].argmax(-1) == targets).to(outputs.dtype).mean()


class _OfTeacher(LossFamily):
    """The teacher's side of a distillation loss."""

    def __init__(self, family: Distillation) -> None:
        self.family = family

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        return self.family.action_size(num_outputs, batch_size)

    def __call__(self, action: torch.Tensor, prediction: Any, targets: torch.Tensor) -> torch.Tensor:
        return self.family.of_teacher(action, prediction, targets)


class JointDynamics(Dynamics):
    """The training of one pair. It is itself the dynamics of the student's half of a step.

    Args:
        teacher_rate: base learning rate of the teacher; the schedule is the student's.
        **pieces: see `Dynamics`; the student is a `Pair`, the loss `Distillation`.
    """

    prefix = "student."

    def __init__(self, teacher_rate: float, **pieces: Any) -> None:
        """Makes the teacher's half."""
        super().__init__(**pieces)
        assert isinstance(self.loss, Distillation)
        self.teacher = copy(self)
        self.teacher.prefix, self.teacher.ends_step = "teacher.", False
        self.teacher.loss, self.teacher.learning_rate = _OfTeacher(self.loss), teacher_rate

    @property
    def halves(self) -> tuple[Dynamics, Dynamics]:
        """What moves the teacher, and what moves the student."""
        return self.teacher, self

    def moved(self, parameters: Tensors) -> list[str]:
        """Those of one of the networks."""
        return [name for name in parameters if name.startswith(self.prefix)]

    def step(self, state: StudentState, episode: Episode, action: torch.Tensor) -> tuple[StudentState, Outcome]:
        """The teacher's step under the action's weights, then the student's; the outcome is the student's."""
        state = self.teacher.updated(state, self.teacher.gradient(state, episode, action))
        return super().step(state, episode, action)

    def batch_features(self, state: StudentState, episode: Episode) -> torch.Tensor:
        """Of the next step's minibatch, (4 + 4 · batch,) or (B, ...), each in [0, 1]; see `BATCH_FIELDS`.

        Losses l are those of the labels, as 1 − exp(−l), one minus the label's probability; the entropy gap is
        ½ + (H(S) − H(T)) / (2 log classes); agreement is whether both would answer the same.
        """

        def features(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            prediction, _ = self.student(parameters, buffers, inputs, training=False, differentiable=self._mode)
            logs = [F.log_softmax(logits, -1) for logits in halves(prediction.outputs)]
            missing = [1 - log.exp().gather(-1, targets[:, None])[:, 0] for log in logs]
            entropies = [-expectation(log.exp(), log) for log in logs]
            gap = 0.5 + (entropies[1] - entropies[0]) / (2 * math.log(logs[0].shape[-1]))
            same = (logs[0].argmax(-1) == logs[1].argmax(-1)).to(gap.dtype)
            found = torch.stack([*missing, gap, same])
            return torch.cat([found.mean(1), found.flatten()])

        last = episode.batches.shape[-2] - 1
        step: int | np.ndarray = min(state.step, last) if isinstance(state.step, int) else state.step.clip(max=last)
        with torch.no_grad():
            return self._map(features)(state.parameters, state.buffers, *self.minibatch(episode, step))


def batched(single: Dynamics, path: Literal["vmap", "loop"], recorder: Recorder | None = None) -> BatchedDynamics:
    """The training of several students, or pairs; see `BatchedDynamics`."""
    if isinstance(single, JointDynamics):
        return BatchedJointDynamics(single, path)
    return BatchedDynamics(single, path, recorder)


class BatchedJointDynamics(BatchedDynamics, JointDynamics):
    """The training of B pairs in one computation."""

    def __init__(self, single: JointDynamics, path: Literal["vmap", "loop"]) -> None:
        """Takes the single training's pieces."""
        super().__init__(single, path)
        self.teacher = copy(self)
        own = single.teacher
        self.teacher.single, self.teacher.prefix, self.teacher.ends_step = own, own.prefix, own.ends_step
        self.teacher.loss, self.teacher.learning_rate = own.loss, own.learning_rate
