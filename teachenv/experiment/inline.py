"""Jobs in this process, one after another."""

from __future__ import annotations

from teachenv.experiment.calls import arguments_of, call
from teachenv.experiment.jobs import Backend


class Inline(Backend):
    """Runs a job when its value is asked for, in the order in which they were submitted."""

    def close(self) -> None:
        """Forgets the jobs that have not begun."""
        self._waiting.clear()

    def _is_running(self) -> bool:
        return False

    def _begin(self) -> None:
        job = self._waiting.popleft()
        arguments = arguments_of(job, lambda shared: shared.value, lambda kept: kept.folder, job.folder)
        self._ended.append((job, call(job.label, job.function, arguments, job.threads)))

    def _listen(self) -> None:
        """Adds nothing: each job has ended when it has begun."""
