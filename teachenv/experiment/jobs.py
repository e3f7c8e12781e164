"""Independent jobs, what they give, and what runs them; `teachenv.experiment.backends` makes the latter by name."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Job:
    """A piece of work for one process.

    Attributes:
        label: what progress and errors call it.
        function: called once with the arguments; it need not be importable.
        arguments: the function's arguments by name. A `Shared` or a `Kept` among them is replaced; see there.
        folder: the job's own folder, for its checkpoints: what is in it is still there when the job is begun again.
            It is handed over as the argument `folder`, wherever that is on the machine that runs the job, and need not
            exist. None: no such argument is handed over.
        resources: what the job needs: `num_cpus` (1 unless given; torch has as many threads), and for Ray `num_gpus`,
            `memory` (bytes) and those that a cluster defines itself.
    """

    label: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """The number of torch's threads while the job runs."""
        return max(1, int(self.resources.get("num_cpus", 1)))


class Shared:
    """A large value that many jobs take, as data: it is sent once to each process or machine, not once a job.

    A job receives the value itself, and must not change it: the next job may receive the same object.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class Kept:
    """A folder that another job has filled (a warm start, a teacher's weights), and that no job changes any more.

    A job receives the path of the folder, or of a copy of it, on the machine that runs the job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder


@dataclass(frozen=True)
class Failure:
    """What a job gives that raised, or whose process died.

    Attributes:
        label: what progress and errors call the job.
        reason: what a user reads.
        error: what the job raised, with its cause; None where the process died, or the error cannot be sent.
        traceback: the traceback as text; empty where the process died.
    """

    label: str
    reason: str
    error: BaseException | None = None
    traceback: str = ""

    def __str__(self) -> str:
        return f"job {self.label!r} failed: {self.reason}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling an exception loses its cause, and one that cannot be read again must not take the message with it.
        return _receive_failure, (self.label, self.reason, _pickled_chain(self.error), self.traceback)


class Backend(ABC):
    """Where jobs run. It is a context manager, and closed at the end of the block."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        # Those that are not handed back yet.
        self._ended: deque[tuple[Job, Any]] = deque()

    def submit(self, job: Job) -> None:
        """Takes one more job; those that are submitted first begin first."""
        self._waiting.append(job)

    def completed(self) -> Iterator[tuple[Job, Any]]:
        """Gives jobs with their value or `Failure` as they end, until none is left; more may be submitted meanwhile."""
        while self._waiting or self._ended or self._is_running():
            self._begin()
            if self._ended:
                yield self._ended.popleft()
            else:
                self._listen()

    @abstractmethod
    def close(self) -> None:
        """Ends what still runs, and forgets what waits: afterwards no process is left."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def _is_running(self) -> bool:
        """Whether a job has begun and not ended yet."""

    @abstractmethod
    def _begin(self) -> None:
        """Begins the jobs that wait, as far as there is room for them."""

    @abstractmethod
    def _listen(self) -> None:
        """Waits for jobs to end, not for ever, and adds those that have."""


def failure(label: str, error: BaseException, before: str = "") -> Failure:
    """What a job gives that raised an error."""
    reason = str(error)
    # Errors of these types say what a user did wrong, in words; others may be no more than a key that is missing.
    if not reason or not isinstance(error, ValueError | OSError | ImportError):
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return Failure(label, before + reason, error, "".join(traceback.format_exception(error)))


def pickled(value: Any) -> bytes:
    """A value as cloudpickle writes it."""
    data: bytes = cloudpickle.dumps(value)
    return data


def _pickled_chain(error: BaseException | None) -> list[bytes]:
    """An exception, its cause, the cause's cause, as far as they can be sent."""
    chain: list[bytes] = []
    while error is not None:
        try:
            link = pickled(error)
            cloudpickle.loads(link)
        except Exception:
            break
        chain.append(link)
        error = error.__cause__
    return chain


def _receive_failure(label: str, reason: str, chain: list[bytes], traceback: str) -> Failure:
    error: BaseException | None = None
    for link in reversed(chain):
        try:
            effect = cloudpickle.loads(link)
        except Exception:  # known where it was raised, not here
            error = None
            continue
        effect.__cause__ = error
        error = effect
    return Failure(label, reason, error, traceback)
