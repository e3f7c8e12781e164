"""Teaching by data: which samples of each minibatch the student trains on (L2T: Fan et al. 2018, its data teaching).

The student's training is an environment with `loss="sample-weights"`; a wrapper, `DataTeaching`, shows the teacher what
L2T's teacher sees, features of each arriving sample, and pays it as L2T does, at the end only. `DataTeacher` learns by
REINFORCE; `SelfPacedTeacher` and `RandomDropTeacher` are L2T's baselines.

Where this differs from the paper: there the kept samples are pooled until they fill a minibatch, here the student's
step is taken on the minibatch with the dropped samples at weight zero, so that a step is smaller the more is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from meta.teachers.episodic import EpisodicTeacher, LearningTeacher, TaughtStudent
from meta.teachers.fixed import FixedTeacher
from meta.teachers.policies import PerSample, TeacherPolicy, sample_box, sample_fields
from meta.wrappers.base import RememberingWrapper
from teachenv import checks
from teachenv.model import Model
from teachenv.optimizers import Tensors
from teachenv.problem_checks import check_loss_alone
from teachenv.samples import SampleObserver, next_step
from teachenv.spaces import SampleBox
from teachenv.state import Episode, StudentState

DROP, KEEP = -1.0, 0.0
"""Actions of a sample: weight 0, and weight 1."""


class LessonSamples(SampleObserver):
    """Samples as L2T's teacher sees them, by the student in evaluation mode before the step.

    The fields, C classes: `is_class_c`, the label one-hot (C); `probability_c`, the student's probabilities (C);
    `loss_rank` and `margin_rank`, the rank of the sample's loss and of its margin p_y − max_{j≠y} p_j among the
    minibatch's, over the batch size: 0 of the smallest.

    Args:
        classes: the number C of classes.
    """

    def __init__(self, classes: int) -> None:
        """Names the fields."""
        each = range(classes)
        self.classes = classes
        self.fields = (
            *(f"is_class_{c}" for c in each), *(f"probability_{c}" for c in each), "loss_rank", "margin_rank"
        )  # fmt: skip

    def observe(self, model: Model, state: StudentState, episode: Episode, memory: None) -> tuple[torch.Tensor, None]:
        """See `SampleObserver.observe`."""

        def fields(parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            prediction, _ = model.student(
                parameters, buffers, inputs, training=False, differentiable=model.mapping.form
            )
            p, is_label = (
                prediction.outputs.double().softmax(-1),
                labels[:, None] == torch.arange(self.classes, device=labels.device),
            )
            of_label, of_others = (p * is_label).sum(-1), p.masked_fill(is_label, -1.0).amax(-1)
            ranks = _ranks(-of_label), _ranks(of_label - of_others)
            return torch.cat([is_label.mT.to(p).flatten(), p.mT.flatten(), *ranks])

        minibatch = model.minibatch(episode, next_step(state, episode))
        with torch.no_grad():
            return model.mapping(fields)(state.parameters, state.buffers, *minibatch), None


class DataTeaching(RememberingWrapper):
    """Shows the samples of the next minibatch, and pays for how soon the student is good enough.

    Observation, (3 + (2C + 2) · batch,), each in [0, 1], a `teachenv.SampleBox`: student step over horizon; mean
    training loss so far, over its upper bound; best dev accuracy so far; and the fields of `LessonSamples` of the
    minibatch that the next action weighs. With 10 classes a sample has the 25 features of L2T (its section 4.1); the
    bound of the loss and the ranks are those of re-implementations: the paper does not say.

    Reward: 0, and at the end −log(i/T) where i is the first of T student steps after which the dev accuracy exceeds
    `threshold`, or T if none does (the paper's terminal reward). `info["reached_after"]` is i.

    Args:
        env: a `TeachEnv` of classification with `loss="sample-weights"` at scale 1 and one student step an action.
        threshold: the dev accuracy at which the student is good enough, in (0, 1).
        largest_loss: the number that the mean training loss is divided by; None: log C, the loss of equal
            probabilities.

    Raises:
        TypeError: the environment is no `TeachEnv`.
        ValueError: another loss family, or several student steps an action.
    """

    state_name = "data_teaching"

    def __init__(
        self, env: gym.Env[np.ndarray, np.ndarray], threshold: float = 0.9, largest_loss: float | None = None
    ) -> None:
        """Wraps the environment, and checks that its actions weigh the samples of one minibatch."""
        super().__init__(env)
        check_loss_alone(self._teach.problem, type(self).__name__)
        settings, loss = self._teach.problem.settings, self._teach.dynamics.loss
        if not loss.drops_samples:
            raise ValueError(
                f"keeping and dropping samples needs loss='sample-weights' with scale 1, found {settings.loss!r} with "
                f"{dict(settings.loss_kwargs)}"
            )
        if not self._teach.problem.classifies:
            raise ValueError(
                f"L2T's features are of samples with one label, but task {self._teach.problem.task.name!r} is not "
                "classification"
            )
        self._check_weighs_samples()
        self.threshold = checks.number("threshold", threshold, above=0, below=1)
        self.classes = self._teach.problem.task.num_outputs
        unsure = math.log(self.classes)
        self.largest_loss = unsure if largest_loss is None else checks.number("largest_loss", largest_loss, above=0)
        self._observer, batch = LessonSamples(self.classes), settings.batch_size
        fields = self._observer.fields
        self.observation_space = SampleBox(
            0.0, 1.0, (3 + len(fields) * batch,), np.float32, sample_fields=fields, samples=batch
        )
        self._losses: list[float] = []
        self._best = 0.0
        self._reached: int | None = None

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the training of a new student, and shows the samples of its first minibatch."""
        _, info = self.env.reset(**kwargs)
        self._losses, self._best, self._reached = [], info["dev_accuracy"], None
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Trains the student on the kept samples of the minibatch, and shows those of the next one."""
        _, _, terminated, truncated, info = self.env.step(action)
        self._losses.append(info["train_loss"])
        self._best = max(self._best, info["dev_accuracy"])
        if self._reached is None and info["dev_accuracy"] > self.threshold:
            self._reached = info["student_step"]
        reward = 0.0
        if terminated or truncated:
            horizon = self._teach.problem.settings.horizon
            info["reached_after"] = horizon if self._reached is None or info["diverged"] else self._reached
            reward = -math.log(info["reached_after"] / horizon)
            return np.zeros(self.observation_space.shape or (), np.float32), reward, terminated, truncated, info
        return self._observe(), reward, terminated, truncated, info

    def _remembered(self) -> dict[str, Any]:
        return {"losses": list(self._losses), "best": self._best, "reached": self._reached}

    def _remember(self, remembered: dict[str, Any]) -> None:
        self._losses, self._best, self._reached = list(remembered["losses"]), remembered["best"], remembered["reached"]

    def _observe(self) -> np.ndarray:
        """Computes the numbers that all samples share and those of each; the class lists them."""
        teach = self._teach
        mean_loss = min(float(np.mean(self._losses)) / self.largest_loss, 1.0) if self._losses else 1.0
        shared = [int(teach.student.step) / teach.problem.settings.horizon, mean_loss, self._best]
        of_samples, _ = self._observer.observe(teach.dynamics, teach.student, teach.episode, None)
        observation: np.ndarray = np.nan_to_num(np.concatenate([shared, of_samples.cpu().numpy()])).clip(0.0, 1.0)
        return observation.astype(np.float32)


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Returns the rank of each value in its row, divided by their number: 0 for the smallest."""
    order = values.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    return order.to(values) / values.shape[-1]


class _SamplePolicy(TeacherPolicy):
    """A policy that keeps or drops each sample of a minibatch."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        probability = self(observation)
        is_kept = probability >= 0.5 if deterministic else torch.rand_like(probability) < probability
        return torch.where(is_kept, KEEP, DROP)


class DataPolicy(_SamplePolicy):
    """L2T's teacher: a perceptron features-12-1 with tanh and a sigmoid, shared by all samples.

    The shape, and the last bias of 2 (at first nearly all is kept), are those of L2T's appendix as re-implementations
    report it. Option `hidden` (12).
    """

    defaults: ClassVar[Mapping[str, Any]] = {"hidden": 12}

    def _build(self, states: int, actions: int) -> nn.Module:
        hidden, features = self._network["hidden"], sample_fields(self.observation_space, actions, None)
        shared = PerSample(states, actions, [hidden], features, 1.0, squash=False, activation_fn=nn.Tanh)
        nn.init.constant_(shared.network[-1].bias, 2.0)  # type: ignore[arg-type]
        return shared

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the probability that each sample is kept, (batch of observations, samples)."""
        logits: torch.Tensor = self.actor(observation)
        return torch.sigmoid(logits)


class SelfPacedPolicy(_SamplePolicy):
    """Drops the K samples of the largest loss, K falling linearly from all but one to none (Kumar et al. 2010).

    Kumar et al. keep samples whose loss is below a threshold that grows; here the share of the minibatch that is kept
    grows, as in L2T's baseline. The losses are ranked by the observed `loss_rank` or `label_probability`.

    Options:
        `until` (1.0): the progress at which nothing is dropped any more; 2.0: half of the samples are dropped at the
            end, which may be those with wrong labels.
        `warm_up` (0.0): the progress up to which all samples are kept. Kumar et al. begin with a model that was trained
            on all samples for a few iterations; L2T's baseline does not. The easy samples of an untrained student are
            those of the classes that it happens to prefer.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"until": 1.0, "warm_up": 0.0}

    def _build(self, states: int, actions: int) -> nn.Module:
        self.until = checks.number("until", self._network["until"], above=0)
        self.warm_up = checks.number("warm_up", self._network["warm_up"], least=0)
        space = sample_box(self.observation_space, actions)
        self.ranked = "loss_rank" in space.sample_fields
        self.place = space.place("loss_rank" if self.ranked else "label_probability")
        return nn.Module()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns 1 for kept samples and 0 for dropped ones, (batch of observations, samples)."""
        losses = observation[:, self.place] if self.ranked else -observation[:, self.place]
        count = losses.shape[1]
        progress = observation[:, :1]
        dropped = (count - 1) * (1 - progress / self.until).clamp(min=0.0) * (progress >= self.warm_up)
        is_kept: torch.Tensor = (_ranks(losses) * count < count - dropped - 0.5).to(observation.dtype)
        return is_kept


class RandomDropPolicy(_SamplePolicy):
    """Keeps each sample with a probability; option `keep` (0.5). L2T sets it to what its teacher keeps."""

    defaults: ClassVar[Mapping[str, Any]] = {"keep": 0.5}

    def _build(self, states: int, actions: int) -> nn.Module:
        self.samples, self.keep = actions, checks.number("keep", self._network["keep"], least=0, most=1)
        return nn.Module()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the probability that each sample is kept, (batch of observations, samples)."""
        return observation.new_full((), self.keep).expand(len(observation), self.samples)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation, deterministic=False)


class _DataTeachingTeacher(EpisodicTeacher):
    """A teacher that needs a `DataTeaching` wrapper around its environment, and puts it there if it is missing."""

    wrapper = DataTeaching


class DataTeacher(_DataTeachingTeacher, LearningTeacher):
    """L2T's teacher, by REINFORCE: ∇θ Σ_t Σ_i log P(a_ti | s_ti) · (r − b), with b a moving average of the rewards.

    Logged: `train/gradient_norm`, `train/learning_rate`, `train/kept` (fraction of samples), `train/reward`.

    Args:
        policy: `"DataPolicy"`, or a policy class of its kind.
        env: a `DataTeaching` environment, or what one can be put around.
        learning_rate: the step size of Adam on θ; 1e-3 is what re-implementations report.
        students_per_update: how many training runs are collected for each update; None: as many as the environment has
            in parallel.
        baseline_decay: the decay of the moving average b of the rewards, in [0, 1).
        max_grad_norm: the norm to which the gradient is clipped; None: not clipped.
        **kwargs: further options of `EpisodicTeacher`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"DataPolicy": DataPolicy}
    moved = (*LearningTeacher.moved, "baseline")

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-3,
        students_per_update: int | None = None,
        baseline_decay: float = 0.8,
        max_grad_norm: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Checks the options and builds the policy."""
        self.baseline_decay = checks.number("baseline_decay", baseline_decay, least=0, below=1)
        self.baseline: float | None = None
        self._batch_actions: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        super().__init__(policy, env, learning_rate, students_per_update, max_grad_norm, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_batch_actions", "_actions"]

    def _collect(self, callback: BaseCallback) -> list[TaughtStudent] | None:
        self._actions = []
        return super()._collect(callback)

    def _collect_batch(self, env: VecEnv, callback: BaseCallback) -> list[TaughtStudent] | None:
        self._batch_actions = []
        students = super()._collect_batch(env, callback)
        if students is not None:
            actions = np.stack(self._batch_actions, axis=1)
            self._actions += [row[: len(student.observations)] for row, student in zip(actions, students, strict=True)]
        return students

    def _act(self, observations: np.ndarray) -> np.ndarray:
        actions = self.predict(observations, deterministic=False)[0]
        self._batch_actions.append(actions)
        return actions

    def _improve(self, students: list[TaughtStudent], /) -> None:
        rewards = [s.total for s in students]
        mean = float(np.mean(rewards))
        baseline = mean if self.baseline is None else self.baseline
        self.policy.set_training_mode(True)
        self.policy.optimizer.zero_grad()
        for student, actions, reward in zip(students, self._actions, rewards, strict=True):
            probability = self.policy(torch.as_tensor(student.observations, device=self.device))
            is_kept = torch.as_tensor(actions == KEEP, device=self.device)
            log_probability = torch.where(is_kept, probability, 1 - probability).clamp(min=1e-12).log().sum()
            (-(reward - baseline) * log_probability / len(students)).backward()  # type: ignore[no-untyped-call]
        self._follow(self.max_grad_norm)
        self.baseline = self.baseline_decay * baseline + (1 - self.baseline_decay) * mean
        self.logger.record("train/reward", mean)
        self.logger.record("train/kept", float(np.mean([np.mean(a == KEEP) for a in self._actions])))


class SelfPacedTeacher(FixedTeacher):
    """Self-paced learning, the easy samples first (Kumar et al. 2010); learning leaves it as it is.

    Args:
        policy: `"SelfPacedPolicy"`.
        env: an environment with `loss="sample-weights"` and `observe_samples=True`, one student or many; or a
            `DataTeaching` environment. At scale 1 dropped samples have weight 0; with `normalise=True` a step is a mean
            over the samples that are kept.
        **kwargs: further options of `EpisodicTeacher`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"SelfPacedPolicy": SelfPacedPolicy}


class RandomDropTeacher(_DataTeachingTeacher, FixedTeacher):
    """Drops samples at random; learning leaves it as it is."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"RandomDropPolicy": RandomDropPolicy}
