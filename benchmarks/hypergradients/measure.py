"""Measuring one contender; called in a process of its own."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from pathlib import Path

import torch

from benchmarks.hypergradients.contenders import CONTENDERS, plain, unrolled
from benchmarks.hypergradients.problems import Problem


def reference(student: str, steps: int, seed: int, threads: int) -> dict[str, torch.Tensor]:
    """The `gradient` in float64, by unrolled autograd."""
    torch.set_num_threads(threads)
    return {"gradient": unrolled(Problem(student, steps, seed, torch.float64))}


def measure(
    contender: str, student: str, steps: int, seed: int, turns: int, threads: int, limit: int | None = None
) -> dict[str, object]:
    """Times, memory and gradient of a contender.

    Args:
        contender: its name.
        student: what is trained.
        steps: T.
        seed: of the training.
        turns: how often it takes turns with plain training.
        threads: of torch.
        limit: bytes of memory that it may take beyond what the process has at the start.

    Returns:
        `time_ratio`, `seconds` (of one hypergradient), `extra_bytes` (None where the system does not tell), `gradient`;
        or `failed`, what it said.
    """
    torch.set_num_threads(threads)
    problem, differentiate = Problem(student, steps, seed), CONTENDERS[contender]
    warm = Problem(student, 2, seed)
    try:
        plain(warm)
        differentiate(warm)
        gc.collect()
        before = _reset_peak()
        if limit is not None:
            _limit_memory(limit)
        ratios, seconds, gradient = [], [], torch.zeros(0)
        # Once for the memory, before the turns: the first time a process takes memory it waits for its pages.
        differentiate(problem)
        extra = None if before is None else (_status("VmHWM") or 0) - before
        for _ in range(turns):
            start = time.perf_counter()
            gradient = differentiate(problem)
            taken = time.perf_counter() - start
            start = time.perf_counter()
            plain(problem)
            ratios.append(taken / (time.perf_counter() - start))
            seconds.append(taken)
    except ImportError as error:
        return {"failed": f"not installed: {error.name}"}
    except (RuntimeError, TypeError, AttributeError, MemoryError) as error:
        return {"failed": (str(error) or type(error).__name__).splitlines()[0]}
    values: dict[str, object] = {"time_ratio": statistics.median(ratios), "seconds": statistics.median(seconds)}
    return values | {"extra_bytes": extra, "gradient": gradient}


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
