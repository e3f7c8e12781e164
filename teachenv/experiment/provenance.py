"""Where a row comes from: the commit that it was measured at, and the libraries that it was measured with."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_DISTRIBUTIONS = ("torch", "gymnasium", "stable-baselines3", "numpy", "teachenv")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a result; `"not installed"` where there is none."""
    numbers = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            numbers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout, say
            numbers[name] = "not installed"
    return numbers


@functools.cache
def git_commit(folder: str | os.PathLike[str] = _ROOT) -> str:
    """The commit of a work tree, as it was when this process first asked.

    Args:
        folder: root of the work tree; by default the one that this package lies in.

    Returns:
        The commit's hash, with `-dirty` appended when the tree has changes or new files (committed results do not
        count: a run that writes them would make itself dirty). `"unknown"` outside a work tree or without git.
    """
    try:
        top = _git(folder, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != Path(folder).resolve():
            return "unknown"  # an installed copy inside somebody else's repository
        commit = _git(folder, "rev-parse", "--verify", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changes else commit


def _git(folder: str | os.PathLike[str], *arguments: str) -> str:
    command = ["git", "-C", os.fspath(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
