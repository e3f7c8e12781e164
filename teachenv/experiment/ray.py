"""Jobs on a Ray cluster: on this machine's own, or on one of several machines.

A job is a Ray task. If its node or its process is lost it begins again on another, where it receives the files of its
folder as they were a moment before. No file system is shared for that: an actor on the driver's machine keeps the
folders, and each job sends what changes in its own. On the driver's machine, jobs use the folders themselves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from teachenv.experiment.calls import Parcel, answer, arguments_of, message, not_sent, received
from teachenv.experiment.jobs import Backend, Failure, Job, Kept, Shared, failure, pickled
from teachenv.experiment.mirror import Changes, Files, changes_sent, read_files, write_files
from teachenv.experiment.processes import HUGE_PAGES, usable_cores
from teachenv.machine import PROCESSES
from teachenv.optional import needed_for

with needed_for("the backend 'ray'"):
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# So often, a job is begun again whose node or process was lost. What a job raises itself ends it at once.
_RETRIES = 5

# More tasks than that are not handed over at a time, as to look which of them have ended takes time for each.
_TASKS_AT_A_TIME = 500

# A lost node costs at most the work since its last checkpoint, if that is older than this.
_SECONDS_BETWEEN_LOOKS = 1.0

_SECONDS_TO_END = 5.0
_SECONDS_TO_CONNECT = 5.0


class Ray(Backend):
    """Runs each job as a task of a Ray cluster."""

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        super().__init__()
        # One that the caller has joined stays as it is.
        self._connected = not ray.is_initialized()
        # A cluster of this machine's own has no more room than that anyway.
        self._limit = min(workers or _TASKS_AT_A_TIME, _TASKS_AT_A_TIME)
        if self._connected:
            _connect(workers, address)
        self._running: dict[Any, Job] = {}
        self._shared: dict[Shared, _Stored] = {}
        self._node = _this_node()
        here = NodeAffinitySchedulingStrategy(self._node, soft=False)
        self._folders: Any = ray.remote(_Folders).options(num_cpus=0, scheduling_strategy=here).remote()
        self._task = ray.remote(_run)

    def close(self) -> None:
        """Ends what runs, and leaves the cluster, or ends it if it is this machine's own."""
        self._waiting.clear()
        if not ray.is_initialized():
            return  # closed before, or the caller has left the cluster
        if running := list(self._running):
            for task in running:
                ray.cancel(task)  # as Ctrl-C would, so that half-written files are removed
            _, running = ray.wait(running, num_returns=len(running), timeout=_SECONDS_TO_END)
            for task in running:
                ray.cancel(task, force=True)
        self._running.clear()
        self._shared.clear()
        ray.kill(self._folders)
        if self._connected:
            ray.shutdown()

    def _is_running(self) -> bool:
        return bool(self._running)

    def _begin(self) -> None:
        while self._waiting and len(self._running) < self._limit:
            job = self._waiting.popleft()
            sent = self._message(job)
            if isinstance(sent, Failure):
                self._ended.append((job, sent))
                continue
            resources = {"num_cpus": 1.0} | dict(job.resources)
            options: dict[str, Any] = {name: resources.pop(name) for name in _RAYS_OWN if name in resources}
            task = self._task.options(max_retries=_RETRIES, resources=resources, **options)
            self._running[task.remote(job.label, *sent, self._limit)] = job

    def _message(self, job: Job) -> tuple[bytes, dict[str, Parcel]] | Failure:
        """The job as cloudpickle packs it, and those of its arguments that Ray itself has to see."""
        try:
            if lacking := _lacking(job.resources):
                raise ValueError(lacking)
            folder = None if job.folder is None else _Folder(self._folders, job.folder.absolute(), self._node)
            arguments = arguments_of(job, self._store, self._keep, folder)
        except Exception as error:
            return failure(job.label, error) if isinstance(error, ValueError) else not_sent(job, error)
        parcels = {name: value for name, value in arguments.items() if isinstance(value, Parcel)}
        sent = message(job, {name: value for name, value in arguments.items() if name not in parcels})
        return sent if isinstance(sent, Failure) else (sent, parcels)

    def _store(self, shared: Shared) -> _Stored:
        if shared not in self._shared:
            # As bytes: Ray would hand out arrays that cannot be written to, other than the other backends.
            self._shared[shared] = _Stored(ray.put(pickled(shared.value)))
        return self._shared[shared]

    def _keep(self, kept: Kept) -> _Copy:
        return _Copy(self._folders, kept.folder.absolute(), self._node)

    def _listen(self) -> None:
        """Waits until a job ends, and takes the values of all that have."""
        ray.wait(list(self._running))
        tasks, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for task in tasks:
            job = self._running.pop(task)
            self._ended.append((job, _result(job.label, task)))


