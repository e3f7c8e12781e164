"""A teaching problem: settings turned into data, a student's training, and the episodes that there are of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from teachenv import checks
from teachenv.control import Control
from teachenv.dynamics import Dynamics
from teachenv.episodes import Episodes
from teachenv.fingerprints import describe, digest
from teachenv.idle import refuse_idle
from teachenv.joint import PairMeasure
from teachenv.losses import LossFamily, make_loss
from teachenv.mapping import Vmap
from teachenv.optimizers import make_optimizer
from teachenv.problem_checks import (
    check_control,
    check_learned,
    check_networks,
    check_observed,
    check_sizes,
    check_targets,
)
from teachenv.problem_fingerprint import ProblemFingerprint
from teachenv.recording import recorder_of
from teachenv.rows import Rows
from teachenv.schedules import Schedule, make_schedule
from teachenv.settings import Settings
from teachenv.student_update import Move
from teachenv.students import FunctionalStudent, StudentFactory, functional_student, make_student
from teachenv.students.calling import Call
from teachenv.students.pair import TEACHER, Pair
from teachenv.tasks import OPTIONS_OF_ALL, make_task
from teachenv.tasks.base import Task
from teachenv.tasks.decisions import SingleDecisions
from teachenv.tasks.measures import Measure
from teachenv.trial import action_size, ours, output_shape, sides, try_pieces


class Problem:
    """A teaching problem: one task, one kind of student, one loss family.

    Attributes:
        settings: what it was made from.
        task: the data, label noise in place.
        rows: its labelled samples, which the indices of episodes point into.
        decisions: how a student's outputs are read by the loss.
        dynamics: the training of one student.
        episodes: which samples each episode draws.
        actions: actions in an episode.
        neutral_action: the zero action, (n,).

    Args:
        settings: the options.
        given: names of those that a user chose: they must have an effect, see `teachenv.idle`.

    Raises:
        ValueError: settings that do not fit the data or one another.
        DatasetUnavailable: the data cannot be had.
    """

    def __init__(self, settings: Settings, given: Collection[str] = ()) -> None:
        """Loads the data and builds the student's dynamics."""
        self.settings = settings
        device = checks.device("device", settings.device)
        dtype = torch.float64 if settings.dtype == "float64" else torch.float32
        self.task, self.rows = _load(settings, dtype, device)
        refuse_idle(settings, given, self.task)
        loss = (
            settings.loss if isinstance(settings.loss, LossFamily) else make_loss(settings.loss, settings.loss_kwargs)
        )
        check_learned(settings, self.task, loss)
        self.episodes = Episodes(self.task, settings, self.rows)
        check_sizes(self.episodes)
        check_networks(settings, self.task, loss)
        loss = loss.fitted(self.task)
        check_observed(settings, self.task, loss, self.classifies)
        check_targets(settings, self.task, loss)
        self.decisions = SingleDecisions() if self.task.decisions is None else self.task.decisions
        measure = self._measure(loss)
        optimizer = make_optimizer(
            settings.optimizer,
            settings.optimizer_kwargs,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
        schedule = self._schedule(dtype)
        # Before anything is called that may keep something.
        self._fingerprint = ProblemFingerprint(self.episodes, loss, optimizer)
        student = self._student(dtype, device)
        if loss.needs_head:
            student.require_head()
        augmentation = self.task.augment if self._augments() else None
        drawn_and_moved = [piece for piece in (augmentation, self.task.trim, optimizer) if piece is not None]
        self.dynamics = Dynamics(
            student=student,
            task=self.task,
            rows=self.rows,
            measure=measure,
            decisions=self.decisions,
            augmentation=augmentation,
            dev_measured=settings.dev_measured,
            optimizer=optimizer,
            moves=self._moves(loss, schedule),
            warm_start=settings.warm_start,
            known_pure=self._known(loss, measure) and all(map(ours, drawn_and_moved)),
        )
        self.actions = settings.horizon // settings.steps_per_action
        self.neutral_action = torch.zeros(self.dynamics.control.size, dtype=dtype, device=device)
        moves = try_pieces(self.dynamics, settings.batch_size, self.neutral_action, settings.optimizer)
        self.dynamics = replace(self.dynamics, moves=moves)

    @property
    def fingerprint(self) -> dict[str, str]:
        """The settings as a snapshot carries them; see `ProblemFingerprint`."""
        return self._fingerprint.current()

    def _moves(self, loss: LossFamily, schedule: Schedule) -> tuple[Move, ...]:
        size = action_size(loss, self.task.num_outputs, self.settings.batch_size)
        if loss.of_pool:
            size = size // self.settings.batch_size * len(self.task.pool[0])
        if loss.of_domains:
            size -= self.settings.batch_size
        controlled = check_control(self.settings, self.task, self._augments())
        control = Control(size, "loss" in controlled, tuple(name for name in controlled if name != "loss"))
        rate, teacher_rate = self.settings.learning_rate, self.settings.teacher_learning_rate
        if teacher_rate is None:
            teacher_rate = rate
        return tuple(
            Move(side, teacher_rate if prefix == TEACHER else rate, schedule, control, prefix)
            for side, prefix in sides(loss)
        )

    def _schedule(self, dtype: torch.dtype) -> Schedule:
        """The schedule, whose rates the student's dtype must hold to the last step."""
        settings = self.settings
        schedule = make_schedule(settings.lr_schedule, settings.horizon)
        factors = np.abs(np.asarray(schedule(np.arange(settings.horizon)), dtype=float))
        largest = float(factors.max()) * max(settings.learning_rate, settings.teacher_learning_rate or 0.0)
        if not largest <= torch.finfo(dtype).max:
            raise ValueError(
                f"lr_schedule={settings.lr_schedule!r} makes learning_rate={settings.learning_rate:g} as large as "
                f"{largest:g}, more than {settings.dtype} holds; choose a smaller gamma"
            )
        return schedule

    def _student(self, dtype: torch.dtype, device: torch.device) -> FunctionalStudent:
        settings, inputs = self.settings, self.task.pool[0]
        factory, networks = self._network(settings.student, settings.student_kwargs), 1
        packing = self.task.packing
        call = Call(settings.output, None if packing is None else packing.unpack)
        if settings.teacher is not None:
            factory = partial(_pair, self._network(settings.teacher, settings.teacher_kwargs), factory, call)
            networks, call = 2, Call()
        student = functional_student(
            factory,
            inputs[: settings.batch_size],
            dtype,
            device,
            autocast=settings.autocast is not None,
            known=isinstance(settings.student, str) and isinstance(settings.teacher, str | None),
            call=call,
        )
        each = self._output_shape
        expected = (networks * each[0], *each[1:])
        if student.output_shape != expected:
            raise ValueError(
                f"{'the student has' if networks == 1 else 'teacher and student together have'} outputs of shape "
                f"{student.output_shape} for a sample, but task {self.task.name!r} needs {expected}"
            )
        return student

    def _network(self, chosen: str | StudentFactory, options: Mapping[str, Any]) -> StudentFactory:
        if not isinstance(chosen, str):
            return chosen
        if self.task.packing is not None:
            raise ValueError(
                f"student {chosen!r} takes one array, but samples of task {self.task.name!r} have the inputs "
                f"{self.task.packing.names}; pass your own network, whose forward takes them by these names"
            )
        return make_student(chosen, tuple(self.task.pool[0].shape[1:]), self._output_shape[0], options)

    @property
    def _output_shape(self) -> tuple[int, ...]:
        """Of one network, for one sample."""
        return output_shape(self.task, self.decisions)

    @property
    def meaning(self) -> dict[str, str]:
        """What decides which loss an action stands for, by name: a teacher of another meaning would not fit.

        These are `"loss"`, in words; `"content"`, a digest of it (a loss of your own is known by its class's name);
        `"control"`, what actions set; and `"classes"`, as `Decisions.classes` has it.
        """
        settings, loss = self.settings, self.dynamics.loss
        named = isinstance(settings.loss, str)
        return {
            "loss": f"loss={settings.loss!r}, loss_kwargs={dict(settings.loss_kwargs)}" if named else _name(loss),
            "content": digest(loss) if named else _name(loss),
            "control": ", ".join(settings.control),
            "classes": self.decisions.classes or "classes",
        }

    @property
    def classifies(self) -> bool:
        """Whether each sample has one label, and a student is judged by how many of them it finds."""
        return self.task.target_kind == "labels" and self.settings.teacher is None

    def _measure(self, loss: LossFamily) -> Measure:
        named = self.settings.objective
        if self.task.measure is not None:
            if named in ("likelihood", "margin"):
                raise ValueError(
                    f"task {self.task.name!r} has an objective of its own, found objective={named!r}; leave it out"
                )
            return self.task.measure
        if loss.of_pairs:
            return PairMeasure()
        settings = self.settings
        return self.decisions.judged_by(self.task.num_outputs, settings.objective_temperature, settings.objective)

    def _augments(self) -> bool:
        wanted = self.settings.augment
        if wanted and self.task.augment is None:
            raise ValueError(f"augment=True, but task {self.task.name!r} has no augmentation; leave augment out")
        return self.task.augment is not None if wanted is None else wanted

    def _known(self, loss: LossFamily, measure: Measure) -> bool:
        """Whether network, loss, measure and decisions are all this package's own: what a step computes is pure."""
        settings = self.settings
        networks = isinstance(settings.teacher, str | None) and isinstance(settings.student, str)
        judged = self.task.measure is None and (self.task.decisions is None or isinstance(settings.task, str))
        named = judged and networks and isinstance(settings.loss, str)
        return named and all(map(ours, (loss, measure, self.decisions)))

    def vmap(self) -> Vmap:
        """The mapping of many students in one call, with recordings where what they compute is known to be pure."""
        dynamics = self.dynamics
        if not self._known(dynamics.loss, dynamics.measure) or dynamics.measure.decodes:
            return Vmap()
        student, loss = ("student", "student_kwargs", "teacher", "teacher_kwargs"), ("loss", "loss_kwargs")
        decides = (*student, *loss, "objective", "objective_temperature", "dtype", "autocast")
        described = [describe(getattr(self.settings, name)) for name in decides]
        read = type(self.decisions).__name__, self.task.num_outputs
        recorder = recorder_of(str([*described, *read, self.settings.device]))
        return Vmap(recorder, (*dynamics.pieces, *(move.loss for move in dynamics.moves)))


def _name(thing: object) -> str:
    return type(thing).__qualname__


def _pair(teacher: StudentFactory, student: StudentFactory, call: Call) -> Pair:
    return Pair(teacher(), student(), call)


def _load(settings: Settings, dtype: torch.dtype, device: torch.device) -> tuple[Task, Rows]:
    """The task with its trusted dev set, its imbalance and its label noise, and its labelled samples."""
    if not isinstance(settings.task, Task):
        of_environment = {name: getattr(settings, name) for name in OPTIONS_OF_ALL}
        for name in settings.task_kwargs:
            if name in of_environment:
                raise TypeError(f"task_kwargs holds {name!r}, which is an option of the environment itself")
        task = make_task(settings.task, **of_environment, **settings.task_kwargs)
    else:
        task = settings.task
        task = task.subset_pool(settings.pool_size, settings.split_seed) if settings.pool_size is not None else task
    if settings.trusted_dev is not None:
        task = task.with_dev(settings.trusted_dev, settings.split_seed)
    task = task.with_imbalance(settings.imbalance, settings.split_seed).to(dtype, device)
    true_targets = task.pool[1]
    if settings.label_noise:
        task = task.with_label_noise(settings.label_noise, settings.label_noise_kind, settings.split_seed)
    return Rows.of(task, true_targets, settings.dev_noise)
