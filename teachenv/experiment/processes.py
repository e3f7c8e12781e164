"""Jobs on several processes of this machine.

Each process is a new interpreter that imports this library and nothing of the script that started it, so a script needs
no `if __name__ == "__main__":`. None outlives the process that started it, however that ends. One that dies takes its
own job with it and no other.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import torch

from teachenv.experiment.calls import Parcel, arguments_of, message, not_sent, received
from teachenv.experiment.jobs import Backend, Failure, Job, Shared
from teachenv.experiment.worker import ENDING
from teachenv.machine import PROCESSES

T = TypeVar("T")

# After which a process that was asked to end is killed: time to remove the file that it was writing.
_SECONDS_TO_END = 5.0

# So often, processes that died are looked for. Their end of the pipe may stay open in a process that they have started.
_SECONDS_BETWEEN_LOOKS = 0.5

# Torch's tensors are allocated in huge pages, since networks allocate and free the same megabytes over and over, which
# the kernel hands out page by page: that saves 13 to 20 % of a training run. Who sets it to 0 keeps small pages.
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}


class Processes(Backend):
    """Runs each job in one of several processes, which begin when there is something to do."""

    def __init__(self, workers: int | None = None) -> None:
        super().__init__()
        self._limit = workers or usable_cores()
        self._workers: list[_Worker] = []
        # Made for the first shared value, when there are processes that remove it if this one is killed.
        self._folder = _unmade_folder()
        self._stored: dict[Shared, _Stored] = {}

    def close(self) -> None:
        """Ends the processes: those that are at a job are asked to, and killed after five seconds."""
        _end(self._workers)
        self._workers.clear()
        self._waiting.clear()
        self._stored.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_running(self) -> bool:
        return any(worker.job for worker in self._workers)

    def _begin(self) -> None:
        """Gives jobs to processes that have none."""
        idle = [worker for worker in self._workers if worker.job is None]
        # All of them begin before the first is sent a job: a large one is not taken before the process has begun.
        for _ in range(min(len(self._waiting) - len(idle), self._limit - len(self._workers))):
            idle.append(_Worker(self._folder, HUGE_PAGES | os.environ | {PROCESSES: str(self._limit)}))
            self._workers.append(idle[-1])
        for worker in idle:
            while self._waiting and worker.job is None:
                job = self._waiting.popleft()
                sent = self._message(job)
                if isinstance(sent, Failure):
                    self._ended.append((job, sent))
                else:
                    worker.begin(job, sent)

    def _message(self, job: Job) -> bytes | Failure:
        try:
            arguments = arguments_of(job, self._store, lambda kept: kept.folder, job.folder)
        except Exception as error:  # of a shared value
            return not_sent(job, error)
        return message(job, arguments)

    def _store(self, shared: Shared) -> _Stored:
        if shared not in self._stored:
            self._folder.mkdir(mode=0o700, exist_ok=True)  # only this user may look into it
            path = self._folder / str(len(self._stored))
            try:
                with path.open("wb") as file:
                    cloudpickle.dump(shared.value, file)
            except OSError as error:
                if error.errno is None or error.filename is not None:
                    raise
                raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk, say
            self._stored[shared] = _Stored(path)
        return self._stored[shared]

    def _listen(self) -> None:
        """Waits until a job ends or its process dies, not for longer than a moment."""
        wait([worker.pipe for worker in self._workers if worker.job], _SECONDS_BETWEEN_LOOKS)
        for worker in self._workers.copy():
            if worker.job is not None and worker.has_ended():
                job = worker.job
                self._ended.append((job, worker.result()))
                if worker.job is not None:
                    self._workers.remove(worker)
                    worker.pipe.close()


@dataclass(frozen=True)
class _Stored(Parcel):
    """A value that was pickled into a file for all processes."""

    path: Path

    def opened(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext(_load(self.path))


@lru_cache(maxsize=8)
def _load(path: Path) -> Any:
    """A shared value, read once by each process; the number bounds what a long run over many tasks holds in memory."""
    with path.open("rb") as file:
        return cloudpickle.load(file)


def alone(function: Callable[..., T], /, **arguments: Any) -> T:
    """Calls a function in a process of its own, which has done nothing before: for measurements of memory and time.

    The process has the environment that any new one has, and as many torch threads as this one.

    Raises:
        ChildProcessError: the process died.
        BaseException: what the function raised.
    """
    label = getattr(function, "__name__", repr(function))
    job = Job(label, function, arguments, resources={"num_cpus": torch.get_num_threads()})
    sent = message(job, arguments)
    if isinstance(sent, Failure):
        raise sent.error or ValueError(sent.reason)
    worker = _Worker(_unmade_folder(), os.environ)  # nothing is shared
    try:
        worker.begin(job, sent)
        while not worker.has_ended():
            wait([worker.pipe], _SECONDS_BETWEEN_LOOKS)
        result: T | Failure = worker.result()
    finally:
        _end([worker])
    if not isinstance(result, Failure):
        return result
    raise result.error or ChildProcessError(result.reason)


def _unmade_folder() -> Path:
    """A folder for temporary files, of which there is no other of the same name; whoever needs it makes it."""
    return Path(tempfile.gettempdir(), f"teachenv-{secrets.token_hex(8)}")


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Modules are looked up where the driver looks them up, from the first import on.
_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from teachenv.experiment.worker import work; work{}"


class _Worker:
    """A process that runs one job at a time.

    Attributes:
        pipe: to it; readable when it has answered, or died.
        job: the job that it is at.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.job: Job | None = None
        self.pipe, end = Pipe()
        # Of subprocess and multiprocessing: -W, -X and the like, which this interpreter was started with.
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        begin = _BEGIN.format((end.fileno(), os.getpid(), str(folder)))
        with end, _interrupts_held_back():
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-c", begin, *sys.path],
                pass_fds=[end.fileno()],
                stdin=subprocess.DEVNULL,
                env=dict(environment),
            )

    def begin(self, job: Job, message: bytes) -> None:
        """Sends the process a job."""
        self.job = job
        with contextlib.suppress(OSError):  # it has died, as will be seen
            self.pipe.send((job.label, message))

    def has_ended(self) -> bool:
        """Whether the job has ended, or the process has."""
        return self.pipe.poll() or self._process.poll() is not None

    def result(self) -> Any:
        """The job's value or `Failure`. Thereafter it has no job, unless it has died."""
        assert self.job is not None
        label = self.job.label
        try:
            # Once more: it may have answered between the two looks, and then ended.
            answer = self.pipe.recv_bytes() if self.pipe.poll() else None
        except (EOFError, OSError):
            answer = None
        if answer is not None:
            self.job = None
            return received(label, answer)
        _let_signals_speak()
        return Failure(label, _reason(self._process.wait()))

    def ask_to_end(self) -> None:
        """One without a job ends as any interpreter does, one that is at a job cleans up."""
        if self.job is not None:
            self._process.terminate()
        self.pipe.close()

    def end(self, seconds: float) -> None:
        """Waits for the end of the process, and kills it thereafter."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _end(workers: list[_Worker]) -> None:
    last = time.monotonic() + _SECONDS_TO_END
    for worker in workers:
        worker.ask_to_end()
    for worker in workers:
        worker.end(last - time.monotonic())


def _reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process died (signal 9); was it killed for using too much memory? then use fewer workers"
    return f"its process died ({f'signal {-code}' if code < 0 else f'exit code {code}'})"


def _let_signals_speak() -> None:
    """Whoever ends a whole group of processes ends this one too: its signal says more than that a worker died."""
    time.sleep(0.2)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Starts processes that Ctrl-C does not reach, and is done with it before this process is ended.

    They inherit the mask and thus have it from their first instruction; in this process signals arrive a moment later.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
