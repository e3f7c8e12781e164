"""The loop that trains students under a teacher: batched or one after the other, wrapped or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from teachenv.control import AUGMENTATION, SETTINGS
from teachenv.env import TeachEnv
from teachenv.experiment.setting import OneByOne
from teachenv.vector_env import TeachVectorEnv


@dataclass(frozen=True)
class Moment:
    """What a watcher sees after each action.

    Attributes:
        number: number of the action, from 0.
        env: the environment of all students, or of the one who is being taught.
        actions: what reached the environment, which a wrapper may have made of what the teacher took, (B, n) for B
            students, (n,) for one; of a teacher that learns, what it took.
        infos: what the environment said.
    """

    number: int
    env: TeachVectorEnv | TeachEnv
    actions: np.ndarray
    infos: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The student step before the action."""
        return self.number * self.env.problem.settings.steps_per_action


Watcher = Callable[[Moment], None]


@dataclass(frozen=True)
class Taught:
    """Fresh students, trained to the end.

    Attributes:
        scores: what `evaluate` gives of dev, and of test if it was touched; means over the students.
        curve: mean J after each action, the untrained students' first.
        mean_action: mean size of an action's coordinate: how far the teacher moved.
        diverged: how many of the students did; their numbers are those of one that knows nothing.
    """

    scores: Mapping[str, float]
    curve: list[float]
    mean_action: float
    diverged: int = 0

    @property
    def objective(self) -> float:
        """The students' mean J at the end."""
        return self.curve[-1]


class Playback:
    """A teacher that repeats actions.

    Args:
        actions: one for each moment of a training run, each (n,).
    """

    def __init__(self, actions: Sequence[np.ndarray]) -> None:
        self.actions = iter(actions)

    def predict(self, observation: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        """The next of the actions, for all students."""
        return next(self.actions), None


@dataclass
class Coefficients:
    """A watcher that keeps what a loss family makes of the actions, at even distances.

    Attributes:
        count: how many times, at most.
        decimals: how many the coefficients keep.
        at: the student steps at which they were taken.
        shown: mean coefficients over the students, each (rows, columns).
    """

    count: int = 5
    decimals: int = 4
    at: list[int] = field(default_factory=list)
    shown: list[list[list[float]]] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        """Keeps the mean coefficients, if this is one of the moments to keep."""
        if moment.number in places(moment.env.problem.actions, self.count):
            problem = moment.env.problem
            action = moment.env.interface.parse_action(moment.actions, moment.actions.shape)
            mean = action.mean(0) if action.dim() > 1 else action
            self.at.append(moment.step)
            matrix = problem.dynamics.coefficients(mean).cpu().double()  # short in JSON
            self.shown.append(matrix.round(decimals=self.decimals).tolist())


@dataclass
class Controlled:
    """A watcher that keeps what actions set beside the loss (`control`), if anything.

    Attributes:
        settings: the mean over the students that each action leaves, in the first student step under it, by the name of
            the optimiser's setting; of `"augmentation"` how often a sample is augmented.
    """

    settings: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, moment: Moment) -> None:
        """Keeps the settings of an action."""
        dynamics = moment.env.problem.dynamics
        control = dynamics.control
        if not control.others:
            return
        action = moment.env.interface.parse_action(moment.actions, moment.actions.shape)
        optimizer, rate = control.applied(dynamics.optimizer, float(dynamics.rate(moment.step)), action)
        names = map(SETTINGS.__getitem__, control.settings)
        values = {name: rate if name == "learning_rate" else getattr(optimizer, name) for name in names}
        if (strength := control.of_augmentation(action)) is not None:
            values[AUGMENTATION] = 1 + strength
        for name, value in values.items():
            mean = float(torch.as_tensor(value, dtype=torch.float64).mean())
            self.settings.setdefault(name, []).append(float(f"{mean:.5g}"))


# The mean over more would hardly differ, and take longer.
_MOST_STUDENTS = 8


@dataclass
class Moved:
    """A watcher that measures how far a teacher moves the numbers of the loss from the neutral ones.

    They are the loss's coefficients, or the weights of a loss network, at all actions; of students that are taught
    together those of the first eight. Changes are shares of the mean size of the neutral numbers, zeros left out: 1 for
    Φ = I and for weights of samples.

    Attributes:
        total: the sum of the changes' sizes so far.
        count: how many they are.
        largest: the largest of them.
    """

    total: float = 0.0
    count: int = 0
    largest: float = 0.0

    def __call__(self, moment: Moment) -> None:
        """Adds the changes of one action."""
        problem = moment.env.problem
        numbers = problem.dynamics.numbers
        actions = moment.env.interface.parse_action(moment.actions, moment.actions.shape)
        actions = actions.reshape(-1, actions.shape[-1])[:_MOST_STUDENTS]
        neutral = numbers(problem.neutral_action.to(actions))
        sizes = neutral.abs()[neutral != 0]
        unit = float(sizes.mean()) if len(sizes) else 1.0
        for action in actions:
            changes = (numbers(action) - neutral).abs() / unit
            self.total += float(changes.sum())
            self.count += changes.numel()
            self.largest = max(self.largest, float(changes.max()))

    @property
    def mean(self) -> float:
        """The mean size of a change."""
        return self.total / self.count if self.count else 0.0


