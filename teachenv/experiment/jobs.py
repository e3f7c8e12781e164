"""Independent jobs, and the backends that run them.

Jobs share nothing: each is a function with its arguments, and hands back a value. A backend takes jobs and hands back
their values as they end, whichever ends first::

    with make_backend("processes", workers=2) as backend:
        for seed in range(8):
            backend.submit(Job(f"rmd, seed {seed}", train, {"method": "rmd", "seed": seed}))
        for job, value in backend.completed():
            print(job.label, value.reason if isinstance(value, Failure) else value)

Values do not depend on the backend, because every job has the same number of torch threads wherever it runs. Functions
and arguments travel by cloudpickle, so a script may define them itself, and needs no `if __name__ == "__main__":`.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import torch

from teachenv import checks
from teachenv.errors import unknown_name


@dataclass(frozen=True)
class Job:
    """A piece of work for one process.

    Attributes:
        label: What progress and errors call it.
        function: Called once with the arguments; it need not be importable.
        arguments: By name. One that is a `Shared` or a `Kept` is replaced; see there.
        folder: The job's own folder, for its checkpoints: what is in it is still there when the job is begun again.
            It is handed over as the argument `folder`, wherever that is on the machine that runs the job, and need not
            exist. None: no such argument is handed over.
        resources: What the job needs: `num_cpus` (1 unless given; torch has as many threads), and for Ray `num_gpus`,
            `memory` (bytes) and those that a cluster defines itself.
    """

    label: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Of torch, while the job runs."""
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
        reason: What a user reads.
        error: What the job raised, with its cause; None where the process died, or the error cannot be sent.
        traceback: The traceback as text; empty where the process died.
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


BACKENDS = ("inline", "processes", "ray")


def make_backend(name: str, workers: int | None = None, address: str | None = None) -> Backend:
    """Makes a backend.

    Args:
        name: `"inline"` (this process, one job after another), `"processes"` (others on this machine) or `"ray"`.
        workers: Jobs at a time; None: one for each core that this process may use, or what a Ray cluster has room for.
        address: The Ray cluster to join: `"auto"` (the one that this machine is part of) or `"host:port"`. None: one of
            this machine's own, which ends with the backend.

    Raises:
        ValueError: If there is no such backend, it has no address, or `workers` is less than one.
        ImportError: If Ray is not installed.
        ConnectionError: If no Ray cluster answers at the address.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    if address is not None and not isinstance(address, str):
        raise ValueError(f"address must be None or a text, found {checks.shown(address)}")
    if workers is not None:
        workers = checks.integer("workers", workers, least=1)
    if address is not None and name != "ray":
        raise ValueError(f"found address={address!r} with backend={name!r}, expected backend='ray' or no address")
    # Imported when they are asked for: Ray is an extra.
    if name == "inline":
        from teachenv.experiment.inline import Inline

        return Inline()
    if name == "processes":
        from teachenv.experiment.processes import Processes

        return Processes(workers)
    from teachenv.experiment.ray import Ray

    return Ray(workers, address)


class Parcel:
    """Stands for an argument on its way to a job."""

    def opened(self) -> AbstractContextManager[Any]:
        """Gives the argument, where the job runs, for as long as it does."""
        raise NotImplementedError


def arguments_of(job: Job, shared: Callable[[Shared], Any], kept: Callable[[Kept], Any], folder: Any) -> dict[str, Any]:
    """A job's arguments; the functions and `folder` say what stands for shared values, kept folders and its own one."""
    arguments = dict(job.arguments)
    for name, value in arguments.items():
        if isinstance(value, Shared):
            arguments[name] = shared(value)
        elif isinstance(value, Kept):
            arguments[name] = kept(value)
    return arguments if job.folder is None else arguments | {"folder": folder}


def call(label: str, function: Callable[..., Any], arguments: Mapping[str, Any], threads: int) -> Any:
    """Runs a job in this process.

    Args:
        label: what progress and errors call the job.
        function: what the job calls.
        arguments: its arguments; those that are a `Parcel` are opened.
        threads: how many torch has while the job runs.

    Returns:
        The job's value, or a `Failure`.

    Raises:
        KeyboardInterrupt: or what is derived from it; all else that the job raises is a `Failure`.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with ExitStack() as stack:
            received = {
                name: stack.enter_context(value.opened()) if isinstance(value, Parcel) else value
                for name, value in arguments.items()
            }
            return function(**received)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return failure(label, error)
    finally:
        torch.set_num_threads(before)


def answer(label: str, message: bytes, more: Mapping[str, Any] | None = None) -> bytes:
    """Runs a job that `message` has packed, with more arguments if there are any, and packs what it gives."""
    try:
        settings, function, arguments, threads = cloudpickle.loads(message)
        _set_torch(*settings)
        value = call(label, function, arguments | dict(more or {}), threads)
    except Exception as error:  # while it was read
        value = failure(label, error, "it cannot be read where it shall run: ")
    try:
        return pickled(value)
    except Exception as error:
        return pickled(failure(label, error, "its value cannot be sent: "))


def message(job: Job, arguments: Mapping[str, Any]) -> bytes | Failure:
    """What is sent to where the job shall run."""
    try:
        return pickled((_torch_settings(), job.function, arguments, job.threads))
    except Exception as error:
        return not_sent(job, error)


def not_sent(job: Job, error: Exception) -> Failure:
    """What a job gives of which some part cannot be pickled, or not be written down where it is shared."""
    if isinstance(error, OSError):
        return failure(job.label, error, "it cannot be sent: ")
    parts: dict[str, Any] = {"function": job.function, **job.arguments}
    unsendable = (name for name, value in parts.items() if not _can_be_pickled(value))
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    refused = ValueError(
        f"its {next(unsendable, 'arguments')} cannot be sent to another process: {reason}; make open files, locks, "
        "generators and the like where they are used, or choose the backend inline"
    )
    refused.__cause__ = error
    return failure(job.label, refused)


def _can_be_pickled(value: Any) -> bool:
    try:
        pickled(value.value if isinstance(value, Shared) else value)
    except Exception:
        return False
    return True


def _torch_settings() -> tuple[torch.dtype, str, bool, bool]:
    """What a script may have set for the whole process, and that changes numbers."""
    return (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set_torch(dtype: torch.dtype, precision: str, deterministic: bool, warn_only: bool) -> None:
    torch.set_default_dtype(dtype)
    torch.set_float32_matmul_precision(precision)
    if (deterministic, warn_only) != _torch_settings()[2:]:  # seldom, as torch loads its compiler for it
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def received(label: str, answer: bytes) -> Any:
    """The value or `Failure` that was sent back."""
    try:
        return cloudpickle.loads(answer)
    except Exception as error:
        return failure(label, error, "its value cannot be read: ")


def failure(label: str, error: BaseException, before: str = "") -> Failure:
    """What a job gives that raised an error."""
    reason = str(error)
    # Errors of these types say what a user did wrong, in words; others may be no more than a key that is missing.
    if not reason or not isinstance(error, ValueError | OSError | ImportError):
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return Failure(label, before + reason, error, "".join(traceback.format_exception(error)))


def pickled(value: Any) -> bytes:
    """A value by cloudpickle."""
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
