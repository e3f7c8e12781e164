"""How a run ends at Ctrl-C or a request to end: one line, exit code 130 or 143, nothing left running, no half files."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGHUP comes when a terminal is closed.
_SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}

# Whoever ends a group of processes may signal the first of them twice.
_SECONDS_OF_PATIENCE = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal that ends the run; all that cleans up after Ctrl-C does so after the others, too.

    Attributes:
        number: the signal's number.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raised() -> Iterator[None]:
    """While something is run, a signal raises `Interrupted`; a second one, some time later, ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    first: float | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            raise Interrupted(number)
        if time.monotonic() - first > _SECONDS_OF_PATIENCE:
            _end(number, frame)

    before = _handle(interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def message(number: int) -> str:
    """The line that the user reads on stderr."""
    # A terminal shows ^C, and stays on that line.
    start = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""
    return f"{start}{_SAID[signal.Signals(number)]}; the same command continues where it stopped"


def exit_code(number: int) -> int:
    """The shell's code for a process that a signal has ended."""
    return 128 + number


def _handle(handler: signal._HANDLER) -> dict[signal.Signals, Any]:
    """Sets the handler of all signals but those that whoever started this process wants ignored (`nohup`, `&`)."""
    before = {number: signal.getsignal(number) for number in _SAID}
    before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{message(number)}\n".encode())
    os._exit(exit_code(number))
