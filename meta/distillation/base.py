"""One trainer for all ways to distil: in a step, a minibatch, the teacher may learn, and then the student does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meta.distillation.batch import Batch, checked_batch
from meta.distillation.learner import Learner, Outputs, check_classes, check_network
from meta.distillation.losses import cross_entropy, divergence
from teachenv import checks
from teachenv.modes import evaluating
from teachenv.optimizers import Adam, Tensors
from teachenv.schedules import make_schedule


@dataclass(frozen=True)
class DistillationSettings:
    """Options of all methods; the defaults are those of Ren et al. 2023, or of their released code where they differ.

    Attributes:
        steps: the number of training steps, over which learning rates fall linearly to zero; there is none after
            these.
        student_rate: AdamW's learning rate of the student (the paper's grid: 3e-5, 5e-5, 1e-4).
        teacher_rate: AdamW's learning rate of the teacher, for methods whose teacher learns.
        weight_decay: AdamW's weight decay, of student and teacher.
        temperature: τ, which divides logits; there is no factor τ².
        student_labels: weight λ of the labels' cross-entropy in the student's loss, the rest is the teacher's. The
            paper's eq. 1 has α = 0.6, its code 0: students see no label.
        teacher_labels: weight α of the labels' cross-entropy in the loss of a teacher that learns.
        teacher_first: whether a teacher that learns takes its step on a minibatch before the student does, as in the
            paper, or after it.
    """

    steps: int
    student_rate: float = 5e-5
    teacher_rate: float = 3e-5
    weight_decay: float = 0.0
    temperature: float = 1.0
    student_labels: float = 0.0
    teacher_labels: float = 0.6
    teacher_first: bool = True

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: a setting out of its range.
        """
        checks.integer("steps", self.steps, least=1)
        for name in ("student_labels", "teacher_labels"):
            checks.number(name, getattr(self, name), least=0, most=1)
        for name in ("student_rate", "teacher_rate", "temperature"):
            checks.number(name, getattr(self, name), above=0)
        checks.number("weight_decay", self.weight_decay, least=0)
        checks.flag("teacher_first", self.teacher_first)


