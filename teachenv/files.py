"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a path to write to, in the folder of `path`, which is made if need be; after the block the file is `path`.

    Readers see the old file or the new one, never a part, and after an error the old one is as it was, and a folder
    that was made is gone. What killed processes left of earlier attempts at `path` is removed. Writers that go by a
    file's suffix see the same.

    Raises:
        OSError: it could not be written; the error names `path`.
    """
    path = Path(path)
    try:
        new_folders = _make_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; its folder could not be made", str(path)) from error
    partial = None
    try:
        with _naming(path):
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder, expected the name of a file; choose another name")
            remove_leftovers(path)
            partial, lock = _locked(path)
            try:
                yield partial
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(partial, path)
            finally:
                if lock is not None:
                    os.close(lock)
    except BaseException:
        if partial is not None:
            partial.unlink(missing_ok=True)
        for folder in reversed(new_folders):
            with contextlib.suppress(OSError):  # another process has put something there
                folder.rmdir()
        raise


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Removes what killed processes left of their attempts at `path`; what a living one is writing stays."""
    path = Path(path)
    begin, end = f".{path.stem}.", f".part{path.suffix}"
    with contextlib.suppress(OSError):  # of another user, or a folder that may only be read
        for name in os.listdir(path.parent):
            middle = name[len(begin) : -len(end)]
            if name.startswith(begin) and name.endswith(end) and len(middle) == 8 and middle.isalnum():
                _remove_unlocked(path.with_name(name))


def _make_folder(folder: Path) -> list[Path]:
    """Makes a folder and those around it; returns those that were not there."""
    new_folders: list[Path] = []
    while not folder.exists():
        new_folders.insert(0, folder)
        folder = folder.parent
    for each in new_folders:
        each.mkdir(exist_ok=True)
    return new_folders


def _locked(path: Path) -> tuple[Path, int | None]:
    """A new file beside `path`, and a lock on it that ends with this process.

    It is beside it since a rename is atomic within one file system only.
    """
    while True:
        partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
        lock = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if sys.platform == "win32":  # a file that is open can be neither deleted nor renamed there
            os.close(lock)
            return partial, None
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Between its creation and the lock another process may have taken it for a leftover.
        if partial.exists():
            return partial, lock
        os.close(lock)


def _remove_unlocked(partial: Path) -> None:
    with contextlib.suppress(OSError):  # locked, or gone already
        file = os.open(partial, os.O_RDWR)
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
        finally:
            os.close(file)
        partial.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of writing (a full disk, say) name no file: they name `path` here."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not (error.filename is None or str(error.filename).endswith(f".part{path.suffix}")):
            raise
        raise OSError(error.errno, f"{error.strerror}; the file was not written", str(path)) from error
