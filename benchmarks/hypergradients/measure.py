"""Measuring one contender; called in a process of its own."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.hypergradients.contenders import CONTENDERS, plain, unrolled
from benchmarks.hypergradients.problems import Problem
from teachenv.experiment import memory


def reference(student: str, steps: int, seed: int, threads: int) -> dict[str, torch.Tensor]:
    """The `gradient` in float64, by unrolled autograd."""
    torch.set_num_threads(threads)
    return {"gradient": unrolled(Problem(student, steps, seed, torch.float64))}


def peak(contender: str, student: str, steps: int, seed: int, threads: int, limit: int | None = None) -> dict[str, Any]:
    """The memory of one hypergradient, as a user has it: resident, with what the allocator cannot give back.

    Args:
        contender: its name.
        student: what is trained.
        steps: T.
        seed: of the training.
        threads: of torch.
        limit: bytes of memory that it may take beyond what the process has at the start.

    Returns:
        `extra_bytes` (None where the system does not tell) and `gradient`; or `failed`, what it said.
    """
    torch.set_num_threads(threads)
    problem, warm, differentiate = Problem(student, steps, seed), Problem(student, 2, seed), CONTENDERS[contender]

    def measured() -> dict[str, Any]:
        plain(warm)
        differentiate(warm)
        gc.collect()
        before = memory.reset_peak()
        if limit is not None:
            memory.limit(limit)
        gradient = differentiate(problem)
        return {"extra_bytes": memory.grown(before), "gradient": gradient}

    return _unless_failed(measured)


def times(
    contenders: tuple[str, ...], student: str, steps: int, seed: int, turns: int, seconds: float, threads: int
) -> dict[str, dict[str, Any]]:
    """The times of contenders that take turns with one another and with plain training, in one process.

    What a shared machine does meanwhile, and the state that the allocator's heap is in, then is the same for all.

    Args:
        contenders: their names.
        student: what is trained.
        steps: T.
        seed: of the training.
        turns: how many at least. Before several of them all have a whole one to warm up: a process that takes memory
            for the first time waits for its pages.
        seconds: how long turns are taken at least.
        threads: of torch.

    Returns:
        By contender, `time_ratio` (to plain training in the same turn) and `seconds` (of one hypergradient), medians.
    """
    torch.set_num_threads(threads)
    problem = Problem(student, steps, seed)
    functions = {name: CONTENDERS[name] for name in contenders} | {"plain": plain}
    for differentiate in functions.values():
        differentiate(problem if turns > 1 else Problem(student, 2, seed))
    taken: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    while len(taken["plain"]) < turns or time.perf_counter() - begin < seconds:
        for name, function in functions.items():
            start = time.perf_counter()
            function(problem)
            taken[name].append(time.perf_counter() - start)
    return {
        name: {
            "time_ratio": statistics.median(t / p for t, p in zip(taken[name], taken["plain"], strict=True)),
            "seconds": statistics.median(taken[name]),
        }
        for name in contenders
    }


def _unless_failed(measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measured()
    except ImportError as error:
        return {"failed": f"not installed: {error.name}"}
    except (RuntimeError, TypeError, AttributeError, MemoryError) as error:
        return {"failed": (str(error) or type(error).__name__).splitlines()[0]}
