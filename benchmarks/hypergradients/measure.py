"""Measuring one contender; called in a process of its own."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.hypergradients.contenders import CONTENDERS, plain, unrolled
from benchmarks.hypergradients.problems import Problem


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
        before = _reset_peak()
        if limit is not None:
            _limit_memory(limit)
        gradient = differentiate(problem)
        return {"extra_bytes": None if before is None else (_status("VmHWM") or 0) - before, "gradient": gradient}

    return _unless_failed(measured)


def times(contender: str, student: str, steps: int, seed: int, turns: int, threads: int) -> dict[str, Any]:
    """The time of a contender, which takes turns with plain training.

    Args:
        contender: its name.
        student: what is trained.
        steps: T.
        seed: of the training.
        turns: how many; before several of them each has a whole one to warm up: a process that takes memory for the
            first time waits for its pages.
        threads: of torch.

    Returns:
        `time_ratio` (median) and `seconds` (of one hypergradient, median); or `failed`, what it said.
    """
    torch.set_num_threads(threads)
    problem, differentiate = Problem(student, steps, seed), CONTENDERS[contender]

    def measured() -> dict[str, Any]:
        warm = problem if turns > 1 else Problem(student, 2, seed)
        plain(warm)
        differentiate(warm)
        ratios, seconds = [], []
        for _ in range(turns):
            taken = []
            for function in (differentiate, plain):
                start = time.perf_counter()
                function(problem)
                taken.append(time.perf_counter() - start)
            ratios.append(taken[0] / taken[1])
            seconds.append(taken[0])
        return {"time_ratio": statistics.median(ratios), "seconds": statistics.median(seconds)}

    return _unless_failed(measured)


def _unless_failed(measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measured()
    except ImportError as error:
        return {"failed": f"not installed: {error.name}"}
    except (RuntimeError, TypeError, AttributeError, MemoryError) as error:
        return {"failed": (str(error) or type(error).__name__).splitlines()[0]}


def _limit_memory(extra: int) -> None:
    """Lets further allocations fail beyond some bytes, where the system can (Linux)."""
    data = _status("VmData")
    if data is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (data + extra, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _reset_peak() -> int | None:
    """Sets the peak of the process's resident memory to what it has now, and returns that in bytes (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
