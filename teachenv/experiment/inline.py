"""Jobs in this process, one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from teachenv.experiment.jobs import Job, arguments_of, call


class Inline:
    """Runs a job when its value is asked for."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Takes one more job."""
        self._waiting.append(job)

    def completed(self) -> Iterator[tuple[Job, Any]]:
        """Runs the jobs in the order in which they were submitted."""
        while self._waiting:
            job = self._waiting.popleft()
            arguments = arguments_of(job, lambda shared: shared.value, lambda kept: kept.folder, job.folder)
            yield job, call(job.label, job.function, arguments, job.threads)

    def close(self) -> None:
        """Forgets the jobs that have not begun."""
        self._waiting.clear()

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
