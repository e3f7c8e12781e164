"""What the environment and the vector environment have in common: settings turned into data, dynamics and spaces.

The observation is L2T-DLF's state vector (its section 4.1): progress (student steps over horizon), train accuracy, dev
accuracy, dev precision of each class; each in [0, 1]. The paper leaves open what "current train accuracy" is measured
on: here on the minibatches of the last action, before each update, which costs nothing; the untrained student's on its
first minibatch.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from teachenv import checks
from teachenv.dynamics import Dynamics, Move
from teachenv.errors import unknown_name
from teachenv.fingerprints import describe
from teachenv.idle import refuse_idle
from teachenv.joint import BATCH_FIELDS, PairMeasure, batch_features, pair_moves
from teachenv.losses import LossFamily, make_loss
from teachenv.losses.distillation import Distillation
from teachenv.minibatches import minibatches
from teachenv.optimizers import make_optimizer
from teachenv.randomness import Purpose, generator
from teachenv.recording import Recorder, recorder_of
from teachenv.schedules import Schedule, make_schedule
from teachenv.settings import Settings
from teachenv.state import Episode, StudentState
from teachenv.students import FunctionalStudent, StudentFactory, make_student
from teachenv.students.pair import Pair
from teachenv.tasks import OPTIONS_OF_ALL, make_task
from teachenv.tasks.base import ClassificationMeasure, Measure, Task
from teachenv.tasks.decisions import LikelihoodMeasure, SingleDecisions
from teachenv.teaching_checks import check_networks, check_sizes, checked_action

BASE_FIELDS = ("progress", "train_accuracy", "dev_accuracy")
"""Of measures whose score is an accuracy; others have their own name in its place."""


class Teaching:
    """A teaching problem: one task, one kind of student, one loss family.

    Attributes:
        settings: what it was made from.
        fingerprint: the settings as a snapshot carries them.
        task: pool and test data, label noise in place.
        dynamics: the training of one student.
        observation_fields: name of each observation coordinate.
        observation_space: Box(0, 1).
        action_space: Box(-1, 1).
        neutral_action: the zero action.
        actions: actions in an episode.
        recorder: for batched steps, where the dynamics is known to be pure; see `teachenv.recording`.

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
        device = _device(settings.device)
        dtype = torch.float64 if settings.dtype == "float64" else torch.float32
        self.task, clean_targets = _load(settings, dtype, device)
        refuse_idle(settings, given, self.task)
        check_sizes(settings, self.task, self.train_size)
        loss = (
            settings.loss if isinstance(settings.loss, LossFamily) else make_loss(settings.loss, settings.loss_kwargs)
        )
        check_networks(settings, self.task, loss)
        self.decisions = SingleDecisions() if self.task.decisions is None else self.task.decisions
        measure = self._measure(loss)
        student = self._student(dtype, device)
        if loss.needs_head:
            student.require_head()
        optimizer = make_optimizer(
            settings.optimizer,
            settings.optimizer_kwargs,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
        self.dynamics = Dynamics(
            student=student,
            task=self.task,
            measure=measure,
            decisions=self.decisions,
            augmentation=self.task.augment if self._augments() else None,
            dev_measured=settings.dev_measured,
            dev_targets=self.task.pool[1] if settings.dev_noise else clean_targets,
            optimizer=optimizer,
            schedule=self._schedule(dtype),
            moves=self._moves(loss),
            warm_start=settings.warm_start,
            known_pure=self._known_pure(),
        )
        self.actions = settings.horizon // settings.steps_per_action
        self.recorder = self._recorder()
        floating = np.float64 if settings.dtype == "float64" else np.float32
        fields = tuple(field.replace("accuracy", measure.score_name) for field in BASE_FIELDS)
        self.observation_fields = fields + tuple(measure.feature_names)
        if loss.of_pairs:
            each = (f"{name}_{i}" for name in BATCH_FIELDS for i in range(settings.batch_size))
            self.observation_fields += (*BATCH_FIELDS, *each)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (len(self.observation_fields),), floating)
        size = loss.action_size(self.task.num_outputs, settings.batch_size)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (size,), floating)
        self.neutral_action = torch.zeros(size, dtype=dtype, device=device)

    @functools.cached_property
    def fingerprint(self) -> dict[str, str]:
        """See the class; computed when it is first needed, since it reads all data of a task of one's own."""
        return self.settings.fingerprint()

    def _moves(self, loss: LossFamily) -> tuple[Move, ...]:
        rate, teacher_rate = self.settings.learning_rate, self.settings.teacher_learning_rate
        if isinstance(loss, Distillation):
            return pair_moves(loss, rate if teacher_rate is None else teacher_rate, rate)
        return (Move(loss, rate),)

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
        if settings.teacher is not None:
            factory = partial(_pair, self._network(settings.teacher, settings.teacher_kwargs), factory)
            networks = 2
        student = FunctionalStudent(
            factory,
            inputs[: settings.batch_size],
            dtype,
            device,
            autocast=settings.autocast is not None,
            known=isinstance(settings.student, str) and isinstance(settings.teacher, str | None),
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
        return make_student(chosen, tuple(self.task.pool[0].shape[1:]), self._output_shape[0], options)

    @property
    def _output_shape(self) -> tuple[int, ...]:
        """Of one network, for one sample."""
        return self.decisions.output_shape(self.task.num_outputs, tuple(self.task.pool[1].shape[1:]))

    @property
    def classifies(self) -> bool:
        """Whether each sample has one label, and a student is judged by how many of them it finds."""
        own = self.task.measure is not None and not isinstance(self.task.measure, ClassificationMeasure)
        return not own and self.task.decisions is None and self.settings.teacher is None

    def _measure(self, loss: LossFamily) -> Measure:
        likelihood = self.settings.objective == "likelihood"
        if self.task.measure is not None:
            if likelihood:
                raise ValueError(
                    f"task {self.task.name!r} has an objective of its own, found objective='likelihood'; leave it out"
                )
            return self.task.measure
        if loss.of_pairs:
            return PairMeasure()
        decisions = self.decisions.judged_by(self.settings.objective)
        measure = decisions.measure(self.task.num_outputs, self.settings.objective_temperature)
        return LikelihoodMeasure(measure, self.decisions) if likelihood else measure

    def _augments(self) -> bool:
        wanted = self.settings.augment
        if wanted and self.task.augment is None:
            raise ValueError(f"augment=True, but task {self.task.name!r} has no augmentation; leave augment out")
        return self.task.augment is not None if wanted is None else wanted

    def _known_pure(self) -> bool:
        """Whether network, loss and measure are all this package's own."""
        settings = self.settings
        own = isinstance(settings.teacher, str | None) and isinstance(settings.student, str)
        judged = self.task.measure is None and (self.task.decisions is None or isinstance(settings.task, str))
        return judged and own and isinstance(settings.loss, str)

    def _recorder(self) -> Recorder | None:
        # Recordings are kept by name, and a joint step has two gradients.
        if not self.dynamics.known_pure or len(self.dynamics.moves) > 1 or self.dynamics.measure.decodes:
            return None
        student, loss = ("student", "student_kwargs"), ("loss", "loss_kwargs")
        decides = (*student, *loss, "objective", "objective_temperature", "dtype", "autocast")
        described = [describe(getattr(self.settings, name)) for name in decides]
        read = type(self.decisions).__name__, self.task.num_outputs
        return recorder_of(str([*described, *read, self.settings.device]))

    @property
    def train_size(self) -> int:
        """Training samples in an episode."""
        pool = len(self.task.pool[0])
        if self.settings.train_on == "pool":
            return pool
        return pool - self.settings.dev_size if self.settings.train_size is None else self.settings.train_size

    def episode(self, seed: int) -> Episode:
        """The episode of a seed: its split and its minibatches (reshuffled each epoch, incomplete ones left out)."""
        settings, pool = self.settings, len(self.task.pool[0])
        split = generator(seed if settings.resplit else settings.split_seed, Purpose.SPLIT).permutation(pool)
        dev = split[: settings.dev_size]
        train = split if settings.train_on == "pool" else split[settings.dev_size : settings.dev_size + self.train_size]
        rng, lengths = generator(seed, Purpose.BATCHES), self.task.lengths
        batches = minibatches(rng, train, settings.batch_size, settings.horizon, lengths)
        on_device = [
            torch.from_numpy(np.ascontiguousarray(i)).to(self.task.pool[0].device) for i in (batches, dev, train)
        ]
        return Episode((seed,), *on_device)

    def begin(
        self, dynamics: Dynamics, episode: Episode, dev: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[StudentState, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The student at the episode's begin, or a batch of them: (state, train score, what `measure` gives).

        Raises:
            ValueError: what it measures is not finite, and why that may be.
        """
        student = dynamics.init(episode)
        first = dynamics.metrics(student, *dynamics.minibatch(episode, student.step))
        score = self.train_score(dynamics, student, episode, first[1].double().cpu().numpy())
        measured = self.measure(dynamics, student, dev, episode)
        if not all(np.isfinite(numbers).all() for numbers in (score, *measured)):
            raise ValueError(self._blamed(dynamics, episode, dev))
        return student, score, measured

    def _blamed(self, dynamics: Dynamics, episode: Episode, dev: tuple[torch.Tensor, torch.Tensor]) -> str:
        """Why a student is not finite at its episode's begin: its warm start, or what it is before."""
        settings = self.settings
        untrained = self.measure(dynamics, dynamics.untrained(episode), dev, episode)
        if settings.warm_start and all(np.isfinite(numbers).all() for numbers in untrained):
            return (
                f"the student diverged in its warm start of {settings.warm_start} steps at "
                f"learning_rate={settings.learning_rate:g}: make learning_rate or warm_start smaller"
            )
        return (
            f"the untrained student's outputs on dev are not finite: check the initialisation of student "
            f"{checks.shown(settings.student)} and the inputs of task {self.task.name!r}"
        )

    def advance(
        self, dynamics: Dynamics, student: StudentState, episode: Episode, action: torch.Tensor
    ) -> tuple[StudentState, np.ndarray, np.ndarray]:
        """Trains a student, or a batch, for one action: (state, mean loss, mean score), the means () or (B,)."""
        losses, scores = [], []
        for _ in range(self.settings.steps_per_action):
            student, outcome = dynamics.step(student, episode, action)
            losses.append(outcome.loss)
            scores.append(outcome.train_score)
        return student, _mean(losses), _mean(scores)

    def measure(
        self,
        dynamics: Dynamics,
        student: StudentState,
        dev: tuple[torch.Tensor, torch.Tensor],
        episode: Episode | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(objective, score, features) on dev, in float64: () or (B,), and (k,) or (B, k).

        With an episode the features are all that is observed, those of its next minibatch among them.
        """
        objective, score, features = dynamics.metrics(student, *dev)
        if episode is not None and dynamics.loss.of_pairs:
            features = torch.cat([features, batch_features(dynamics, student, episode)], -1)
        return tuple(t.double().cpu().numpy() for t in (objective, score, features))  # type: ignore[return-value]

    def train_score(
        self, dynamics: Dynamics, student: StudentState, episode: Episode, of_minibatches: np.ndarray
    ) -> np.ndarray:
        """What is observed of training data, () or (B,): the score of the last minibatches as they were trained on.

        A measure that decodes (BLEU of translations) is taken on a fixed sample of the training data instead.
        """
        if not dynamics.measure.decodes:
            return of_minibatches
        return dynamics.metrics(student, *dynamics.train_sample(episode))[1].double().cpu().numpy()

    def evaluate(
        self,
        dynamics: Dynamics,
        students: StudentState,
        episode: Episode,
        split: str,
        diverged: np.ndarray | bool = False,
    ) -> dict[str, np.ndarray]:
        """What `TeachEnv.evaluate` returns for a student, or for a batch: each value () or (B,).

        Args:
            dynamics: of the student, or of the batch.
            students: their state.
            episode: their episode.
            split: see `split`.
            diverged: whether the student is known to have diverged, () or (B,).
        """
        inputs, targets = self.split(dynamics, episode, split)
        objective, score, _ = self.measure(dynamics, students, (inputs, targets))
        broken = np.asarray(~(np.isfinite(objective) & np.isfinite(score)))
        if broken.any():
            blank = (t.double().cpu().numpy() for t in dynamics.blank_metrics(students, inputs, targets))
            objective, score = (np.where(broken, b, v) for b, v in zip(blank, (objective, score), strict=True))
        found = {f"{split}_accuracy": score, f"{split}_error": 1.0 - score, f"{split}_objective": objective}
        found |= self._reports(dynamics, students, inputs, targets, split, broken)
        return found | {"diverged": broken | diverged}

    def _reports(
        self,
        dynamics: Dynamics,
        students: StudentState,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        split: str,
        broken: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """The measure's further numbers, each () or (B,)."""
        measure = dynamics.measure
        if not measure.reported:
            return {}
        if measure.decodes:
            report = dynamics.report(students, inputs, targets)
            return {f"{split}_{name}": value.numpy() for name, value in report.items()}
        outputs = dynamics.outputs(students, inputs)
        finite = torch.as_tensor(~broken, device=outputs.device).view(
            *broken.shape, *[1] * (outputs.dim() - broken.ndim)
        )
        outputs = torch.where(finite, outputs, 0.0)
        each = zip(outputs, targets, strict=True) if broken.ndim else [(outputs, targets)]
        reports = [measure.report(*one) for one in each]
        return {
            f"{split}_{name}": np.array([report[name] for report in reports]).reshape(broken.shape)
            for name in measure.reported
        }

    def observe(
        self, step: int | np.ndarray, train_score: np.ndarray, dev_score: np.ndarray, features: np.ndarray
    ) -> np.ndarray:
        """The observation, (3 + k,) or (B, 3 + k): the fields stacked and clipped to [0, 1]."""
        progress = np.asarray(step) / self.settings.horizon
        values = np.empty((*features.shape[:-1], len(self.observation_fields)), dtype=self.observation_space.dtype)
        values[..., 0], values[..., 1], values[..., 2], values[..., 3:] = progress, train_score, dev_score, features
        return values.clip(0.0, 1.0, out=values)

    def split(self, dynamics: Dynamics, episode: Episode, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of `"train"`, `"dev"`, `"pool"` or `"test"`; per student for a batch of episodes.

        Raises:
            ValueError: an unknown name.
        """
        if name == "dev":
            return self.task.pool[0][episode.dev], dynamics.dev_targets[episode.dev]
        if name == "train":
            return self.task.pool[0][episode.train], self.task.pool[1][episode.train]
        if name not in ("pool", "test"):
            raise unknown_name("split", name, ("train", "dev", "pool", "test"))
        inputs, targets = self.task.pool if name == "pool" else self.task.test
        batch = episode.dev.shape[:-1]
        return inputs.expand(*batch, *inputs.shape), targets.expand(*batch, *targets.shape)

    def parse_action(self, action: Any, shape: tuple[int, ...]) -> torch.Tensor:
        """An action, or a batch of them, as a tensor; see `checked_action`."""
        array = checked_action(action, shape, self.action_space)
        return torch.as_tensor(array, dtype=self.neutral_action.dtype, device=self.neutral_action.device)


def _pair(teacher: StudentFactory, student: StudentFactory) -> Pair:
    return Pair(teacher(), student())


def _mean(values: Sequence[torch.Tensor]) -> np.ndarray:
    # One step an action is common, and a student in training notices three calls more.
    mean = torch.stack(list(values)).double().mean(0) if len(values) > 1 else values[0].double()
    return mean.cpu().numpy()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _load(settings: Settings, dtype: torch.dtype, device: torch.device) -> tuple[Task, torch.Tensor]:
    """The task with its label noise, and the pool's labels without it."""
    if not isinstance(settings.task, Task):
        own = {name: getattr(settings, name) for name in OPTIONS_OF_ALL}
        for name in settings.task_kwargs:
            if name in own:
                raise TypeError(f"task_kwargs holds {name!r}, which is an option of the environment itself")
        task = make_task(settings.task, **own, **settings.task_kwargs)
    else:
        task = settings.task
        task = task.subset_pool(settings.pool_size, settings.split_seed) if settings.pool_size is not None else task
    task = task.to(dtype, device)
    clean = task.pool[1]
    if settings.label_noise:
        task = task.with_label_noise(settings.label_noise, settings.label_noise_kind, settings.split_seed)
    return task, clean
