"""How far jobs have come: a bar on a terminal, and otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

# Without a terminal (a log file, CI), jobs that ended are reported at most this often.
_SECONDS_BETWEEN_LINES = 5.0


class Progress(Protocol):
    """Shows on stderr how many jobs have ended."""

    def advance(self, label: str) -> None:
        """Takes note that one more job has ended."""


@contextmanager
def progress(jobs: int) -> Iterator[Progress]:
    """Shows how many of so many jobs have ended."""
    if not sys.stderr.isatty():
        yield _Lines(jobs)
        return
    with _on_terminal("jobs", jobs) as shown:
        yield shown


@contextmanager
def bar(what: str, steps: int) -> Iterator[Callable[[], None]]:
    """Shows how many of so many steps of a computation are done, on a terminal alone.

    Yields:
        A function that is called when one more is done.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with _on_terminal(what, steps) as shown:
        yield lambda: shown.advance(what)


@contextmanager
def _on_terminal(what: str, total: int) -> Iterator[_Bar]:
    # Imported here, as a command must not wait for them before it says a word.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as shown:
        yield _Bar(shown, what, total)


class _Bar:
    """A bar, for somebody who watches a terminal."""

    def __init__(self, bar: RichProgress, what: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=total)

    def advance(self, label: str) -> None:
        # Escaped by hand: rich would read [...] in a label as markup.
        self._bar.update(self._task, advance=1, description=label.replace("[", r"\["))


class _Lines:
    """A line now and then, for a log file."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._ended = 0
        self._start = time.monotonic()
        self._last_line = -_SECONDS_BETWEEN_LINES

    def advance(self, label: str) -> None:
        self._ended += 1
        elapsed = time.monotonic() - self._start
        if self._ended == self._jobs or elapsed - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = elapsed
            print(f"[{self._ended}/{self._jobs}] {label} ({elapsed:.0f} s)", file=sys.stderr, flush=True)
