import contextlib
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import jobs as jobs_module
from benchmarks.jobs import Job, JobFailed, run_jobs

ROOT = Path(__file__).parents[2]


class AwkwardError(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")


def raise_awkward():
    raise AwkwardError("left", "right")


def divide(top, bottom):
    return top / bottom


def sleep_and_mark(path):
    time.sleep(20)
    path.mkdir()


def ignore(job, value):
    pass


@pytest.fixture(autouse=True)
def no_process_is_left_behind():
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


def test_one_worker_means_this_process_and_the_order_of_the_jobs():
    results = []
    jobs = [Job(str(top), divide, {"top": top, "bottom": 2}) for top in (6, 2, 4)]
    run_jobs([*jobs, Job("pid", os.getpid)], 1, lambda job, value: results.append((job.label, value)))
    assert results == [("6", 3), ("2", 1), ("4", 2), ("pid", os.getpid())]


def test_workers_are_other_processes_with_one_torch_thread_each():
    results = {}
    jobs = [Job(str(top), divide, {"top": top, "bottom": 2}) for top in range(6)]
    jobs += [
        Job("pid", os.getpid),
        Job("threads", torch.get_num_threads),
        Job("kind", partial(eval, "type(__import__('multiprocessing').current_process()).__name__")),
    ]
    run_jobs(jobs, 2, lambda job, value: results.update({job.label: (os.getpid(), value)}))
    assert {label: value for label, (_, value) in results.items() if label.isdigit()} == {
        str(top): top / 2 for top in range(6)
    }
    assert {pid for pid, _ in results.values()} == {os.getpid()}  # on_result is called here
    assert results["pid"][1] != os.getpid()
    assert results["threads"][1] == 1
    assert results["kind"][1] == "SpawnProcess"


@pytest.mark.parametrize("given", [None, "0"])
def test_workers_allocate_in_huge_pages_unless_told_otherwise(monkeypatch, given):
    name, found = "THP_MEM_ALLOC_ENABLE", []
    if given is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, given)
    run_jobs([Job(str(job), os.getenv, {"key": name}) for job in range(2)], 2, lambda job, value: found.append(value))
    assert found == [given or "1"] * 2
    assert os.getenv(name) == given  # measurements in this process stay what they were


def test_jobs_have_the_same_number_of_threads_in_this_process_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = []
        run_jobs(
            [Job("a", torch.get_num_threads)] * 2, 1, lambda job, value: seen.append((value, torch.get_num_threads()))
        )
        assert seen == [(1, 3), (1, 3)]
        run_jobs([Job("a", torch.get_num_threads)], 1, lambda job, value: seen.append(value), threads=2)
        assert seen[-1] == 2
        with pytest.raises(JobFailed):
            run_jobs([Job("a", divide, {"top": 1, "bottom": 0})], 1, ignore)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_no_jobs_are_no_work():
    run_jobs([], 4, ignore)


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (-1, 1), (1, 0)])
def test_less_than_one_worker_or_thread_is_refused(workers, threads):
    with pytest.raises(ValueError, match=f"workers={workers} and threads={threads}"):
        run_jobs([Job("pid", os.getpid)], workers, ignore, threads)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_failing_job_ends_the_rest_and_gives_its_label(workers, tmp_path):
    jobs = [
        Job("fine", divide, {"top": 1, "bottom": 2}),
        Job("seed 7", divide, {"top": 1, "bottom": 0}),
        *(Job("slow", sleep_and_mark, {"path": tmp_path / str(number)}) for number in range(3)),
    ]
    with pytest.raises(JobFailed, match=r"^job 'seed 7' failed: division by zero$") as failed:
        run_jobs(jobs, workers, ignore)
    assert failed.value.label == "seed 7"
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_that_cannot_travel_is_told_in_words():
    with pytest.raises(JobFailed, match="job 'awkward' failed: AwkwardError: left and right"):
        run_jobs([Job("awkward", raise_awkward), Job("pid", os.getpid)], 2, ignore)


def test_a_function_that_cannot_travel_is_an_error_with_the_label():
    with pytest.raises(JobFailed, match="job 'lambda' failed:"):
        run_jobs([Job("lambda", lambda: 1), Job("pid", os.getpid)], 2, ignore)


def test_a_worker_that_dies_is_an_error_with_the_label():
    with pytest.raises(JobFailed, match=r"^job 'dies( or later)?' failed: its process died"):
        run_jobs([Job("dies", partial(os._exit, 3)), *[Job("later", os.getpid)] * 3], 2, ignore)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_while_a_result_is_stored_ends_all_jobs(error, tmp_path):
    def fail(job, value):
        raise error

    jobs = [Job("fine", os.getpid), Job("slow", sleep_and_mark, {"path": tmp_path / "slow"})]
    with pytest.raises(type(error)):
        run_jobs(jobs, 2, fail)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import signal, sys, time
from functools import partial
from pathlib import Path
from benchmarks.jobs import Job, alone, run_jobs

def mark_and_sleep(path):
    Path(path).touch()
    time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background inherit that it is ignored
    if sys.argv[2] == "alone":
        alone(mark_and_sleep, path=sys.argv[1])
    jobs = [Job("mark", partial(Path.touch, Path(sys.argv[1]))), *[Job("slow", partial(time.sleep, 600))] * 2]
    run_jobs(jobs, 2, lambda job, value: None)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(("kind", "how"), [("ctrl-c", "jobs"), ("killed", "jobs"), ("killed", "alone")])
def test_no_worker_outlives_the_process_that_started_it(kind, how, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    mark = tmp_path / "mark"
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", mark, how],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not mark.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        if kind == "ctrl-c":
            os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        else:
            process.kill()
        # Ends when the last process that holds the pipes is gone.
        _, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):  # raised, as it should be, when all of them are gone
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert errors.count("Traceback (most recent call last)") == (1 if kind == "ctrl-c" else 0), errors


def test_without_a_terminal_a_line_appears_now_and_then_and_at_the_end(capsys, monkeypatch):
    jobs = [Job(f"job {number}", partial(operator.not_, number)) for number in range(4)]
    monkeypatch.setattr(jobs_module, "_SECONDS_BETWEEN_LINES", 3600.0)
    run_jobs(jobs, 1, ignore)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" (")[0] for line in lines] == ["[1/4] job 0", "[4/4] job 3"]
    monkeypatch.setattr(jobs_module, "_SECONDS_BETWEEN_LINES", 0.0)
    run_jobs(jobs, 1, ignore)
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_in_a_terminal_a_bar_shows_how_many_jobs_are_done(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run_jobs([Job("rmd [red]", os.getpid), Job("ddpg [seed 1]", os.getpid)], 1, ignore)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ddpg [seed 1]" in captured.err
    assert "2/2" in captured.err
