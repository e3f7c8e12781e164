"""Jobs in this process and on others; on Ray: `test_ray.py`."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from teachenv.experiment import Failure, Job, Kept, Shared, alone, calls, make_backend
from teachenv.experiment import progress as progress_module
from teachenv.files import whole_file

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def processes():
    with make_backend("processes", workers=2) as made:
        yield made


@pytest.fixture(params=["inline", "processes"])
def backend(request):
    return request.getfixturevalue("processes") if request.param == "processes" else make_backend("inline")


def values(backend, *jobs):
    for job in jobs:
        backend.submit(job)
    return {job.label: value for job, value in backend.completed()}


def divide(top, bottom):
    return top / bottom


class AwkwardError(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")


def test_values_come_back_from_functions_of_any_kind(backend):
    offset = 10
    jobs = [Job(str(top), divide, {"top": top, "bottom": 2}) for top in range(4)]
    assert values(backend, *jobs, Job("closure", lambda x: x + offset, {"x": 1})) == {
        **{str(top): top / 2 for top in range(4)},
        "closure": 11,
    }
    assert list(backend.completed()) == []


def test_jobs_may_be_submitted_while_others_end(backend):
    backend.submit(Job("3", lambda left: left, {"left": 3}))
    labels = []
    for job, left in backend.completed():
        labels.append(job.label)
        if left:
            backend.submit(Job(str(left - 1), job.function, {"left": left - 1}))
    assert labels == ["3", "2", "1", "0"]


def test_a_job_that_fails_says_why_and_the_others_go_on(backend):
    def refuse():
        try:
            raise KeyError("width")
        except KeyError as error:
            raise ValueError("expected a width; add one") from error

    def end():
        sys.exit(3)

    def awkward():
        raise AwkwardError("left", "right")

    found = values(
        backend,
        Job("refused", refuse),
        Job("divides", divide, {"top": 1, "bottom": 0}),
        Job("ends", end),
        Job("awkward", awkward),
        Job("fine", lambda: 1),
    )
    assert found.pop("fine") == 1
    assert all(isinstance(failure, Failure) and failure.label == label for label, failure in found.items())
    assert str(found["refused"]) == "job 'refused' failed: expected a width; add one"
    assert type(found["refused"].error) is ValueError
    assert found["refused"].error.__cause__.args == ("width",)
    assert "in refuse" in found["refused"].traceback
    assert found["divides"].reason == "ZeroDivisionError: division by zero"
    assert found["ends"].reason == "SystemExit: 3"
    assert found["awkward"].reason == "AwkwardError: left and right"


def test_torch_has_one_thread_unless_a_job_needs_more_and_the_caller_keeps_its_own(backend):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = values(
            backend,
            Job("one", torch.get_num_threads),
            Job("two", torch.get_num_threads, resources={"num_cpus": 2}),
            Job("part", torch.get_num_threads, resources={"num_cpus": 0.5}),
        )
        assert found == {"one": 1, "two": 2, "part": 1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_numbers_have_the_type_and_precision_that_the_script_has_set(backend):
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        for dtype, precision in ((torch.float64, "medium"), before):
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)
            job = Job("look", lambda: (torch.zeros(1).dtype, torch.get_float32_matmul_precision()))
            assert values(backend, job) == {"look": (dtype, precision)}
    finally:
        torch.set_default_dtype(before[0])
        torch.set_float32_matmul_precision(before[1])


def test_a_job_receives_what_is_shared_and_the_paths_of_folders(backend, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "weights").write_text("4")

    def use(data, start, folder):
        with whole_file(folder / "checkpoint") as path:
            path.write_text(str(data.sum().item() + int((start / "weights").read_text())))
        return id(data), os.getpid()

    data = Shared(torch.ones(1000))
    found = values(
        backend,
        *(
            Job(str(number), use, {"data": data, "start": Kept(tmp_path / "kept")}, tmp_path / str(number))
            for number in range(6)
        ),
    )
    assert len(set(found.values())) == len({pid for _, pid in found.values()})  # once for each process
    assert [(tmp_path / str(number) / "checkpoint").read_text() for number in range(6)] == ["1004.0"] * 6


def test_a_process_that_dies_fails_its_own_job_only(processes):
    jobs = [Job(str(number), lambda: time.sleep(0.05)) for number in range(8)]
    jobs[3] = Job("killed", lambda: os.kill(os.getpid(), signal.SIGKILL))
    found = values(processes, *jobs)
    failure = found.pop("killed")
    assert failure.reason.startswith("its process died (signal 9); was it killed for using too much memory? then use")
    assert failure.error is None
    assert found == {str(number): None for number in (0, 1, 2, 4, 5, 6, 7)}


def test_what_cannot_be_sent_is_a_failure_of_its_job(processes):
    lock = threading.Lock()
    found = values(
        processes,
        Job("there", lambda: bool(lock)),
        Job("shared", lambda data: data, {"data": Shared(lock)}),
        Job("back", lambda: threading.Lock()),
        Job("fine", lambda: 1),
    )
    assert found.pop("fine") == 1
    assert {label: failure.reason.split(": ")[0] for label, failure in found.items()} == {
        "there": "its function cannot be sent to another process",
        "shared": "its data cannot be sent to another process",
        "back": "its value cannot be sent",
    }


def test_nothing_is_made_for_values_that_processes_share_before_there_are_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with make_backend("processes", workers=1) as backend:
        backend.submit(Job("sum", sum, {"iterable": Shared([1, 2])}))
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_shared_value_is_pickled_and_read_once_however_many_jobs_take_it(processes, tmp_path):
    class Counted:
        def __getstate__(self):
            self.note("written")
            return {}

        def __setstate__(self, state):
            self.note("read")

        def note(self, what, folder=str(tmp_path)):
            with open(f"{folder}/{what}", "a") as file:
                file.write(f"{os.getpid()}\n")

    value = Shared(Counted())
    found = values(processes, *(Job(str(number), lambda _: os.getpid(), {"_": value}) for number in range(6)))
    assert (tmp_path / "written").read_text().split() == [str(os.getpid())]
    assert sorted((tmp_path / "read").read_text().split()) == sorted(map(str, {*found.values()}))


# A user's script: it has no `if __name__ == "__main__":`, and defines what it sends itself.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from teachenv.experiment import Job, Shared, make_backend
from teachenv.files import whole_file

class Point:
    def __init__(self, x):
        self.x = x

def shift(point, data):
    return Point(point.x + data)

def write(folder):
    with whole_file(folder / "model") as path:
        path.write_text("half")
        time.sleep(600)

with make_backend("processes", workers=1) as backend:
    for number in range(2):
        backend.submit(Job("shift", shift, {"point": Point(number), "data": Shared(1)}))
    backend.submit(Job("read", os.getenv, {"key": "THP_MEM_ALLOC_ENABLE"}))
    print([value.x if type(value) is Point else value for _, value in backend.completed()], flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in processes in the background
    backend.submit(Job("slow", write, folder=Path(sys.argv[1])))
    list(backend.completed())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_script_that_started_it(number, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "temporary").mkdir()
    job = tmp_path / "job"
    script = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", job],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary"), "THP_MEM_ALLOC_ENABLE": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (job.exists() and list(job.iterdir())):
            assert script.poll() is None, script.stderr.read()
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(script.pid, number)  # a terminal sends it to the whole group
        else:
            script.send_signal(number)
        # Ends when the last process that holds the pipes is gone.
        printed, errors = script.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):  # raised, as it should be, when all of them are gone
            os.killpg(script.pid, signal.SIGKILL)
    assert script.returncode == -number
    assert printed == "[1, 2, '0']\n"
    assert errors.count("Traceback (most recent call last)") == (1 if number == signal.SIGINT else 0), errors
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not job.exists() or number == signal.SIGKILL  # a half file is removed where there is time for it


IDLE = """
import os, signal
from teachenv.experiment import Job, Shared, make_backend

