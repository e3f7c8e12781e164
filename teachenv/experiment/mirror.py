"""Copies what changes in a folder to another machine, so that it survives when the first one is lost."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from teachenv.files import whole_file

Files = dict[str, bytes]
"""Contents by names relative to a folder."""

Changes = Mapping[str, "bytes | None"]
"""New contents by names relative to a folder; None: the file is removed."""

# A file that `teachenv.files.whole_file` has not finished yet.
_UNFINISHED = re.compile(r"\..*\.\w{8}\.part(\..*)?")


def read_files(folder: Path) -> Files:
    """All files of a folder and of those in it; none if it does not exist."""
    return {name: content for name in _states(folder) if (content := _content(folder / name)) is not None}


def write_files(folder: Path, changes: Changes) -> None:
    """Writes files whole, and removes others; folders that become empty thereby are removed, too."""
    for name, content in changes.items():
        path = folder / name
        if content is not None:
            with whole_file(path) as partial:
                partial.write_bytes(content)
            continue
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not empty
            for parent in path.relative_to(folder.parent).parents:
                if parent.name:
                    (folder.parent / parent).rmdir()


@contextmanager
def changes_sent(folder: Path, send: Callable[[Changes], object], seconds: float) -> Iterator[None]:
    """Sends what changes in a folder during the block and at its end, whether or not that raises.

    Files that are written whole are sent whole. One that cannot be sent during the block is sent later.

    Args:
        folder: the folder that is looked at.
        send: called with what has changed, in another thread during the block.
        seconds: the seconds between two looks.

    Raises:
        Exception: what `send` raises at the end.
    """
    sent = _states(folder)

    def look() -> None:
        nonlocal sent
        states = _states(folder)
        changes: dict[str, bytes | None] = {name: None for name in sent if name not in states}
        for name, state in states.items():
            if state != sent.get(name):
                changes[name] = _content(folder / name)
        if changes:
            send(changes)
        sent = states

    def look_again_and_again() -> None:
        while not ended.wait(seconds):
            with contextlib.suppress(Exception):
                look()

    ended = threading.Event()
    thread = threading.Thread(target=look_again_and_again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


def _states(folder: Path) -> dict[str, tuple[int, ...]]:
    """What changes when a file does, by name."""
    states: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # removed a moment ago
            if path.is_file() and not _UNFINISHED.fullmatch(path.name):
                state = path.stat()
                states[path.relative_to(folder).as_posix()] = (state.st_ino, state.st_mtime_ns, state.st_size)
    return states


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # removed a moment ago
        return None
