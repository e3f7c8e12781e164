"""Files are whole: the new one or the old."""

from pathlib import Path

import pytest

from teachenv.files import whole_file


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