backend = make_backend("processes", workers=1)
for number in range(2):
    backend.submit(Job("double", lambda data: 2 * data, {"data": Shared(1)}))
print([value for _, value in backend.completed()], os.listdir(os.environ["TMPDIR"]) != [], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_processes_share_is_removed_if_they_have_no_job_when_the_script_is_killed(tmp_path):
    script = [sys.executable, "-c", IDLE]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    # Returns when the last process that holds the pipes is gone.
    ended = subprocess.run(script, env=variables, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "[2, 2] True\n"), ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_torch_allocates_in_huge_pages_but_not_in_measurements(processes, monkeypatch):
    name = "THP_MEM_ALLOC_ENABLE"
    assert values(processes, Job("read", lambda: os.getenv(name))) == {"read": os.getenv(name, "1")}
    monkeypatch.delenv(name, raising=False)

    def refuse():
        raise ValueError(os.getenv(name), os.getpid())

    with pytest.raises(ValueError) as refused:  # noqa: PT011
        alone(refuse)
    assert refused.value.args[0] is None
    assert refused.value.args[1] != os.getpid()


def test_what_is_called_alone_may_die():
    with pytest.raises(ChildProcessError, match=r"^its process died \(exit code 3\)$"):
        alone(lambda: os._exit(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "rya"}, "unknown backend 'rya', did you mean 'ray'? Expected one of 'inline', 'processes', 'ray'"),
        ({"name": "processes", "workers": 0}, "workers must be an integer of at least 1, found 0"),
        (
            {"name": "inline", "address": "auto"},
            "found address='auto' with backend='inline', expected backend='ray' or no address",
        ),
    ],
)
def test_a_backend_that_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        make_backend(**arguments)
    assert str(refused.value) == message


def test_without_a_terminal_a_line_appears_now_and_then_and_at_the_end(capsys, monkeypatch):
    for seconds, expected in (
        (3600.0, ["[1/4] job 0", "[4/4] job 3"]),
        (0.0, [f"[{n + 1}/4] job {n}" for n in range(4)]),
    ):
        monkeypatch.setattr(progress_module, "_SECONDS_BETWEEN_LINES", seconds)
        with progress_module.progress(4) as shown:
            for number in range(4):
                shown.advance(f"job {number}")
        assert [line.rpartition(" (")[0] for line in capsys.readouterr().err.splitlines()] == expected


def test_in_a_terminal_a_bar_shows_how_many_jobs_are_done(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_module.progress(2) as shown:
        shown.advance("rmd [red]")
        shown.advance("ddpg [seed 1]")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ddpg [seed 1]" in captured.err
    assert "2/2" in captured.err


class Ring:
    """Refers to itself, as a teacher and its callbacks do to each other."""

    def __init__(self):
        self.own = self


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_a_long_job_leaves_behind_is_collected(monkeypatch, seconds):
    monkeypatch.setattr(calls, "_SECONDS_WORTH_COLLECTING", seconds)
    gc.collect()
    rings = weakref.WeakSet()
    values(make_backend("inline"), Job("ring", lambda: rings.add(Ring())))
    assert bool(rings) == bool(seconds)
