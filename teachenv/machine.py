"""What this process may take of the machine that it runs on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

PROCESSES = "TEACHENV_PROCESSES"
"""The environment variable that says how many processes an experiment runs side by side; without it, one."""


def spare_memory(tensors: Sequence[torch.Tensor] = ()) -> int:
    """Returns the bytes that this process may plan with: half of what is free, on the device of the tensors.

    Processes of one experiment each plan with an equal part of that: they begin together, and all see it free.
    """
    return available_memory(tensors) // (2 * max(1, int(os.environ.get(PROCESSES, "1"))))


def available_memory(tensors: Sequence[torch.Tensor] = ()) -> int:
    """Returns the bytes of memory that can still be had: on the device of a state's tensors, or of the system.

    Of the system it is what Linux calls available, at most what a control group leaves; elsewhere half of all memory.
    """
    for tensor in tensors:
        if tensor.is_cuda:
            return int(torch.cuda.mem_get_info(tensor.device)[0])
    limits = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        limits.append(max(0, int(limit[0]) - int(used[0])))
    if limits:
        return min(limits)
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 << 30  # Windows does not tell without a package


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