def places(length: int, count: int) -> list[int]:
    """At most `count` places in a list of some length, at even distances, its two ends among them."""
    indices: list[int] = np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()
    return indices


def thinned(curve: Sequence[float]) -> list[float]:
    """A curve at no more than 200 `places`, rounded."""
    return [round(curve[i], 5) for i in places(len(curve), 200)]


def teach(
    students: TeachVectorEnv | OneByOne,
    teacher: Any,
    seed: int,
    *,
    test: bool = False,
    watch: Watcher | None = None,
) -> Taught:
    """Trains students once, from the beginning to the end.

    Args:
        students: how many, in which environment.
        teacher: what decides the actions, by `predict`; None: the zero action.
        seed: the first student's; each further one has the next.
        test: whether the finished students are measured on test.
        watch: called after each action; None: nobody watches.
    """
    splits = ("dev", "test") if test else ("dev",)
    if isinstance(students, TeachVectorEnv):
        return _teach_together(students, teacher, seed, splits, watch)
    return _teach_one_by_one(students, teacher, seed, splits, watch)


def _teach_together(
    env: TeachVectorEnv, teacher: Any, seed: int, splits: Sequence[str], watch: Watcher | None
) -> Taught:
    observation, infos = env.reset(seed=seed)
    ended, curve, sizes = _Ended(env, splits), [float(infos["objective"].mean())], []
    neutral = env.problem.neutral_action.expand(env.num_envs, -1).cpu().numpy()
    for number in range(env.problem.actions):
        actions = neutral if teacher is None else _action(teacher, observation)
        sizes.append(float(np.abs(actions).mean()))
        observation, _, over, _, infos = env.step(actions)
        curve.append(ended.step(over, infos))
        if watch is not None:
            watch(Moment(number, env, env.actions.cpu().numpy(), infos))
    return Taught(
        {name: float(values.mean()) for name, values in ended.scores.items()},
        curve,
        float(np.mean(sizes)),
        int(ended.diverged.sum()),
    )


def _action(teacher: Any, observation: Any) -> np.ndarray:
    prediction = teacher.predict(observation, deterministic=True)
    if not isinstance(prediction, tuple):
        kind = type(getattr(teacher.predict, "__self__", teacher)).__name__
        raise ValueError(
            f"{kind}.predict returned a {type(prediction).__name__}, expected the pair (actions, state), as "
            "Stable-Baselines3's algorithms give it; the state may be None"
        )
    action: np.ndarray = prediction[0]
    return action


class _Ended:
    """What students are when their training ends. One that diverges ends early, and another begins in its place."""

    def __init__(self, env: TeachVectorEnv, splits: Sequence[str]) -> None:
        self.env, self.splits = env, splits
        self.over, self.diverged = (np.zeros(env.num_envs, dtype=bool) for _ in range(2))
        self.objective = np.zeros(env.num_envs)
        self.scores: dict[str, np.ndarray] = {}

    def step(self, over: np.ndarray, infos: Mapping[str, Any]) -> float:
        """Notes which students have ended; the mean J, in which each that has ended counts as it ended."""
        now = infos["objective"]
        ending = over & ~self.over
        if over.any():
            final = infos["final_info"]
            now = np.where(over, final["objective"], now)
            self.diverged |= ending & final["diverged"]
        self.objective = np.where(self.over, self.objective, now).astype(now.dtype)
        if ending.any():
            # The whole of dev, of which rewards may have been measured on a part.
            for split in self.splits:
                for name, score in self.env.evaluate_final(split).items():
                    if name != "diverged":
                        self.scores[name] = np.where(ending, score, self.scores.get(name, np.zeros_like(score)))
        self.over |= ending
        return float(self.objective.mean())


def _teach_one_by_one(
    students: OneByOne, teacher: Any, seed: int, splits: Sequence[str], watch: Watcher | None
) -> Taught:
    env, single = students.env, students.env.unwrapped
    assert isinstance(single, TeachEnv)
    neutral = np.zeros(env.action_space.shape or (), env.action_space.dtype)
    curves, sizes, scores, diverged = [], [], list[dict[str, float]](), 0
    for number in range(students.count):
        observation, info = env.reset(seed=seed + number)
        curve, over = [info["objective"]], False
        while not over:
            action = neutral if teacher is None else _action(teacher, observation)
            sizes.append(float(np.abs(action).mean()))
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            curve.append(info["objective"])
            if watch is not None:
                watch(Moment(len(curve) - 2, single, single.action.cpu().numpy(), info))
        # One that diverged stays as it was.
        curves.append(curve + curve[-1:] * (single.problem.actions + 1 - len(curve)))
        diverged += bool(info["diverged"])
        measured = [item for split in splits for item in single.evaluate(split).items()]
        scores.append({name: value for name, value in measured if name != "diverged"})
    return Taught(
        {name: float(np.mean([student[name] for student in scores])) for name in scores[0]},
        np.mean(curves, axis=0).tolist(),
        float(np.mean(sizes)),
        diverged,
    )
