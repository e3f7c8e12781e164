"""Files from which interrupted work goes on: one way to name them, and to remove them.

What is in them is written and read by `teachenv.checkpoints`, which runs nothing that a file holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from teachenv.experiment.rows import digest


def checkpoint_of(identity: Mapping[str, Any], folder: Path) -> Path:
    """Where a piece of work is kept: a path whose name has no dot, of which `ending` makes files.

    The name is a digest of everything that the piece's rows are known by. So no two pieces share a file, whatever
    characters their names hold, and work never continues from a file of other settings.

    Args:
        identity: what the rows are known by; see `teachenv.experiment.rows.ResultsFile.done`.
        folder: of the checkpoints.
    """
    return folder / digest(identity)


def ending(checkpoint: Path, suffix: str) -> Path:
    """A file of a checkpoint: its path with `.suffix` appended, whatever dots it has already.

    Args:
        checkpoint: see `checkpoint_of`.
        suffix: without the dot before it.
    """
    return checkpoint.with_name(f"{checkpoint.name}.{suffix}")


def remove(checkpoint: Path) -> None:
    """Removes all files of a checkpoint, and what a process that was killed left of one that it was writing."""
    for pattern in (f"{checkpoint.name}.*", f".{checkpoint.name}.*"):
        for file in checkpoint.parent.glob(pattern):
            file.unlink(missing_ok=True)


@contextmanager
def going_on_from(file: Path) -> Iterator[None]:
    """Work that continues from a file: what does not fit (weights of another network, say) is one error that names it.

    Args:
        file: the one that was read.

    Raises:
        ValueError: it does not fit.
    """
    try:
        yield
    except Exception as error:
        if str(file) in str(error):
            raise  # an error of reading it, which names it already
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{file} does not fit the work that continues from it ({reason[:200]}); remove it to start again"
        ) from error
