"""The program of each process of `teachenv.experiment.processes`: runs one job after another, as a pipe brings them."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from types import FrameType
from typing import NoReturn

from teachenv.experiment.calls import answer
from teachenv.experiment.jobs import failure, pickled

# Ask a process to end. Ctrl-C is not among them: a terminal sends it to all processes at once, but only the one that
# started the others shall act on it, and end them.
ENDING = {signal.SIGTERM, signal.SIGHUP}

_SECONDS_BETWEEN_LOOKS = 0.25


def work(descriptor: int, driver: int, folder: str) -> NoReturn:
    """Runs jobs until there are no more.

    Args:
        descriptor: the file descriptor of the pipe over which they come, and answers go.
        driver: number of the process at its other end.
        folder: where the values are that processes share; removed here too, since the driver cannot if it was killed.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    threading.Thread(target=_end_with, args=(driver, folder), daemon=True).start()
    os.set_inheritable(descriptor, False)
    pipe: Connection = Connection(descriptor)
    while True:
        try:
            label, message = pipe.recv()
            pipe.send_bytes(_answer(label, message))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            # Was it killed? This process may end before `_end_with` has seen it. If not, the driver removes it anyway.
            shutil.rmtree(folder, ignore_errors=True)
            break
        except OSError:
            break
    # Without tearing down the interpreter, which takes seconds once torch is there.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with(driver: int, folder: str) -> None:
    """Ends this process when the driver is killed: it would work on for nobody."""
    while os.getppid() == driver:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


class _Stopped(KeyboardInterrupt):
    """The driver wants this process to end; files that are being written are removed on the way."""


def _stop(number: int, frame: FrameType | None) -> None:
    # Whoever ends a group of processes signals this one too, and then the driver does: a second one would break the
    # cleaning up after the first.
    signal.signal(number, signal.SIG_IGN)
    raise _Stopped


def _answer(label: str, message: bytes) -> bytes:
    # Outside of jobs there is nothing to clean up, and an exception would only leave a traceback.
    signal.signal(signal.SIGTERM, _stop)
    try:
        return answer(label, message)
    except _Stopped:
        os._exit(128 + signal.SIGTERM)
    except KeyboardInterrupt as error:  # not from a terminal, but of the job's own making
        return pickled(failure(label, error))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
