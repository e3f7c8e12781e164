"""The resident memory of this process, as the system tells it (Linux; elsewhere None)."""

from __future__ import annotations

import resource
from pathlib import Path


def reset_peak() -> int | None:
    """Sets the peak of the process's resident memory to what it has now, and returns that in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def grown(before: int | None) -> int | None:
    """Bytes by which the peak has exceeded what `reset_peak` returned."""
    return None if before is None else (_status("VmHWM") or 0) - before


def limit(extra: int) -> None:
    """Lets further allocations fail beyond some bytes."""
    data = _status("VmData")
    if data is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (data + extra, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _status(name: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
