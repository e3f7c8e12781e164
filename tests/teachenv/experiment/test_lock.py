"""One process at a time writes to a results file."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teachenv.experiment.lock import InUse, lock
from teachenv.experiment.rows import ResultsFile

ROOT = Path(__file__).parents[3]

# Locks the file of its argument, says how it went, and waits. The package is there without what its `__init__` imports:
# torch, which takes seconds.
HOLDER = """
import sys, time, types
from pathlib import Path
package = sys.modules["teachenv"] = types.ModuleType("teachenv")
package.__path__ = [str(Path("teachenv").resolve())]
from teachenv.experiment.lock import lock
kept = lock(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(600)
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_in_a_line_that_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with another_process(path) as other:
        for _ in range(2):
            with pytest.raises(
                InUse, match=rf"in use by process {other.pid} \(.*\), expected .* another folder \(out\)$"
            ) as caught:
                ResultsFile(path)
            assert "\n" not in str(caught.value)
        assert not path.exists()
        assert lock(tmp_path / "other.jsonl")
        other.send_signal(signal.SIGKILL)
        other.wait()
        # What it left is no lock any more, and is gone after the next run.
        results = ResultsFile(path)
        assert list(tmp_path.iterdir()) == [tmp_path / ".results.jsonl.lock"]
        del results
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_left_alone_while_its_writer_lives(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"benchmark": "compare", "ta')
    with another_process(path), pytest.raises(InUse):
        ResultsFile(path)
    assert path.read_bytes() == b'{"benchmark": "compare", "ta'
    with pytest.warns(RuntimeWarning, match="cut off an unfinished row"):
        ResultsFile(path)


def test_within_a_process_all_share_the_lock_until_the_last_is_gone(tmp_path: Path) -> None:
    first, second = lock(tmp_path / "results.jsonl"), lock(tmp_path / "x" / ".." / "results.jsonl")
    assert first is second
    del first
    assert [file.name for file in tmp_path.iterdir()] == [".results.jsonl.lock"]
    del second
    assert list(tmp_path.iterdir()) == []


def test_a_closed_file_is_free_whoever_still_has_it_and_takes_no_more_rows(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with ResultsFile(folder / "results.jsonl") as first, ResultsFile(folder / "results.jsonl") as second:
        second.close()
        assert [file.name for file in folder.iterdir()] == [".results.jsonl.lock"]
    assert list(tmp_path.iterdir()) == []  # of folders that were made for nothing, nothing is left
    for closed in (first, second):
        with pytest.raises(ValueError, match="is closed, expected an open one"):
            closed.append([])


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(RuntimeWarning, match="without locks"):
        ResultsFile(tmp_path / "results.jsonl")
