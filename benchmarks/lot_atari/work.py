"""One training run of a policy, which goes on where it was stopped."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from agents import AtariVecEnv, LoTPPO, learn_in_segments
from agents.atari import record_game
from benchmarks.lot_atari.methods import Method
from meta.saving.codecs import declare
from teachenv.experiment.cases import Outcome
from teachenv.experiment.precision import matmuls

# Episodes at the end of a training run whose mean return is reported, and points of a curve.
LAST, POINTS = 100, 40

# Added to the seed of a policy that another one is distilled from: with its own it would begin as the other begins.
_FIRST = 10_000


@declare
@dataclass(frozen=True)
class Rate:
    """A learning rate by the part of the training that remains, as SB3 wants it; checkpoints hold it by value.

    Attributes:
        first: the rate at the beginning.
        last: the rate at the end.
        kind: `"cosine"` or `"linear"`.
    """

    first: float
    last: float
    kind: Literal["cosine", "linear"]

    def __call__(self, remaining: float) -> float:
        """The rate where that part of the training remains."""
        # The last rollout may end beyond the steps that were asked for; a negative rate would undo what was learned.
        remaining = max(remaining, 0.0)
        part = (1 - math.cos(math.pi * remaining)) / 2 if self.kind == "cosine" else remaining
        return self.last + (self.first - self.last) * part


@dataclass(frozen=True)
class Training:
    """An environment and PPO's settings there.

    Attributes:
        environment: an Atari game ("Breakout"), or an id of Gymnasium ("CartPole-v1").
        steps: steps in the environment, all copies together; an Atari step is four frames.
        num_envs: how many copies of the environment run side by side.
        rate: learning rate.
        options: further options of PPO.
        segment: rollouts between two checkpoints, where episodes are cut off; see `agents.segments`.
    """

    environment: str
    steps: int
    num_envs: int
    rate: Rate
    options: Mapping[str, Any] = field(default_factory=dict)
    segment: int = 50

    @property
    def atari(self) -> bool:
        """Whether the environment is an Atari game."""
        return "-v" not in self.environment

    @property
    def policy(self) -> str:
        """SB3's name of the policy."""
        return "CnnPolicy" if self.atari else "MlpPolicy"

    def make_env(self, seed: int) -> VecEnv:
        """Makes the environment's copies, as one vector environment.

        Raises:
            ImportError: it needs a package that is not installed.
        """
        if self.atari:
            return AtariVecEnv(self.environment, self.num_envs, seed=seed)
        try:
            return make_vec_env(self.environment, self.num_envs, seed=seed)
        except gym.error.DependencyNotInstalled as error:
            raise ImportError(
                f"{self.environment} needs a package that is not installed: pip install 'teachenv[control]' brings "
                f"Box2D. Gymnasium says: {error}"
            ) from error


class Returns(BaseCallback):
    """Keeps true returns and time on the model, and so in its checkpoints."""

    def _on_training_start(self) -> None:
        if not hasattr(self.model, "episode_returns"):
            self.model.episode_returns, self.model.seconds = [], 0.0  # type: ignore[attr-defined]
        self._last = time.perf_counter()

    def _on_training_end(self) -> None:
        self.model.student_kl = self.logger.name_to_value.get("train/student_kl")  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.model.episode_returns.append((self.num_timesteps, float(info["episode"]["r"])))  # type: ignore[attr-defined]
        now = time.perf_counter()
        self.model.seconds += now - self._last  # type: ignore[attr-defined]
        self._last = now
        return True


def make_model(training: Training, method: Method, env: VecEnv, seed: int) -> PPO:
    """The untrained policy.

    Args:
        training: the environment, with PPO's settings there.
        method: how the policy is trained.
        env: what `Training.make_env` gave.
        seed: decides networks and actions.
    """
    options: dict[str, Any] = {"learning_rate": training.rate, "seed": seed, "device": "cpu"}
    options |= copy.deepcopy(dict(training.options))
    options["n_epochs"] = options.get("n_epochs", 10) * method.longer
    if not method.students:
        return PPO(training.policy, env, **options)
    return LoTPPO(
        training.policy,
        env,
        alpha=method.alpha,
        term_share=method.term_share,
        temperature=method.temperature,
        student_steps=method.student_steps,
        students=method.students,
        labels=method.labels,
        student_policy_kwargs=_narrower(training, method.student_width),
        **options,
    )


