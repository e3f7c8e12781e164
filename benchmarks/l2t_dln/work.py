"""One run: a student is trained under a loss, a finished teacher, or one that learns meanwhile; then it is measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

import meta
from benchmarks.checkpoints import ending, going_on_from
from benchmarks.l2t_dln.methods import METHODS, Method
from benchmarks.teachers import learned
from teachenv import checkpoints
from teachenv.env import TeachEnv

# Seeds of episodes: no student that tuned is one of those that are reported.
TUNING_SEED, TEACHER_SEED, FINAL_SEED = 900_000, 500_000, 0

# What a file holds, as `teachenv.checkpoints` has it.
_KEPT = "what an online teacher has done"

# Pictures of the loss, and points of a curve, that a row keeps.
PICTURES, POINTS = 12, 40


@dataclass(frozen=True)
class Setting:
    """A task as every method has it.

    Attributes:
        env: a registered id.
        options: of the environment.
        wrapper: of `meta.WindowGradient`.
        teacher_students: trainings that a teacher that learns from episodes may have.
    """

    env: str
    options: Mapping[str, Any]
    wrapper: Mapping[str, Any] = field(default_factory=dict)
    teacher_students: int = 8

    def make(self, method: Method, configuration: Configuration, **more: Any) -> TeachEnv:
        """The environment of a method."""
        env = gym.make(self.env, **self._options(method, configuration), **more).unwrapped
        assert isinstance(env, TeachEnv)
        return env

    def make_crowd(self, method: Method, configuration: Configuration) -> Any:
        """The environment of the students that a teacher of episodes learns from."""
        options = self._options(method, configuration)
        options["learning_rate"] *= method.episode_rate
        if method.crowd == 1:
            return gym.make(self.env, **options)
        return gym.make_vec(self.env, num_envs=method.crowd, **options)

    def _options(self, method: Method, configuration: Configuration) -> dict[str, Any]:
        own = {k: v for k, v in method.own[configuration.own].items() if k not in ("teacher", "policy")}
        # Copies: rows are known by these options, whatever is done with those that are handed out.
        options = copy.deepcopy({**self.options, **method.environment, **own})
        options["learning_rate"] = configuration.learning_rate
        if method.steps_per_action is not None:
            options["steps_per_action"] = method.steps_per_action
        return options


class Configuration(NamedTuple):
    """A point of a method's grid.

    Attributes:
        learning_rate: of the student.
        own: which of the method's two values.
    """

    learning_rate: float
    own: int


class Run(NamedTuple):
    """What came of a run.

    Attributes:
        scores: what `evaluate` tells of the student.
        replayed: the same of the one that trained on the whole pool under the same losses; empty if there is none.
        curve: (student step, J on dev) along the training.
        errors: (student step, dev error after a window as previewed, as it came about), of online teachers.
        pictures: (student step, the loss as a matrix) along the training.
        steps: student steps, those of previews, replays and other students among them.
        seconds: of it all.
    """

    scores: dict[str, float]
    replayed: dict[str, float]
    curve: list[tuple[int, float]]
    errors: list[tuple[int, float, float]]
    pictures: list[tuple[int, list[list[float]]]]
    steps: int
    seconds: float = 0.0


def run(setting: Setting, method: str, configuration: Configuration, seed: int, final: bool, checkpoint: Path) -> Run:
    """Trains and measures.

    Args:
        setting: see there.
        method: a name in `METHODS`.
        configuration: see there.
        seed: of the repetition.
        final: whether it is for the report, and test may be looked at; else it is for tuning.
        checkpoint: where an interrupted run of a teacher is taken up again, without suffix.
    """
    start, made = time.perf_counter(), METHODS[method]
    episode = (FINAL_SEED if final else TUNING_SEED) + seed
    if made.kind == "online":
        found = _online(setting, made, configuration, episode, final, checkpoint)
    else:
        teacher = _taught(setting, made, configuration, episode, checkpoint) if made.kind == "episodes" else None
        env = setting.make(made, configuration, **({"train_on": "pool"} if final else {}))
        found = _follow(env, teacher, episode, final)
        if made.kind == "episodes":
            trainings = setting.teacher_students * made.crowd
            found = found._replace(steps=found.steps + trainings * env.teaching.settings.horizon)
    return found._replace(seconds=round(time.perf_counter() - start, 2))


def _follow(env: TeachEnv, teacher: Any, seed: int, final: bool, actions: Any = None) -> Run:
    """A training under a finished teacher, under given actions, or (neither) under the zero action."""
    observation, info = env.reset(seed=seed)
    neutral = np.zeros(env.action_space.shape or (), env.action_space.dtype)
    curve, pictures, ended, number = [(0, info["objective"])], [], False, 0
    shown = _places(env.teaching.actions)
    while not ended:
        action = neutral
        if teacher is not None:
            action = teacher.predict(observation, deterministic=True)[0]
        elif actions is not None:
            action = actions[number]
        observation, _, ended, _, info = env.step(action)
        curve.append((info["student_step"], info["objective"]))
        if number in shown and (teacher is not None or actions is not None):
            pictures.append((info["student_step"], _coefficients(env, action)))
        number += 1
    return Run(_evaluated(env, final), {}, _thinned(curve), [], pictures, env.teaching.settings.horizon)


def _online(
    setting: Setting, method: Method, configuration: Configuration, seed: int, final: bool, checkpoint: Path
) -> Run:
    teach = setting.make(method, configuration)
    env = meta.WindowGradient(teach, **setting.wrapper)
    own = copy.deepcopy(dict(method.own[configuration.own]))
    options = {**copy.deepcopy(dict(method.options)), **own.get("teacher", {}), "policy_kwargs": own.get("policy", {})}
    learner: Any = meta.DynamicLossTeacher(method.policy, env, seed=seed, **options)
    followed = _Followed(env, checkpoint)
    learner = followed.resumed(learner)
    remaining = teach.teaching.actions - learner.num_timesteps
    if remaining > 0:
        learner.learn(remaining, followed, log_interval=None, reset_num_timesteps=learner.num_timesteps == 0)
    assert env.final_state is not None
    teach.set_state(env.final_state)
    scores, replayed = _evaluated(teach, final), dict[str, float]()
    horizon = teach.teaching.settings.horizon
    spent = horizon * (2 if env.window == "next" else 1)
    if final:
        on_pool = setting.make(method, configuration, train_on="pool")
        replayed = _follow(on_pool, None, seed, final, followed.actions).scores
        spent += horizon
    return Run(scores, replayed, _thinned(followed.curve), followed.errors, followed.pictures, spent)


class _Followed(BaseCallback):
    """Keeps what an online teacher does, and a checkpoint from which it goes on."""

    def __init__(self, env: meta.WindowGradient, checkpoint: Path, every: int = 50) -> None:
        super().__init__()
        self.env, self.path, self.every = env, checkpoint, every
        teach = env.unwrapped
        assert isinstance(teach, TeachEnv)
        self.teach, self.shown = teach, _places(teach.teaching.actions)
        self.curve: list[tuple[int, float]] = []
        self.errors: list[tuple[int, float, float]] = []
        self.pictures: list[tuple[int, list[list[float]]]] = []
        self.actions: list[np.ndarray] = []

    def resumed(self, teacher: Any) -> Any:
        """The teacher as the checkpoint has it, or as it is if there is none."""
        kept = ending(self.path, "kept")
        if not (kept.exists() and ending(self.path, "zip").exists()):
            return teacher
        again = type(teacher).load(ending(self.path, "zip"), env=self.env)
        with going_on_from(kept):
            record = checkpoints.load(kept, _KEPT)
            count = again.num_timesteps
            if len(record["actions"]) < count:
                return teacher
            self.curve, self.errors = record["curve"][:count], record["errors"][:count]
            self.actions = record["actions"][:count]
            self.pictures = [p for p in record["pictures"] if p[0] <= self.curve[-1][0]] if count else []
        return again

    def _on_rollout_start(self) -> None:
        assert self.model is not None
        if self.num_timesteps and self.num_timesteps % self.every == 0:
            record = {name: getattr(self, name) for name in ("curve", "errors", "pictures", "actions")}
            checkpoints.save(ending(self.path, "kept"), record, _KEPT)
            self.model.save(ending(self.path, "zip"))

    def _on_step(self) -> bool:
        info, action = self.locals["infos"][0], self.locals["taken"][0]
        step = info["student_step"]
        self.curve.append((step, info["objective"]))
        self.errors.append((step, round(info["previewed_error"], 6), round(info["window_error"], 6)))
        self.actions.append(action)
        if len(self.actions) - 1 in self.shown:
            self.pictures.append((step, _coefficients(self.teach, action)))
        return True


def _taught(setting: Setting, method: Method, configuration: Configuration, seed: int, checkpoint: Path) -> Any:
    """A teacher that has learned from the trainings of other students."""
    options = copy.deepcopy({**method.options, **method.own[configuration.own].get("teacher", {})})
    env = setting.make_crowd(method, configuration)
    teacher: Any = meta.RMD(method.policy, env, seed=TEACHER_SEED + seed, **options)
    actions = setting.make(method, configuration).teaching.actions
    return learned(teacher, ending(checkpoint, "zip"), setting.teacher_students * method.crowd * actions)


def _evaluated(env: TeachEnv, final: bool) -> dict[str, float]:
    return env.evaluate("dev") | (env.evaluate("test") if final else {})


def _coefficients(env: TeachEnv, action: np.ndarray) -> list[list[float]]:
    taken = env.teaching.parse_action(action, action.shape)
    # Every second point of a loss network's grid is as much as a figure can show.
    shown: list[list[float]] = env.dynamics.loss.coefficients(taken)[::2, ::2].double().cpu().numpy().round(3).tolist()
    return shown


def _places(actions: int) -> set[int]:
    return set(np.linspace(0, actions - 1, min(PICTURES, actions)).round().astype(int).tolist())


def _thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    places = np.linspace(0, len(curve) - 1, min(POINTS, len(curve))).round().astype(int)
    return [(curve[i][0], round(curve[i][1], 4)) for i in places]
