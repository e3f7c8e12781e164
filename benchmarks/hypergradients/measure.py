"""Measures ways to differentiate a training: each alone for its memory, in turns for their times."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import meta
from benchmarks.hypergradients.contenders import CONTENDERS, plain, unrolled
from benchmarks.hypergradients.problems import Problem
from teachenv import TeachVectorEnv
from teachenv.experiment.cases import Outcome
from teachenv.experiment.processes import alone
from teachenv.experiment.timing import Times, in_turns, peak, seconds_of

# What a contender may fail with, a peer that is not installed and a process that runs out of memory among it.
_FAILURES = (ImportError, RuntimeError, TypeError, AttributeError, MemoryError, ChildProcessError)


def memory(contender: str, training: tuple[str, int, int], limit: int | None, error: bool, folder: Path) -> Outcome:
    """The memory of one hypergradient, as a user has it, and perhaps the error of the gradient; or why there is none.

    Args:
        contender: the contender's name.
        training: arguments of `Problem`.
        limit: bytes that it may take beyond what its process has at the start.
        error: whether it is compared with the gradient in float64.
        folder: is not used.
    """
    try:
        grown, gradient = alone(differentiated, contender=contender, training=training, limit=limit)
    except _FAILURES as failure:
        reason = f"not installed: {failure.name}" if isinstance(failure, ImportError) else str(failure)
        return _failed(reason.splitlines()[0] if reason else type(failure).__name__, training)
    values = {} if grown is None else {"extra_bytes": float(grown)}
    if error:
        expected = _reference(*training)
        values["relative_error"] = float((gradient.double() - expected).norm() / expected.norm())
        if not math.isfinite(values["relative_error"]):
            return _failed("its gradient is not finite", training)
    return Outcome(values=values, student_steps=training[1], seconds=0.0)


def _failed(reason: str, training: tuple[str, int, int]) -> Outcome:
    data = {"failed": reason}
    return Outcome(values={"failed": 1.0}, data=data, data_of="failed", student_steps=training[1], seconds=0.0)


def differentiated(
    contender: str, training: tuple[str, int, int], limit: int | None
) -> tuple[int | None, torch.Tensor]:
    """Runs in a process of its own: (bytes that a hypergradient takes, the gradient)."""
    problem, warm, differentiate = Problem(*training), Problem(training[0], 2, training[2]), CONTENDERS[contender]
    plain(warm)
    differentiate(warm)
    return peak(lambda: differentiate(problem), limit)


@functools.cache
def _reference(student: str, steps: int, seed: int) -> torch.Tensor:
    return alone(exact, student=student, steps=steps, seed=seed)


def exact(student: str, steps: int, seed: int) -> torch.Tensor:
    """Runs in a process of its own: the gradient in float64, by unrolled autograd."""
    return unrolled(Problem(student, steps, seed, torch.float64))


def times(
    contenders: Sequence[str], training: tuple[str, int, int], turns: int, seconds: float, folder: Path
) -> Outcome:
    """The times of contenders over that of plain training, all in turns: the first one's, with the others' beside.

    Args:
        contenders: the contenders' names.
        training: arguments of `Problem`.
        turns: how many turns each takes at least.
        seconds: how long turns are taken at least.
        folder: is not used.
    """
    measured = alone(in_turn, contenders=contenders, training=training, turns=turns, seconds=seconds)
    first, *others = (
        Outcome(
            values={"time_ratio": measured.ratio(name, "plain")},
            student_steps=training[1],
            seconds=measured.median(name),
        )
        for name in contenders
    )
    return replace(first, others=dict(zip(contenders[1:], others, strict=True)))


def in_turn(contenders: Sequence[str], training: tuple[str, int, int], turns: int, seconds: float) -> Times:
    """Runs in a process of its own: the times of contenders and of plain training."""
    functions = {name: CONTENDERS[name] for name in contenders} | {"plain": plain}
    # A process that takes memory for the first time waits for its pages. One turn of a long training is long enough to
    # forget that, and to warm up by another would take as long.
    short = Problem(training[0], 2, training[2])
    if turns == 1:
        for function in functions.values():
            function(short)
    problem = Problem(*training)
    calls = {name: partial(seconds_of, function, problem) for name, function in functions.items()}
    return in_turns(calls, turns, seconds, warm_up=turns > 1)


@dataclass(frozen=True)
class Batch:
    """A batch of students of an environment, whose trainings are differentiated.

    Attributes:
        students: number of students.
        steps: student steps in each training.
        settings: the environment's options; see `teachenv.Settings`.
    """

    students: int
    steps: int
    settings: Mapping[str, Any]


BATCHES: dict[str, Batch] = {
    "digits-mlp": Batch(32, 60, {"task": "digits", "learning_rate": 0.4, "lr_schedule": "linear"}),
    "lenet": Batch(
        8, 10, {"task": "synthetic", "student": "lenet", "batch_size": 64, "dev_size": 64, "learning_rate": 0.02}
    ),
}


def batched(batch: Batch, seed: int, turns: int, folder: Path) -> Outcome:
    """Compares hypergradients of many students in one computation with the same one after the other."""
    return alone(speedup, batch=batch, seed=seed, turns=turns)


def speedup(batch: Batch, seed: int, turns: int) -> Outcome:
    """Runs in a process of its own: the loop's time over the batch's, and how far their gradients differ."""
    env = TeachVectorEnv(batch.students, horizon=batch.steps, **batch.settings)
    env.reset(seed=seed)
    together, begin, single = meta.Training(env.dynamics, env.episodes), env.students, env.problem.dynamics
    trainings = [meta.Training(single, env.problem.episodes.of(s)) for s in env.episodes.seeds]
    starts = [single.init(process.episode) for process in trainings]
    shape = batch.steps, batch.students, env.problem.neutral_action.numel()
    actions = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def at_once() -> torch.Tensor:
        return meta.hypergradient(together, begin, actions, memory="states").actions

    def looped() -> torch.Tensor:
        pairs = enumerate(zip(trainings, starts, strict=True))
        return torch.stack(
            [meta.hypergradient(p, start, actions[:, i], memory="states").actions for i, (p, start) in pairs], 1
        )

    batched_gradients, expected = at_once(), looped()
    times = in_turns({f.__name__: partial(seconds_of, f) for f in (at_once, looped)}, turns, warm_up=False)
    error = float((batched_gradients - expected).norm() / expected.norm())
    return Outcome(
        values={"speedup": times.ratio("looped", "at_once"), "relative_error": error},
        student_steps=batch.steps,
        seconds=times.median("at_once"),
        data={"path": env.path},
    )