def _narrower(training: Training, factor: float) -> dict[str, Any] | None:
    if factor == 1:
        return None
    if training.atari:
        return {"features_extractor_kwargs": {"features_dim": round(512 * factor)}}
    return {"net_arch": [round(64 * factor)] * 2}


def play(training: Training, method: Method, seed: int, folder: Path, video: Path | None = None) -> Outcome:
    """Trains a policy, and measures it.

    Args:
        training: the environment, with PPO's settings there.
        method: how the policy is trained.
        seed: decides everything that is drawn.
        folder: where an interrupted training is taken up again.
        video: where a game of the trained policy is shown, if it is an Atari game.

    Returns:
        `episode_return` (the mean true return of the last episodes); with students `student_kl` (KL(policy ‖ student)
        on the policy's last minibatches), `alpha`, and `term_share` (LoT's term as a part of the policy's loss, since
        it began; see `agents.LoTPPO`). Student steps are the updates of policy and students. With them come the
        `curve` (step, mean return of the episodes that ended since the point before, or None) and the numbers of
        `episodes`, `env_steps` and `policy_updates`, of self-distillation those of both policies.
    """
    seconds, generations, weights = 0.0, 1, None
    if method.self_distillation:
        # Kept beside until the second one is ready, too.
        first = _trained(training, Method(), seed + _FIRST, folder / "first.zip")
        weights, seconds, generations = first.policy.state_dict(), first.seconds, 2  # type: ignore[attr-defined]
    model = _trained(training, method, seed, folder / "policy.zip", weights, video)
    returns: list[tuple[int, float]] = model.episode_returns  # type: ignore[attr-defined]
    if not returns:
        raise ValueError(
            f"no episode of {training.environment} ended within {training.steps} steps: expected at least one; train "
            "for longer, or in fewer copies"
        )
    rollouts = model._n_updates // model.n_epochs
    updates = generations * rollouts * model.n_epochs * -(-model.n_steps * model.n_envs // model.batch_size)
    kl = model.student_kl  # type: ignore[attr-defined]
    of_students = {} if kl is None else {"student_kl": kl}
    if isinstance(model, LoTPPO):
        term, size = model.spent
        of_students |= {"alpha": model.alpha, "term_share": term / size if size else 0.0}
    return Outcome(
        values={
            **of_students,
            "episode_return": float(np.mean([value for _, value in returns[-LAST:]])),
        },
        student_steps=updates + (model.lot.updates * model.num_students if isinstance(model, LoTPPO) else 0),
        seconds=seconds + model.seconds,  # type: ignore[attr-defined]
        data={
            "curve": curve_of(returns, training.steps),
            "episodes": len(returns),
            "env_steps": generations * model.num_timesteps,
            "policy_updates": updates,
        },
        versions={"matmul_precision": "medium"},
    )


def _trained(
    training: Training,
    method: Method,
    seed: int,
    checkpoint: Path,
    student: Mapping[str, torch.Tensor] | None = None,
    video: Path | None = None,
) -> PPO:
    """The trained policy; `student`: the student's weights at first."""
    env = training.make_env(seed)
    try:
        model = make_model(training, method, env, seed)
        if student is not None:
            assert isinstance(model, LoTPPO)
            model.students[0].load_state_dict(student)
        with matmuls("medium"):
            model = learn_in_segments(model, training.steps, checkpoint, rollouts=training.segment, callback=Returns())
        if video is not None and training.atari:
            record_game(model, training.environment, video)
        return model
    finally:
        env.close()


def curve_of(returns: list[tuple[int, float]], steps: int) -> list[tuple[int, float | None]]:
    """Means of the episodes that ended in each of equal parts of the training."""
    points: list[tuple[int, float | None]] = []
    for point in range(POINTS):
        low, high = steps * point // POINTS, steps * (point + 1) // POINTS
        ended = [value for step, value in returns if low < step <= high]
        points.append((high, float(np.mean(ended)) if ended else None))
    return points