class Distiller:
    """Trains a student on a teacher's outputs. Methods say what the student's loss is, and how the teacher learns.

    A network learns in training mode, whatever mode it is given in; batch norm that was frozen (`network.norm.eval()`
    in a network that is in training mode) stays in evaluation mode. A network that does not learn at the time is in
    evaluation mode, and in its own mode afterwards.

    Args:
        teacher: a network; changed in place by methods whose teacher learns.
        student: a network, changed in place.
        settings: options that all methods share.

    Raises:
        TypeError: a network that is no module, or other settings.
    """

    teacher_learns = False
    """Whether the teacher is trained beside the student; if not, it should be fine-tuned on the task before."""

    needs_feedback = False
    """Whether a step takes a held-out batch."""

    def __init__(self, teacher: nn.Module, student: nn.Module, settings: DistillationSettings) -> None:
        check_network("teacher", teacher)
        check_network("student", student)
        if not isinstance(settings, DistillationSettings):
            raise TypeError(f"found settings {checks.shown(settings)}, expected meta.DistillationSettings(steps=...)")
        self.settings = settings
        self.teacher = self._learner(teacher, settings.teacher_rate)
        self.student = self._learner(student, settings.student_rate)

    def _learner(self, network: nn.Module, rate: float) -> Learner:
        settings = self.settings
        optimizer = Adam(weight_decay=settings.weight_decay, decoupled=True)
        return Learner(network, optimizer, rate, make_schedule("linear", settings.steps))

    def prepare(self, data: Batch) -> None:
        """Gets all of the training data before the first step; most methods do nothing with it."""

    def step(self, batch: Batch, feedback: Batch | None = None) -> dict[str, float]:
        """Takes the teacher's step, if it learns, and the student's, each with the other network as it is then.

        Dropout draws from torch's global generator: seed it, or wrap the call in a fork of it, for a run that can be
        repeated.

        Args:
            batch: the minibatch that both learn on.
            feedback: a batch of held-out data, for methods with `needs_feedback`.

        Returns:
            Numbers to log, `student_loss` at least.

        Raises:
            RuntimeError: all of the settings' steps are taken.
            TypeError: a batch that is no `Batch`, or not of tensors.
            ValueError: the method needs feedback and there is none; or the outputs of the networks, and the labels, do
                not fit each other.
        """
        steps = self.settings.steps
        # From there on the learning rate is negative, and a step away from what it minimises.
        if self.student.steps >= steps:
            raise RuntimeError(
                f"all {steps} steps of settings.steps are taken, after which the learning rate is 0; give "
                "DistillationSettings(steps=...) as many as you take"
            )
        if self.needs_feedback and feedback is None:
            raise ValueError(f"{type(self).__name__} learns from held-out data: call step(batch, feedback)")
        batch = checked_batch("the batch", batch)
        if feedback is not None:
            feedback = checked_batch("feedback", feedback)
        teacher_first = self.settings.teacher_first or not self.teacher_learns
        logged = self.teach(batch, feedback) if teacher_first else {}
        gradient, loss = self.student_gradient(batch, training=True)
        self.student.descend(gradient)
        if not teacher_first:
            logged = self.teach(batch, feedback)
        return {**logged, "student_loss": loss}

    def teach(self, batch: Batch, feedback: Batch | None) -> dict[str, float]:
        """Takes the teacher's step, and returns numbers to log; a fixed teacher takes none."""
        return {}

    def student_gradient(self, batch: Batch, *, training: bool, taught: Outputs | None = None) -> tuple[Tensors, float]:
        """Returns (the gradient of the student's loss under the teacher as it is, that loss).

        Args:
            batch: the minibatch that the student learns on.
            training: whether the student is in its own mode, with its dropout; the teacher is in evaluation mode.
            taught: the teacher's outputs on the minibatch, if they are known already; None: they are computed.
        """
        if taught is None:
            with torch.no_grad():
                taught = self.teacher.outputs(batch, training=False)
        # The gradient is taken in the same mode, for parts that are computed again then (checkpointing).
        with nullcontext() if training else evaluating(self.student.network):
            outputs = self.student.outputs(batch, training=training)
            check_classes(taught, outputs)
            loss = self.student_loss(outputs, taught, batch.classes)
            return self.student.gradient(loss), float(loss.detach())

    def student_loss(self, outputs: Outputs, taught: Outputs, labels: torch.Tensor) -> torch.Tensor:
        """Computes λ CE(y, S) + (1 − λ) · `distillation_loss`, λ the settings' `student_labels`.

        Args:
            outputs: the student's, of N decisions.
            taught: the teacher's.
            labels: the decisions' classes, (N,).
        """
        weight, loss = self.settings.student_labels, self.distillation_loss(outputs, taught)
        return weight * cross_entropy(outputs.logits, labels) + (1 - weight) * loss if weight else loss

    def distillation_loss(self, outputs: Outputs, taught: Outputs) -> torch.Tensor:
        """Computes KL(T ‖ S), averaged over decisions (Hinton et al. 2015)."""
        return divergence(taught.logits, outputs.logits, self.settings.temperature).mean()

    def loss_of_logits(self, taught: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Computes the distillation loss from the teacher's logits and the student's, (N, classes) each."""
        return self.distillation_loss(Outputs(logits), Outputs(taught))

    def state(self) -> dict[str, Any]:
        """Returns both networks and their optimisers, from which a later run goes on."""
        return {"teacher": self.teacher.state(), "student": self.student.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Puts both networks and their optimisers into what `state` returned."""
        self.teacher.load(state["teacher"])
        self.student.load(state["student"])


class OnlineDistiller(Distiller):
    """A distiller whose teacher learns on each minibatch, before the student does."""

    teacher_learns = True

    def teach(self, batch: Batch, feedback: Batch | None) -> dict[str, float]:
        """Takes one step of the teacher along `teacher_gradient`; returns numbers to log."""
        gradient, logged = self.teacher_gradient(batch, feedback)
        self.teacher.descend(gradient)
        return logged

    def teacher_gradient(self, batch: Batch, feedback: Batch | None) -> tuple[Tensors, dict[str, float]]:
        """Computes the gradient of the teacher's loss α CE(y, T) + (1 − α) KL(S ‖ T), S detached, and what to log."""
        with torch.no_grad():
            student = self.student.outputs(batch, training=False)
        outputs, weight = self.teacher.outputs(batch, training=True), self.settings.teacher_labels
        check_classes(outputs, student)
        near = divergence(student.logits, outputs.logits, self.settings.temperature).mean()
        loss = weight * cross_entropy(outputs.logits, batch.classes) + (1 - weight) * near
        return self.teacher.gradient(loss), {"teacher_loss": float(loss.detach())}
