"""Files written whole or not at all, and one message for whatever goes wrong with them."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from teachenv.experiment.lock import InUse
from teachenv.files import whole_file


class OutputNotWritable(OSError):
    """Nothing can be written where the results should go."""


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a whole file such that readers find the old content or the new one, never a part.

    Args:
        path: the file; its folder is made if need be.
        content: text (written as UTF-8) or bytes.

    Raises:
        OutputNotWritable: it could not be written; the old file, if any, is unchanged.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")  # names of files may hold what is no UTF-8
    with writing(Path(path)), whole_file(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong with a file into one message that says what to do."""
    try:
        yield
    except InUse:
        raise
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputNotWritable(
            f"cannot write {path}: {error.filename} is a file, expected a folder; choose another folder"
        ) from error
    except IsADirectoryError as error:
        raise OutputNotWritable(
            f"cannot write {path}: it is a folder, expected a file; remove it, or choose another folder"
        ) from error
    except OSError as error:
        advice = _ADVICE.get(error.errno, "make its folder writable, free some space, or choose another folder")
        raise OutputNotWritable(f"cannot write {path}: {error.strerror or error}; {advice}") from error


# Where neither rights nor space would help.
_ADVICE: dict[int | None, str] = {errno.ENAMETOOLONG: "choose a shorter one"}
