"""Files are whole: the new one or the old."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import teachenv
from teachenv.files import remove_leftovers, whole_file

PACKAGE = Path(teachenv.__file__).parent


def test_a_file_is_the_new_one_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.md"
    for content in ("old", "new"):
        with whole_file(path) as partial:
            assert partial.suffix == ".md"
            assert partial.parent == path.parent
            partial.write_text(content)
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_file_is_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_was_made_for_a_failed_write_is_gone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "a" / "b" / "x", tmp_path / "there" / "x"):
        with pytest.raises(RuntimeError), whole_file(path):
            raise RuntimeError
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


# The package is there without what its `__init__` imports: torch, which takes seconds.
_WRITES = """
import sys, time, types
package = sys.modules["teachenv"] = types.ModuleType("teachenv")
package.__path__ = sys.argv[2:]
from teachenv.files import whole_file
with whole_file(sys.argv[1]) as partial:
    partial.write_text("half")
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked otherwise there")
@pytest.mark.parametrize("cleans", ["the next write", "the next read"])
def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_writes(cleans: str, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    others = [tmp_path / name for name in (".model.part.zip", ".model.1234567.part.zip", ".other.12345678.part.zip")]
    for other in others:
        other.touch()

    def clean() -> None:
        if cleans == "the next read":
            remove_leftovers(path)
            return
        with whole_file(path) as partial:
            partial.write_text("new")

    process = subprocess.Popen([sys.executable, "-c", _WRITES, str(path), str(PACKAGE)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        clean()
        assert len(list(tmp_path.glob(".model.*.part.zip"))) == 3 - 1
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    clean()
    assert sorted(tmp_path.glob(".*")) == sorted(others)


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(IsADirectoryError, match="model is a folder, expected the name of a file"):  # noqa: SIM117
        with whole_file(tmp_path / "model"):
            pass
