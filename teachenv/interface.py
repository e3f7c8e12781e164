"""What a teacher sees of students and does to them: spaces, observations, rewards and infos, for one student or for B.

The observation is L2T-DLF's state vector (its section 4.1): progress (student steps over horizon), train accuracy, dev
accuracy, dev precision of each class; each in [0, 1]. The paper leaves open what "current train accuracy" is measured
on: here on the minibatches of the last action, before each update, which costs nothing; the untrained student's on its
first minibatch.

Numbers are NumPy arrays of shape () for one student and (B,) for a batch, so that what follows from them (a reward, a
divergence, an observation) is written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from teachenv import checks
from teachenv.domain_observer import DomainLikelihoods
from teachenv.dynamics import Dynamics
from teachenv.joint import PairSamples
from teachenv.losses.distillation import halves
from teachenv.problem import Problem
from teachenv.problem_checks import checked_action, checked_inputs
from teachenv.samples import LabelledSamples, SampleObserver
from teachenv.spaces import SampleBox
from teachenv.standing import Standing, check_saved
from teachenv.state import Episode, Outcome, StudentState, stack_episodes

BASE_FIELDS = ("progress", "train_accuracy", "dev_accuracy")
"""The first observed fields; the name of the measure's score stands in the place of "accuracy"."""

_MEASURED = ("objective", "dev_score", "train_score", "train_loss")


StudentStep = Callable[[Dynamics, StudentState, Episode, torch.Tensor], tuple[StudentState, Outcome]]
"""Takes a student's step, as `Dynamics.step` does."""


def _plain_step(
    dynamics: Dynamics, student: StudentState, episode: Episode, action: torch.Tensor
) -> tuple[StudentState, Outcome]:
    return dynamics.step(student, episode, action)