def _connect(workers: int | None, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address is None:
        # "local", since None would join a cluster that happens to be there.
        _init("local", num_cpus=workers or usable_cores(), include_dashboard=False)
        return
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError('expected "auto" or "HOST:PORT", such as "10.0.0.1:6379"')
            socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()  # Ray itself tries for minutes
        _init(address)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        advice = "start it by `ray start --head`, and join it with this machine by `ray start --address=HOST:PORT`"
        raise ConnectionError(f"found no Ray cluster at address={address!r}: {reason}; {advice}") from error


def _init(address: str, **options: Any) -> None:
    """Connects quietly, and leaves it to the caller what a request to end does: Ray would set a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _this_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


# What has an argument of its own in Ray, and what a node calls it.
_RAYS_OWN = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}


def _lacking(resources: Mapping[str, float]) -> str:
    """What no node has enough of, in words: Ray would wait for such a node for ever."""
    needed = {_RAYS_OWN.get(name, name): amount for name, amount in resources.items()}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]] if needed else []  # type: ignore[no-untyped-call]
    if not needed or any(all(node.get(name, 0) >= amount for name, amount in needed.items()) for node in nodes):
        return ""
    request = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
    return f"no machine of the cluster has {request}; ask for less, or add one that has by `ray start`"


def _result(label: str, task: Any) -> Any:
    try:
        return received(label, ray.get(task))
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        hint = "was it killed for using too much memory? then ask for more num_cpus, so that fewer run at a time"
        return Failure(label, f"its process died {_RETRIES + 1} times; {hint}", error)
    except ray.exceptions.RayError as error:  # what is no fault of the job, such as a machine without this library
        return failure(label, error.cause if isinstance(error, ray.exceptions.RayTaskError) else error)


def _run(label: str, message: bytes, parcels: Mapping[str, Parcel], limit: int) -> bytes:
    """Runs a job where Ray has put it, one of at most `limit` in the cluster."""
    for name, value in HUGE_PAGES.items():
        os.environ.setdefault(name, value)
    os.environ[PROCESSES] = str(min(limit, _alike_here()))
    return answer(label, message, parcels)


def _alike_here() -> int:
    """How many jobs that ask for as much as this one its machine runs at a time."""
    here = _this_node()
    nodes = [node["Resources"] for node in ray.nodes() if node["NodeID"] == here]  # type: ignore[no-untyped-call]
    given = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    fitting = [node.get(name, amount) // amount for node in nodes for name, amount in given.items() if amount]
    return max(1, int(min(fitting, default=1)))


@dataclass(frozen=True)
class _Stored(Parcel):
    """A shared value in Ray's store."""

    reference: Any

    def opened(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext(_load(self.reference))


@lru_cache(maxsize=8)
def _load(reference: Any) -> Any:
    """The object, read once by each process; the number bounds what a long run over many tasks holds in memory."""
    return cloudpickle.loads(ray.get(reference))


class _Folders:
    """An actor beside the driver that hands out the files of its folders, and receives those of jobs."""

    def __init__(self) -> None:
        self._turns: Counter[Path] = Counter()
        self._kept: dict[Path, Any] = {}

    def begin(self, folder: Path, elsewhere: bool) -> tuple[int, Files]:
        """Begins a job's turn, after which what earlier ones send is refused; its number, and the files to copy."""
        self._turns[folder] += 1
        return self._turns[folder], read_files(folder) if elsewhere else {}

    def kept(self, folder: Path) -> list[Any]:
        """A folder that does not change: a reference, which each machine resolves once."""
        if folder not in self._kept:
            self._kept[folder] = ray.put(read_files(folder))
        return [self._kept[folder]]

    def change(self, folder: Path, turn: int, changes: Changes) -> None:
        """What a job has changed in its copy of a folder."""
        if turn == self._turns[folder]:
            write_files(folder, changes)


@dataclass(frozen=True)
class _Copy(Parcel):
    """A kept folder: itself on the driver's node, a copy elsewhere."""

    folders: Any
    path: Path
    node: str

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        if _this_node() == self.node:
            yield self.path
            return
        with _written(self.path.name, ray.get(ray.get(self.folders.kept.remote(self.path))[0])) as copy:
            yield copy


@dataclass(frozen=True)
class _Folder(_Copy):
    """A job's own folder: itself on the driver's node, elsewhere a copy whose changes are sent there."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        elsewhere = _this_node() != self.node
        turn, files = ray.get(self.folders.begin.remote(self.path, elsewhere))
        if not elsewhere:
            yield self.path
            return

        def send(changes: Changes) -> None:
            ray.get(self.folders.change.remote(self.path, turn, changes))

        with _written(self.path.name, files) as copy, changes_sent(copy, send, _SECONDS_BETWEEN_LOOKS):
            yield copy


@contextlib.contextmanager
def _written(name: str, files: Files) -> Iterator[Path]:
    """A folder of this name with these files, for as long as a job needs it."""
    with tempfile.TemporaryDirectory(prefix="teachenv-") as place:
        folder = Path(place) / name
        write_files(folder, files)
        yield folder
