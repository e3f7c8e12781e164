"""Sends a job to the process that runs it, calls it there, and brings its value back."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import torch

from teachenv.experiment.jobs import Failure, Job, Kept, Shared, failure, pickled

_SECONDS_WORTH_COLLECTING = 1.0
"""How long a job takes after which garbage is collected, which takes a quarter of a second.

A teacher and what it is called by refer to each other. Python's collector counts objects, not bytes, and would let such
rings pile up: 100 MB for each RL teacher of a few thousand steps.
"""


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
    before, begun = torch.get_num_threads(), time.monotonic()
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
        if time.monotonic() - begun >= _SECONDS_WORTH_COLLECTING:
            gc.collect()


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
