"""Locks a file, so that one process at a time writes to it.

The lock is the system's (`flock`): it ends with the process that has it, however that ends, so nothing stale is left to
remove by hand.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import warnings
import weakref
from pathlib import Path

# File systems that know no locks (some that are mounted over a network).
_UNKNOWN = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


class InUse(OSError):
    """Another process writes to the file."""


class Lock:
    """The right to write to a file; others are refused until this object is gone. See `lock`."""

    def __init__(self, path: Path) -> None:
        beside = path.with_name(f".{path.name}.lock")
        file = _locked(beside, path)
        about = {"pid": os.getpid(), "host": socket.gethostname(), "command": shlex.join(sys.orig_argv)}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(about).encode(), 0)
        self._release = weakref.finalize(self, _released, file, beside, os.getpid())


_locks: weakref.WeakValueDictionary[tuple[int, Path], Lock] = weakref.WeakValueDictionary()


def lock(path: Path) -> Lock:
    """The lock of a file, kept by the caller for as long as it may write; within one process all share it.

    Args:
        path: the file, which need not exist; its folder must.

    Raises:
        InUse: another process has it; the message says which.
        OSError: nothing can be written to the folder.
    """
    # By process as well: what a forked child copies is its parent's.
    key = os.getpid(), path.resolve()
    process_lock = _locks.get(key)
    if process_lock is None:
        process_lock = _locks[key] = Lock(key[1])
    return process_lock


def _locked(beside: Path, path: Path) -> int:
    while True:
        file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that has been removed since it was opened locks nobody out.
            if os.fstat(file).st_ino == os.stat(beside).st_ino:
                return file
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in _UNKNOWN:
                warnings.warn(
                    f"{path.parent} is on a file system without locks: let no other process write there",
                    RuntimeWarning,
                    stacklevel=4,
                )
                return file
            other = _who(file)
            os.close(file)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InUse(
                f"{path} is in use by {other}, expected one run for a folder; wait for it, end it, or choose another "
                "folder (out)"
            ) from None
        os.close(file)


def _who(file: int) -> str:
    try:
        about = json.loads(os.pread(file, 1 << 16, 0))
        elsewhere = "" if about["host"] == socket.gethostname() else f" on {about['host']}"
        command = " ".join(about["command"].split())
        return f"process {about['pid']}{elsewhere} ({command[:200]})"
    except (ValueError, TypeError, KeyError, AttributeError):
        return "another process"  # which has not written who it is yet


def _released(file: int, beside: Path, owner: int) -> None:
    if os.getpid() == owner:
        beside.unlink(missing_ok=True)  # before others can lock it
    os.close(file)
