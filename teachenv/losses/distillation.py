"""Distillation: per-sample weights in the loss of a teacher that learns beside its student."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from teachenv import checks
from teachenv.losses.base import LossFamily, weighted
from teachenv.losses.plain import cross_entropy
from teachenv.precision import in_full_precision
from teachenv.students.pair import STUDENT, TEACHER
from teachenv.students.prediction import Prediction


def halves(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of (teacher, student) from the outputs of a `teachenv.students.pair.Pair`."""
    teacher, student = outputs.chunk(2, -1)
    return teacher, student


def expectation(p: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Σ_c p_c v_c over the last dimension; a class of no probability adds nothing, and brings no gradient.

    log p is −∞ of a class whose logit is (a masked action, a padded vocabulary), and IEEE's 0 · ∞ is NaN.

    Args:
        p: probabilities, (..., classes).
        values: such as log-probabilities, of that shape.
    """
    return weighted(p, values).sum(-1)


@in_full_precision
def divergence(taught: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL(T ‖ S) of T = softmax(z_T/τ) and S = softmax(z_S/τ), (batch,), without a factor τ².

    Logits may be −∞: 0 log 0 = 0, and the divergence is ∞ where only the student's is. It is computed in float32 or
    float64, whatever autocast says.

    Args:
        taught: logits z_T whose distribution is the target, (batch, classes).
        logits: logits z_S that are trained, (batch, classes).
        temperature: temperature τ of both softmaxes.
    """
    log_target, log_student = (F.log_softmax(z / temperature, -1) for z in (taught, logits))
    return expectation(log_target.exp(), log_target - log_student)


class _OfTeacher(LossFamily):
    """The loss that moves the teacher network in distillation."""

    def __init__(self, family: Distillation) -> None:
        self.family = family

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        return self.family.action_size(num_outputs, batch_size)

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        return self.family.of_teacher(action, prediction, targets)


class Distillation(LossFamily):
    """Two losses of a minibatch; the teacher steps along the first, and then the student along the second.

        teacher:  α CE(y, T) + (1 − α) mean_i w_i KL(S_i ‖ T_i),      w_i = 1 + scale · a_i
        student:  λ CE(y, S) + (1 − λ) mean_i KL(T_i ‖ S_i)

    The zero action is online distillation with uniform weights (ProKT; Ren et al. 2023 without influence). Coordinate i
    belongs to the i-th sample of the current minibatch.

    Args:
        scale: how far an action changes a weight; above 1, weights can be negative, as those of Ren et al. are.
        teacher_labels: weight α of the labels in the teacher's loss.
        student_labels: weight λ of the labels in the student's loss.
        temperature: τ, which divides logits; there is no factor τ².
    """

    coefficient_label = "weights of the minibatch in the teacher's distillation loss"
    of_pairs = True
    reads = ("labels",)
    of_places = True

    def __init__(
        self,
        scale: float = 1.0,
        teacher_labels: float = 0.6,
        student_labels: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        self.scale = checks.number("scale", scale, above=0)
        self.temperature = checks.number("temperature", temperature, above=0)
        self.teacher_labels = checks.number("teacher_labels", teacher_labels, least=0, most=1)
        self.student_labels = checks.number("student_labels", student_labels, least=0, most=1)

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each sample of a minibatch."""
        return batch_size

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The student's loss; the action has no part in it."""
        teacher, student = halves(prediction.outputs)
        distance, weight = divergence(teacher, student, self.temperature).mean(), self.student_labels
        return weight * cross_entropy(Prediction(student), targets).mean() + (1 - weight) * distance

    def of_teacher(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The teacher's loss, which weighs samples by the action."""
        teacher, student = halves(prediction.outputs)
        distances, weight = divergence(student, teacher, self.temperature), self.teacher_labels
        distance = distances.mean() + self.scale * weighted(action, distances).mean()
        return weight * cross_entropy(Prediction(teacher), targets).mean() + (1 - weight) * distance

    def sides(self) -> tuple[tuple[LossFamily, str], ...]:
        """The teacher's loss moves the teacher, and then the student's the student."""
        return (_OfTeacher(self), TEACHER), (self, STUDENT)

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """The weights, one row."""
        return 1.0 + self.scale * action.view(1, -1)
