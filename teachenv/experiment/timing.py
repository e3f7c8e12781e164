"""Measurements of time and memory, beside which nothing else runs.

Absolute times say more of a machine, and of what else runs on it, than of what is measured. So contenders take turns in
one process, and what counts is the ratio of their times in the same turn. Memory is measured in a process of its own:
see `teachenv.experiment.processes.alone`.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def seconds_of(function: Callable[..., object], *arguments: Any) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Times:
    """How long contenders took.

    Attributes:
        turns: seconds of each contender's turns.
    """

    turns: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """The median of the seconds of a contender's turns."""
        return statistics.median(self.turns[name])

    def ratio(self, name: str, to: str) -> float:
        """The time of a contender over that of another in the same turn: the median."""
        return statistics.median(a / b for a, b in zip(self.turns[name], self.turns[to], strict=True))


def in_turns(
    contenders: Mapping[str, Callable[[], float]], turns: int, seconds: float = 0.0, warm_up: bool = True
) -> Times:
    """Lets contenders take turns, so that whatever the machine does meanwhile is the same for all.

    Args:
        contenders: give the seconds that count of a turn; mostly `partial(seconds_of, function)`.
        turns: how many each contender takes at least.
        seconds: how long turns are taken at least; more turns if need be.
        warm_up: whether each has a turn before, which does not count.
    """
    for contender in contenders.values() if warm_up else ():
        contender()
    seconds_taken: dict[str, list[float]] = {name: [] for name in contenders}
    number, begin = 0, time.perf_counter()
    while number < turns or time.perf_counter() - begin < seconds:
        for name, contender in contenders.items():
            seconds_taken[name].append(contender())
        number += 1
    return Times(seconds_taken)


def peak(function: Callable[[], T], most: int | None = None) -> tuple[int | None, T]:
    """Calls a function and measures its memory: for a process of its own.

    Args:
        function: is called once.
        most: bytes beyond which it fails to get more; also thereafter, for as long as the process lives.

    Returns:
        Bytes by which the resident memory of the process grew at its peak, with what the allocator cannot give back;
        None where the system does not tell (it does on Linux). And the function's value.
    """
    gc.collect()
    before = _status("VmRSS") if _reset_peak() else None
    data = _status("VmData")
    if most is not None and data is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (data + most, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    value = function()
    return (None if before is None else (_status("VmHWM") or 0) - before), value


def _reset_peak() -> bool:
    """Sets the peak of the process's resident memory to what it has now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def _status(name: str) -> int | None:
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
