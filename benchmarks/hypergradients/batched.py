"""Hypergradients of many students at once, against one student after the other; called in a process of its own."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch

import meta
from teachenv import TeachVectorEnv


@dataclass(frozen=True)
class Batch:
    """Students of an environment.

    Attributes:
        students: how many.
        steps: of each training.
        settings: of the environment; see `teachenv.Settings`.
    """

    students: int
    steps: int
    settings: dict[str, Any] = field(default_factory=dict)


BATCHES: dict[str, Batch] = {
    "digits-mlp": Batch(32, 60, {"task": "digits", "learning_rate": 0.4, "lr_schedule": "linear"}),
    "lenet": Batch(
        8, 10, {"task": "synthetic", "student": "lenet", "batch_size": 64, "dev_size": 64, "learning_rate": 0.02}
    ),
}


def speedup(batch: str, students: int, steps: int, seed: int, turns: int, threads: int) -> dict[str, Any]:
    """Times the students' hypergradients in one computation and one after the other, in turns.

    Args:
        batch: a name in `BATCHES`.
        students: how many there are.
        steps: of each training.
        seed: of the trainings.
        turns: how often both are timed.
        threads: of torch.

    Returns:
        `speedup` (time of the loop over time of the batch, median over turns), `seconds` (of the batch), `path` (how
        the environment batches these students), `relative_error` (between the two).
    """
    torch.set_num_threads(threads)
    env = TeachVectorEnv(students, horizon=steps, **BATCHES[batch].settings)
    env.reset(seed=seed)
    together, begin, single = meta.Training(env.dynamics, env.episodes), env.students, env.teaching.dynamics
    alone = [meta.Training(single, env.teaching.episode(s)) for s in env.episodes.seeds]
    starts = [single.init(process.episode) for process in alone]
    shape = steps, students, env.teaching.neutral_action.numel()
    actions = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def at_once() -> torch.Tensor:
        return meta.hypergradient(together, begin, actions, memory="states").actions

    def in_turn() -> torch.Tensor:
        pairs = enumerate(zip(alone, starts, strict=True))
        return torch.stack(
            [meta.hypergradient(p, start, actions[:, i], memory="states").actions for i, (p, start) in pairs], 1
        )

    found, wanted = at_once(), in_turn()
    ratios, seconds = [], []
    for _ in range(turns):
        times = []
        for function in (at_once, in_turn):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
        seconds.append(times[0])
    return {
        "speedup": statistics.median(ratios),
        "seconds": statistics.median(seconds),
        "path": env.path,
        "relative_error": float((found - wanted).norm() / wanted.norm()),
    }
