"""Measures ways to differentiate a training run: each alone for its memory, in turns for their times."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import meta
from benchmarks.hypergradients.contenders import CONTENDERS, Contender, Ours, plain, unrolled
from benchmarks.hypergradients.problems import STUDENTS, Problem
from teachenv import TeachVectorEnv
from teachenv.experiment.cases import Outcome
from teachenv.experiment.processes import alone
from teachenv.experiment.timing import Times, in_turns, peak, seconds_of

# What a contender may fail with, a peer that is not installed and a process that runs out of memory among it.
_FAILURES = (ImportError, RuntimeError, TypeError, AttributeError, MemoryError, OSError)

_PACE = 1024
"""So many steps of plain training tell how long a longer one takes, and training runs up to here are taken twice."""

Setting = tuple[str, int, int, str]
"""What is differentiated: arguments of `Problem` (student, steps, seed, device)."""


@dataclass(frozen=True)
class Differentiated:
    """One hypergradient in a process of its own.

    Attributes:
        gradient: the gradient.
        extra_bytes: how much the process's memory grew; None where the system does not tell.
        seconds: how long it took, without what is done once in a process.
        plain_seconds: how long plain training takes, from its pace.
        predictions: of ours, predicted over measured: `bytes_ratio` (of the tensors that are held), `seconds_ratio`.
    """

    gradient: torch.Tensor
    extra_bytes: int | None
    seconds: float
    plain_seconds: float
    predictions: Mapping[str, float]


def memory(contender: str, training: Setting, limit: int | None, disk_limit: int, whole: bool, folder: Path) -> Outcome:
    """The memory of one hypergradient, as a user has it, and what else that run tells; or why there is none.

    Args:
        contender: the contender's name.
        training: the training.
        limit: bytes that it may take beyond what its process has at the start.
        disk_limit: bytes that its file may take.
        whole: whether the gradient is compared with the one in float64; if not, this run tells its time as well.
        folder: is not used.
    """
    student, steps = training[:2]
    file = steps * sum(4 * p.numel() for p in STUDENTS[student].build().parameters())
    if contender == "rmd:disk" and file > disk_limit:
        return _failed(f"its file would take {file / 2**30:.3g} GiB, more than --disk-limit", training)
    try:
        measured = alone(differentiated, contender=contender, training=training, limit=limit)
    except _FAILURES as failure:
        reason = f"not installed: {failure.name}" if isinstance(failure, ImportError) else str(failure)
        return _failed(reason.splitlines()[0] if reason else type(failure).__name__, training)
    values = {} if measured.extra_bytes is None else {"extra_bytes": float(measured.extra_bytes)}
    values |= measured.predictions
    if whole:
        expected = _reference(training)
        values["relative_error"] = float((measured.gradient.double() - expected).norm() / expected.norm())
        if not math.isfinite(values["relative_error"]):
            return _failed("its gradient is not finite", training)
    else:
        values["time_ratio"] = measured.seconds / measured.plain_seconds
    return Outcome(values=values, student_steps=steps, seconds=measured.seconds)


def _failed(reason: str, training: Setting) -> Outcome:
    data = {"failed": reason}
    return Outcome(values={"failed": 1.0}, data=data, data_of="failed", student_steps=training[1], seconds=0.0)


def differentiated(contender: str, training: Setting, limit: int | None) -> Differentiated:
    """Runs in a process of its own: a hypergradient, and what it costs."""
    student, steps, seed, device = training
    # A step of the whole minibatch would leave the memory of its graph free, to be used again unseen.
    warm = Problem(student, 2, seed, device, batch=1)
    problem, differentiate = Problem(*training), CONTENDERS[contender]
    plain(warm)
    differentiate(warm)
    ours = differentiate if isinstance(differentiate, Ours) else None
    results: list[meta.Hypergradient] = []

    def once() -> torch.Tensor:
        if ours is None:
            return differentiate(problem)
        results[:] = [ours.result(problem)]
        return results[0].actions

    start = time.perf_counter()
    extra_bytes, gradient = _peak(once, limit, device)
    seconds = time.perf_counter() - start
    if steps <= _PACE or contender.startswith("jax"):  # compiled, and with memory that the process has already
        seconds = _seconds_of(differentiate, problem)
    predictions = {}
    # Afterwards, since to measure the pace leaves memory free, too.
    for result in results:
        assert ours is not None
        assert result.predicted_bytes is not None
        predictions = {
            "bytes_ratio": result.predicted_bytes / result.measured_bytes,
            "seconds_ratio": ours.predicted_seconds(problem) / seconds,
        }
    pace = Problem(student, min(steps, _PACE), seed, device)
    plain_seconds = _seconds_of(plain, pace) * steps / pace.steps
    return Differentiated(gradient.cpu(), extra_bytes, seconds, plain_seconds, predictions)


def _peak(function: Callable[[], torch.Tensor], limit: int | None, device: str) -> tuple[int | None, torch.Tensor]:
    """Calls a function and measures its memory: on a GPU that of the GPU's tensors."""
    if device == "cpu":
        return peak(function, limit)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    value = function()
    return torch.cuda.max_memory_allocated(device) - before, value


def _seconds_of(function: Contender, problem: Problem) -> float:
    """The seconds that a contender takes, on a GPU until that is done."""
    start = time.perf_counter()
    function(problem)
    if problem.actions.is_cuda:
        torch.cuda.synchronize(problem.actions.device)
    return time.perf_counter() - start


@functools.cache
def _reference(training: Setting) -> torch.Tensor:
    return alone(exact, training=training)


def exact(training: Setting) -> torch.Tensor:
    """Runs in a process of its own: the gradient in float64, by unrolled autograd."""
    return unrolled(Problem(*training, dtype=torch.float64)).cpu()


def times(contenders: Sequence[str], training: Setting, turns: int, seconds: float, folder: Path) -> Outcome:
    """The times of contenders over that of plain training, all in turns: the first one's, with the others' beside.

    Args:
        contenders: the contenders' names.
        training: the training.
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


def in_turn(contenders: Sequence[str], training: Setting, turns: int, seconds: float) -> Times:
    """Runs in a process of its own: the times of contenders and of plain training, each warmed up by a first turn."""
    functions = {name: CONTENDERS[name] for name in contenders} | {"plain": plain}
    problem = Problem(*training)
    calls = {name: partial(_seconds_of, function, problem) for name, function in functions.items()}
    return in_turns(calls, turns, seconds)


@dataclass(frozen=True)
class Batch:
    """A batch of students of an environment, whose training runs are differentiated.

    Attributes:
        students: number of students.
        steps: student steps in each training run.
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
