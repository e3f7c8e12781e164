"""Independent jobs on several processes.

Jobs share nothing: each is a function and its arguments, and hands back a value. Results do not depend on the number of
workers, because every job has the same number of torch threads wherever it runs. Only the calling process writes files,
in ``on_result``, so a result is either handed over whole or not at all::

    jobs = [Job(f"rmd, seed {seed}", train, {"method": "rmd", "seed": seed}) for seed in range(8)]
    run_jobs(jobs, workers=2, on_result=lambda job, rows: results.append(rows))

As always with spawned processes, a script that calls this needs ``if __name__ == "__main__":``.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

# After which a worker that was asked to end is killed: time to remove the file that it was writing.
_SECONDS_TO_END = 5.0

_ENDING = {signal.SIGTERM, signal.SIGHUP}

# Without a terminal (a log file, CI), finished jobs are reported at most this often.
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Job(Generic[T]):
    """A piece of work for one process.

    Attributes:
        label: What progress and errors call it.
        function: Importable by its name (defined at the top of a module), since workers get it pickled.
        kwargs: Its arguments; picklable.
    """

    label: str
    function: Callable[..., T]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class JobFailed(RuntimeError):
    """A job raised, or its process died; ``__cause__`` is what it raised.

    Attributes:
        label: Label of the job; of a process that died, the labels of the jobs that it may have been at.
        reason: What the job said.
    """

    failures: tuple[Any, ...] = ()  # see teachenv.experiment.command

    def __init__(self, label: str, reason: str) -> None:
        super().__init__(label, reason)
        self.label = label
        self.reason = reason

    def __str__(self) -> str:
        return f"job {self.label!r} failed: {self.reason}"


def run_jobs(
    jobs: Sequence[Job[T]],
    workers: int,
    on_result: Callable[[Job[T], T], None],
    threads: int = 1,
) -> None:
    """Run all jobs; the first that fails ends the rest.

    Args:
        jobs: The jobs, started in this order.
        workers: Processes at a time. With 1, or a single job, the jobs run in this process.
        on_result: Called in this process with every job and its value, as they finish. What it raises ends all jobs.
        threads: Torch threads of each job.

    Raises:
        JobFailed: If a job raised or its process died. Jobs that were running are ended, none is started any more.
        KeyboardInterrupt: After Ctrl-C (and what `teachenv.experiment.interrupts` makes of other signals), when all
            workers are gone.
        ValueError: If ``workers`` or ``threads`` is less than one.
    """
    if workers < 1 or threads < 1:
        raise ValueError(f"found workers={workers} and threads={threads}, expected at least 1 of each")
    workers = min(workers, len(jobs))
    with _progress(len(jobs)) as progress:
        finished = _in_this_process(jobs, threads) if workers <= 1 else _on_workers(jobs, workers, threads)
        # Closed explicitly, so that an error in on_result ends the workers now and not at some garbage collection.
        with contextlib.closing(finished):
            for job, value in finished:
                on_result(job, value)
                progress.advance(job.label)


def alone(function: Callable[..., Any], **arguments: Any) -> Any:
    """Calls a function in a new process; one that dies gives `failed`."""
    with _pool(1, _prepare_worker) as pool:
        with _interrupts_held_back():
            future = pool.submit(function, **arguments)
        try:
            return future.result()
        except BrokenProcessPool:
            _let_signals_speak()
            return {"failed": "its process died (out of memory?)"}


def _in_this_process(jobs: Sequence[Job[T]], threads: int) -> Generator[tuple[Job[T], T]]:
    import torch

    before = torch.get_num_threads()
    try:
        for job in jobs:
            torch.set_num_threads(threads)  # each time: the caller's code runs between two jobs
            try:
                value = job.function(**job.kwargs)
            except Exception as error:
                raise JobFailed(job.label, _said(error)) from error
            torch.set_num_threads(before)
            yield job, value
    finally:
        torch.set_num_threads(before)


def _on_workers(jobs: Sequence[Job[T]], workers: int, threads: int) -> Generator[tuple[Job[T], T]]:
    with _pool(workers, _start_worker, threads) as executor:
        with _interrupts_held_back():
            waiting = {executor.submit(_call, job): number for number, job in enumerate(jobs)}
        for future in as_completed(waiting):
            number = waiting.pop(future)
            try:
                value = future.result()
            except BrokenProcessPool as error:
                _let_signals_speak()
                lost = [number, *(waiting[other] for other in waiting if _is_lost(other))]
                # Jobs start in order, so those that were running are the first of the lost ones.
                labels = " or ".join(jobs[number].label for number in sorted(lost)[:workers])
                reason = "its process died; was it killed for using too much memory? Then use fewer workers"
                raise JobFailed(labels, reason) from error
            except Exception as error:
                raise JobFailed(jobs[number].label, _said(error)) from error
            yield jobs[number], value


@contextlib.contextmanager
def _pool(workers: int, initializer: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """Processes that are gone after the block; an error in it ends them whatever they are doing."""
    others = set(multiprocessing.active_children())
    # Spawned, not forked: a fork copies torch's thread pools and locks in whatever state they are.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=initializer, initargs=arguments)
    try:
        yield executor
    except BaseException:
        # Not left to the executor, which would wait for running jobs, perhaps for hours.
        _end(set(multiprocessing.active_children()) - others)
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _end(processes: set[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    alive, last = {process.sentinel: process for process in processes}, time.monotonic() + _SECONDS_TO_END
    while alive and time.monotonic() < last:
        for sentinel in wait(list(alive), last - time.monotonic()):
            del alive[sentinel]  # type: ignore[arg-type]
    for process in alive.values():
        process.kill()


def _let_signals_speak() -> None:
    """Whoever ends a whole group of processes ends this one too: its signal says more than that a worker died."""
    time.sleep(0.2)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, and be done with it before this process is ended.

    A terminal sends it to all processes at once, but only the calling process shall act on it, and end the others. They
    inherit the mask and thus have it from their first instruction; in this process signals arrive a moment later.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *_ENDING})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_lost(future: Future[T]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _prepare_worker() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    _watch_parent()


def _start_worker(threads: int) -> None:
    _prepare_worker()
    # Networks allocate and free the same megabytes over and over, which the kernel hands out page by page: huge pages
    # save 13 to 20 % of a training. torch reads this when it first allocates; who sets it to 0 keeps small pages.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch  # not at the top of the module: the command line must not wait for it before it says a word

    torch.set_num_threads(threads)


def _watch_parent() -> None:
    """Do not work on for nobody when the calling process is killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(job: Job[T]) -> T:
    """Run a job in a worker; what it raises can be handed to the calling process."""
    # Outside of jobs there is nothing to clean up, and an exception would only leave a traceback.
    signal.signal(signal.SIGTERM, _stop)
    try:
        return job.function(**job.kwargs)
    except _Stopped:
        os._exit(128 + signal.SIGTERM)
    except BaseException as error:
        if isinstance(error, Exception) and _survives_pickling(error):
            raise
        # The pool would break, and with it the only hint at what happened.
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Stopped(BaseException):
    """The calling process wants this one to end; files that are being written are removed on the way."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


class _Progress(Protocol):
    def advance(self, label: str) -> None:
        """One more job has finished."""


@contextlib.contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    if not sys.stderr.isatty():
        yield _Lines(total)
        return
    # Here, since the command line must not wait for them before it says a word.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar, total)


class _Bar:
    """A progress bar, for somebody who watches."""

    def __init__(self, bar: "Progress", total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("jobs", total=total)

    def advance(self, label: str) -> None:
        # Escaped by hand: rich would read [...] in a label as markup.
        self._bar.update(self._task, advance=1, description=label.replace("[", r"\["))


class _Lines:
    """A line now and then, for a log file."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._finished = 0
        self._start = time.monotonic()
        self._last_line = -_SECONDS_BETWEEN_LINES

    def advance(self, label: str) -> None:
        self._finished += 1
        elapsed = time.monotonic() - self._start
        if self._finished == self._total or elapsed - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = elapsed
            print(f"[{self._finished}/{self._total}] {label} ({elapsed:.0f} s)", file=sys.stderr, flush=True)
