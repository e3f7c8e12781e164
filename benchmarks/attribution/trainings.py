"""Trainings without some of the samples, and the trained networks that peers start from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.attribution.settings import ENSEMBLE, Setting, loss_of_each
from teachenv import TeachVectorEnv
from teachenv.experiment.writing import write_atomically
from teachenv.optimizers import Tensors
from teachenv.state import StudentState
from teachenv.trees import at

RETRAINED, NETWORKS = "retrained.npz", "networks.pt"
_TOGETHER = 10
_OTHER_SEEDS, _SEEDS_OF_HALVES = 10_000, 20_000  # for the seeds of training runs other than the one that is attributed


class LeftOut(NamedTuple):
    """Which samples are left out of training runs.

    Attributes:
        percent: how many of them, drawn at random for each training run.
        other: whether each training run has a seed of its own, instead of that of the training that is attributed.
    """

    percent: int
    other: bool = False

    @property
    def metric(self) -> str:
        """The name of the score that is measured with it."""
        return f"lds_{self.percent}_other" if self.other else f"lds_{self.percent}"


SHARES = (LeftOut(1), LeftOut(5), LeftOut(20), LeftOut(50), LeftOut(50, other=True))


def retrained(setting: Setting, share: LeftOut, seed: int, data_root: str | None, folder: Path) -> None:
    """Trains without random sets of samples, and keeps which (n, samples), and the tests' losses (n, tests)."""
    samples = len(setting.make(data_root).task.pool[0])
    left_out = _random_sets(setting.retrainings, samples, share.percent, [seed, share.percent, share.other])
    first = _OTHER_SEEDS + 1000 * seed
    seeds = [first + i if share.other else seed for i in range(setting.retrainings)]
    losses = []
    for group in np.array_split(np.arange(setting.retrainings), -(-setting.retrainings // _TOGETHER)):
        envs, students = _trained(setting, left_out[group], [seeds[i] for i in group], data_root)
        inputs, targets = setting.tests_of(envs)
        losses.append(loss_of_each(envs.interface.predict(students, inputs).double(), targets).numpy())
    content = io.BytesIO()
    np.savez(content, left_out=left_out, losses=np.concatenate(losses))
    write_atomically(folder / RETRAINED, content.getvalue())


def networks(setting: Setting, seed: int, data_root: str | None, folder: Path) -> None:
    """Trains what peers need: checkpoints of the training that is attributed, and networks of random halves."""
    env = setting.make(data_root)
    env.reset(seed=seed)
    dynamics, episode, horizon = env.dynamics, env.episode, env.problem.settings.horizon
    state, neutral = dynamics.init(episode), torch.zeros(len(env.task.pool[0]))
    checkpoints, rates = [], []
    for t in range(horizon):
        state, _ = dynamics.step(state, episode, neutral)
        if (t + 1) * ENSEMBLE // horizon > t * ENSEMBLE // horizon:
            checkpoints.append(_state_dict(state.parameters))
            rates.append(float(dynamics.rate(t)))
    halves = _random_sets(ENSEMBLE, len(neutral), 50, [seed])
    first = _SEEDS_OF_HALVES + 1000 * seed
    _, students = _trained(setting, halves, list(range(first, first + ENSEMBLE)), data_root)
    of_halves = [_state_dict(at(students.parameters, i)) for i in range(ENSEMBLE)]
    content = io.BytesIO()
    torch.save({"checkpoints": checkpoints, "rates": rates, "halves": of_halves}, content)
    write_atomically(folder / NETWORKS, content.getvalue())


def _random_sets(count: int, samples: int, percent: int, seed: Sequence[int]) -> np.ndarray:
    """Sets of samples, (count, samples): which of them are in each."""
    rng, size = np.random.default_rng(seed), max(1, round(samples * percent / 100))
    sets = np.zeros((count, samples), dtype=bool)
    for row in sets:
        row[rng.permutation(samples)[:size]] = True
    return sets


def _trained(
    setting: Setting, left_out: np.ndarray, seeds: Sequence[int], data_root: str | None
) -> tuple[TeachVectorEnv, StudentState]:
    """An environment, and its students at the end of training runs in which the samples left out have the weight 0."""
    envs = TeachVectorEnv(len(seeds), **setting.env_options(data_root))
    envs.reset(seed=list(seeds))
    envs.step(-left_out.astype(np.float32))
    students = envs.final_students
    assert students is not None  # a step was taken
    return envs, students


def _state_dict(parameters: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}