class Interface:
    """The spaces of a problem, and what a training run does at an action.

    Attributes:
        observation_fields: name of each observation coordinate.
        observation_space: Box(0, 1), of one student.
        action_space: Box(-1, 1), of one student.
        observer: observes the samples of the minibatch that the next action weighs, or those of the domains that it
            weighs; None: nothing does.
        steps_taken: how many actions training runs have taken so far, of all students together.

    Args:
        problem: what is taught.
        dynamics: the training of the problem's student, or of many.
    """

    def __init__(self, problem: Problem, dynamics: Dynamics) -> None:
        self.problem, self.dynamics = problem, dynamics
        self._taking: StudentStep = _plain_step
        self.steps_taken = 0
        settings, measure = problem.settings, dynamics.measure
        fields = tuple(field.replace("accuracy", measure.score_name) for field in BASE_FIELDS)
        self.observation_fields = fields + tuple(measure.feature_names)
        self.observer = _observer(problem)
        floating = np.float64 if settings.dtype == "float64" else np.float32
        if self.observer is not None:
            self.observation_fields += self.observer.names(settings.batch_size)
        shape, of_samples = (len(self.observation_fields),), () if self.observer is None else self.observer.fields
        self.observation_space: gym.spaces.Box = gym.spaces.Box(0.0, 1.0, shape, floating)
        if of_samples:
            self.observation_space = SampleBox(
                0.0, 1.0, shape, floating, sample_fields=of_samples, samples=settings.batch_size
            )
        self.action_space = gym.spaces.Box(-1.0, 1.0, tuple(problem.neutral_action.shape), floating)

    @contextmanager
    def stepping(self, taking: StudentStep) -> Iterator[None]:
        """Inside the block student steps are taken by another function, which gives what `Dynamics.step` does."""
        before, self._taking = self._taking, taking
        try:
            yield
        finally:
            self._taking = before

    def parse_action(self, action: Any, shape: tuple[int, ...]) -> torch.Tensor:
        """An action, or a batch of them, as a tensor; see `checked_action`."""
        array, neutral = checked_action(action, shape, self.action_space), self.problem.neutral_action
        return torch.as_tensor(array, dtype=neutral.dtype, device=neutral.device)

    # --- a training ---------------------------------------------------------------------------------------------------

    def begin(self, episode: Episode) -> Standing:
        """The student at the episode's begin, or a batch of them.

        Raises:
            ValueError: what it measures is not finite, and why that may be.
        """
        student, dev = self.dynamics.init(episode), self.dynamics.dev(episode)
        first = self.dynamics.metrics(student, *self.dynamics.minibatch(episode, student.step))
        train_score = self._train_score(student, episode, first[1].double().cpu().numpy())
        memory = None if self.observer is None else self.observer.begin(self.dynamics, episode)
        (objective, score, features), memory = self._seen(student, dev, episode, memory)
        if not all(np.isfinite(numbers).all() for numbers in (train_score, objective, score, features)):
            raise ValueError(self._cause_of_divergence(episode, dev))
        return Standing(
            students=student,
            episodes=episode,
            dev=dev,
            objective=objective,
            dev_score=score,
            train_score=train_score,
            train_loss=np.zeros_like(objective),
            rate=np.broadcast_to(self.dynamics.rate(student.step), np.shape(objective)).copy(),
            observation=self._observation(student.step, train_score, score, features),
            diverged=np.zeros(np.shape(objective), dtype=bool),
            memory=memory,
        )

    def loaded(self, saved: Any, students: int = 1) -> Standing | None:
        """The standing that `Standing.saved` was called on; None of None.

        Raises:
            ValueError: it is none of so many students.
        """
        if saved is None:
            return None
        check_saved(saved, students)
        numbers = dict(saved)
        each = [self.problem.episodes.of(seed) for seed in numbers.pop("seeds")]
        episodes = stack_episodes(each) if isinstance(numbers["students"].step, np.ndarray) else each[0]
        return Standing(episodes=episodes, dev=self.dynamics.dev(episodes), **numbers)

    def step(self, before: Standing, action: torch.Tensor) -> tuple[Standing, np.ndarray]:
        """Trains for one action: (where the training runs stand then, rewards () or (B,)).

        The reward is the increase of J, or minus the penalty of a student that diverges. Such a student keeps its last
        finite numbers, and only moves on in time.
        """
        self.steps_taken += math.prod(action.shape[:-1])
        students, loss, train_score = self._trained(before.students, before.episodes, action)
        train_score = self._train_score(students, before.episodes, train_score)
        (objective, score, features), memory = self._seen(students, before.dev, before.episodes, before.memory)
        finite = np.isfinite(loss) & np.isfinite(objective) & np.isfinite(score) & np.isfinite(train_score)
        diverged = np.asarray(~(finite & np.isfinite(features).all(axis=-1)))
        after = replace(
            before,
            students=students,
            objective=objective,
            dev_score=score,
            train_score=train_score,
            train_loss=loss,
            rate=self._rate(before, action),
            observation=self._observation(students.step, train_score, score, features),
            diverged=diverged,
            memory=memory,
        )
        if diverged.any():
            measured = {name: np.where(diverged, getattr(before, name), getattr(after, name)) for name in _MEASURED}
            observation = np.where(diverged[..., None], before.observation, after.observation)
            observation[..., 0] = after.observation[..., 0]
            after = replace(after, observation=observation, **measured)
        penalty = -float(self.problem.settings.divergence_penalty)
        return after, np.where(diverged, penalty, after.objective - before.objective)

    def ended(self, standing: Standing) -> np.ndarray:
        """Whether training runs are over, bool () or (B,): their steps are used up, or they diverged."""
        return standing.diverged | (np.asarray(standing.students.step) >= self.problem.settings.horizon)

    def info(self, standing: Standing) -> dict[str, np.ndarray | str]:
        """What `step` and `reset` report besides the observation, each number () or (B,); see `TeachEnv`."""
        step = np.asarray(standing.students.step)
        score, task = self.dynamics.measure.score_name, self.problem.task
        return {
            "objective": standing.objective,
            f"dev_{score}": standing.dev_score,
            f"train_{score}": standing.train_score,
            "train_loss": standing.train_loss,
            "learning_rate": standing.rate,
            "student_step": step,
            "diverged": standing.diverged,
            "task": task.name,
            "dataset": task.dataset,
        }

    def _rate(self, before: Standing, action: torch.Tensor) -> np.ndarray:
        """The learning rate of the last of an action's steps, () or (B,)."""
        step = np.asarray(before.students.step) + self.problem.settings.steps_per_action - 1
        rate = np.asarray(self.dynamics.rate(step), dtype=float)
        factors: np.ndarray = rate * self.dynamics.control.factor_of_rate(action)
        return factors

    def _trained(
        self, student: StudentState, episode: Episode, action: torch.Tensor
    ) -> tuple[StudentState, np.ndarray, np.ndarray]:
        """(state, mean loss, mean score) after the student steps of an action."""
        losses, scores = [], []
        for _ in range(self.problem.settings.steps_per_action):
            student, outcome = self._taking(self.dynamics, student, episode, action)
            losses.append(outcome.loss)
            scores.append(outcome.train_score)
        return student, _mean(losses), _mean(scores)

    def _train_score(self, student: StudentState, episode: Episode, of_minibatches: np.ndarray) -> np.ndarray:
        """What is observed of training data, () or (B,): the score of the last minibatches as they were trained on.

        A measure that decodes (BLEU of translations) is taken on a fixed sample of the training data instead.
        """
        if not self.dynamics.measure.decodes:
            return of_minibatches
        return self.dynamics.metrics(student, *self.dynamics.train_sample(episode))[1].double().cpu().numpy()

    def _seen(
        self, student: StudentState, dev: tuple[torch.Tensor, torch.Tensor], episode: Episode, memory: Any
    ) -> tuple[list[np.ndarray], Any]:
        """([J, score, all observed features] on dev, of the next minibatch's samples too; what is remembered)."""
        objective, score, features = self.dynamics.metrics(student, *dev)
        if self.observer is not None:
            of_samples, memory = self.observer.observe(self.dynamics, student, episode, memory)
            features = torch.cat([features, of_samples], -1)
        return _arrays(objective, score, features), memory

    def _observation(
        self, step: int | np.ndarray, train_score: np.ndarray, dev_score: np.ndarray, features: np.ndarray
    ) -> np.ndarray:
        """The fields stacked and clipped to [0, 1], (3 + k,) or (B, 3 + k)."""
        progress = np.asarray(step) / self.problem.settings.horizon
        values = np.empty((*features.shape[:-1], len(self.observation_fields)), dtype=self.observation_space.dtype)
        values[..., 0], values[..., 1], values[..., 2], values[..., 3:] = progress, train_score, dev_score, features
        return values.clip(0.0, 1.0, out=values)

    def _cause_of_divergence(self, episode: Episode, dev: tuple[torch.Tensor, torch.Tensor]) -> str:
        """Why a student is not finite at its episode's begin: its warm start, or what it is before."""
        settings = self.problem.settings
        memory = None if self.observer is None else self.observer.begin(self.dynamics, episode)
        untrained, _ = self._seen(self.dynamics.untrained(episode), dev, episode, memory)
        if settings.warm_start and all(np.isfinite(numbers).all() for numbers in untrained):
            return (
                f"the student diverged in its warm start of {settings.warm_start} steps at "
                f"learning_rate={settings.learning_rate:g}: make learning_rate or warm_start smaller"
            )
        return (
            f"the untrained student's outputs on dev are not finite: check the initialisation of student "
            f"{checks.shown(settings.student)} and the inputs of task {self.problem.task.name!r}"
        )

    # --- outputs and evaluation ---------------------------------------------------------------------------------------

    def predict(self, students: StudentState, inputs: Any) -> torch.Tensor:
        """What `TeachEnv.predict` returns for a student, (n, outputs, ...), or for a batch, (B, n, outputs, ...).

        Args:
            students: the state of the student, or of the batch.
            inputs: samples in the task's form, (n, ...).
        """
        tensor = checked_inputs(inputs, self.problem.task, self.dynamics.student.dtype)
        outputs = self.dynamics.outputs(students, tensor.expand(*np.shape(students.step), *tensor.shape))
        return halves(outputs)[1] if self.dynamics.loss.of_pairs else outputs

    def evaluate(
        self, students: StudentState, episode: Episode, split: str, diverged: np.ndarray | bool
    ) -> dict[str, np.ndarray]:
        """What `TeachEnv.evaluate` returns for a student, or for a batch: each value () or (B,).

        Args:
            students: the state of the student, or of the batch.
            episode: the episode that they are in.
            split: name of the samples, one of those that `Episodes.split` takes.
            diverged: whether the student is known to have diverged, () or (B,).
        """
        inputs, targets = self.problem.episodes.split(episode, split)
        objective, score, _ = _arrays(*self.dynamics.metrics(students, inputs, targets))
        broken = np.asarray(~(np.isfinite(objective) & np.isfinite(score)))
        if broken.any():
            blank = _arrays(*self.dynamics.blank_metrics(students, inputs, targets))
            objective, score = (np.where(broken, b, v) for b, v in zip(blank, (objective, score), strict=True))
        name = self.dynamics.measure.score_name
        numbers = {f"{split}_{name}": score, f"{split}_error": 1.0 - score, f"{split}_objective": objective}
        numbers |= self._reports(students, inputs, targets, split, broken)
        return numbers | {"diverged": broken | diverged}

    def _reports(
        self, students: StudentState, inputs: torch.Tensor, targets: torch.Tensor, split: str, broken: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The measure's further numbers, each () or (B,)."""
        measure = self.dynamics.measure
        if not measure.reported:
            return {}
        if measure.decodes or measure.reports_in_parts:
            report = self.dynamics.report(students, inputs, targets)
            return {f"{split}_{name}": value.numpy() for name, value in report.items()}
        outputs = self.dynamics.outputs(students, inputs)
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


def _observer(problem: Problem) -> SampleObserver | None:
    """What observes the samples or the domains that the next action weighs, if anything does."""
    if problem.dynamics.loss.of_pairs:
        return PairSamples()
    if problem.dynamics.loss.of_domains:
        return DomainLikelihoods(problem.task)
    return LabelledSamples(problem.task) if problem.settings.observe_samples else None


def _arrays(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [t.double().cpu().numpy() for t in tensors]


def _mean(values: Sequence[torch.Tensor]) -> np.ndarray:
    # One step an action is common, and a student in training notices three calls more.
    mean = torch.stack(list(values)).double().mean(0) if len(values) > 1 else values[0].double()
    return mean.cpu().numpy()
