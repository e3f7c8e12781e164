"""Reading data files so that every mistake in one is an error of one line that names the file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from warnings import warn

from teachenv.errors import DatasetUnavailable


def damaged(path: Path, problem: str) -> DatasetUnavailable:
    """Makes the error for a file whose content is wrong."""
    return DatasetUnavailable(
        f"{path} is damaged: {problem}. Delete it and run again to download it, or copy an intact one there."
    )


def unreadable(path: Path, error: OSError) -> DatasetUnavailable:
    """Makes the error for a file that the system does not give."""
    if isinstance(error, FileNotFoundError):
        return DatasetUnavailable(f"{path} is missing; copy it there")
    return DatasetUnavailable(
        f"{path} cannot be read ({error.strerror or error}); copy an intact one there, or correct its permissions"
    )


def read_bytes(path: Path) -> bytes:
    """The content of a whole file.

    Raises:
        DatasetUnavailable: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text, without their ends; `.gz` files are unpacked, a byte-order mark is left out.

    Only a newline ends a line: a sentence may hold other characters at which `str.splitlines` would break.

    Raises:
        DatasetUnavailable: the file cannot be read, is cut off (`.gz`) or is no text; the message names the line.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                text = line.decode("utf-8" if number > 1 else "utf-8-sig")
                if "\0" in text:
                    raise DatasetUnavailable(f"{path}, line {number}: found binary data, expected text; copy a text")
                yield text.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DatasetUnavailable(
            f"{path}, line {number}: found no UTF-8 text ({error}); copy an intact file there"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, f"it is no whole gzip file ({error})") from error
    except OSError as error:
        raise unreadable(path, error) from error


def honest_name(
    name: str,
    folder: Path,
    counts: Mapping[str, int],
    official: Mapping[str, int],
    *,
    size: int | None = None,
    changed: Sequence[str] = (),
) -> str:
    """What data are called in results: the name of the official release only if they are the whole of it.

    Args:
        name: the official release's name.
        folder: where the data lie.
        counts: how much there is of each part, for example `{"training images": 20_000}`; the first is what students
            learn from.
        official: the same of the official release; parts that it does not name are not compared.
        size: what the name of a subset says; None: the first of `counts`.
        changed: files whose checksums are not the official ones.

    Returns:
        `name`, or `"<name>-subset-<size>"`.

    Warns:
        UserWarning: the data are not those of the official release.
    """
    different = [
        f"{counts[part]:,} {part}, official {count:,}" for part, count in official.items() if counts[part] != count
    ]
    if changed:
        different.append(f"other md5 sums of {', '.join(changed)}")
    if not different:
        return name
    subset = f"{name}-subset-{next(iter(counts.values())) if size is None else size}"
    warn(
        f"the files in {folder} are not the official {name} (found {'; '.join(different)}); they are read and named "
        f"{subset!r}: results are not comparable with published ones",
        UserWarning,
        stacklevel=4,
    )
    return subset
