"""Where datasets lie on a machine, and how they get there.

A data root is a directory that holds datasets in torchvision's layout, either directly (`root/MNIST/raw/...`) or
each in a folder of its own (`root/mnist/MNIST/raw/...`). Roots are tried in this order:

1. the explicit `data_root` argument; if it is given, nothing else is tried: whoever names a directory must not get
   data from another one;
2. the environment variable `TEACHENV_DATA`;
3. the user's cache, `$XDG_CACHE_HOME/teachenv` or `~/.cache/teachenv`.

If no root has the files, they are downloaded into the first root that can be written. A download happens in a
temporary directory beside its destination and each file is moved when all are complete, so an interrupted one leaves
nothing half-written behind.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import socket
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from teachenv.data.reading import unreadable
from teachenv.errors import DatasetUnavailable

if sys.platform != "win32":
    import fcntl

ENVIRONMENT_VARIABLE = "TEACHENV_DATA"
_WORKPLACE = ".download-"
_STALLED_SECONDS = 30.0  # an unreachable host must end in an error message, not in a process that hangs


@dataclass(frozen=True)
class FileDataset:
    """A dataset as files: what they are called, what the official ones contain, and how to download them.

    Attributes:
        title: name for messages, e.g. `"CIFAR-10"`.
        folder: the dataset's own folder inside a data root, e.g. `"cifar10"`.
        files: path of each file relative to the data root or to `folder`, with the official file's md5 sum; `""`
            where it is not known. A whole folder of files may stand for them.
        download: puts the files, at these relative paths, into the directory it is given; raises if it cannot. None:
            they are only looked for.
        hint: a further sentence on what to do when the dataset cannot be had.
    """

    title: str
    folder: str
    files: Mapping[str, str]
    download: Callable[[Path], None] | None = None
    hint: str = ""

    def missing(self, directory: Path) -> list[str]:
        """Returns the files that `directory` lacks."""
        # Not Path.exists, which raises where a folder may not be looked into.
        return [file for file in self.files if not os.path.exists(directory / file)]

    def unofficial(self, directory: Path) -> list[str]:
        """Returns the files in `directory` whose md5 sums differ from the official release."""
        return [file for file, md5 in self.files.items() if md5 and _md5(directory / file) != md5]


def candidate_roots(data_root: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """Returns the data roots in the order in which they are looked up; see the top of this file.

    Args:
        data_root: an explicit root, which then is the only one; None for `TEACHENV_DATA`, then the user cache. A
            leading `~` is expanded. The directories need not exist.
    """
    if data_root is not None:
        return (Path(data_root).expanduser(),)
    roots = []
    if from_environment := os.environ.get(ENVIRONMENT_VARIABLE):
        roots.append(Path(from_environment).expanduser())
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    roots.append(Path(cache).expanduser() / "teachenv")
    return tuple(roots)


def find_dataset(dataset: FileDataset, data_root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the directory that holds all files of a dataset, after downloading them if no root has them.

    Args:
        dataset: what to look for.
        data_root: an explicit data root, or None; see `candidate_roots`.

    Returns:
        The directory that the paths in `dataset.files` are relative to.

    Raises:
        DatasetUnavailable: the files are in no candidate and cannot be downloaded; the message lists all
            directories tried and what each lacks.
    """
    roots = candidate_roots(data_root)
    directories = [directory for root in roots for directory in (root, root / dataset.folder)]
    for directory in directories:
        if not dataset.missing(directory):
            return directory

    failure: BaseException | None = None
    for root in roots if dataset.download is not None else ():
        try:
            return _download_into(dataset, root)
        except _NotWritable as error:
            failure = failure or error  # the next root may do
        except Exception as error:  # whatever went wrong on the way, the user needs the same advice
            failure = error
            break
    raise DatasetUnavailable(_unavailable(dataset, directories, data_root, failure)) from failure


class _NotWritable(OSError):
    """A root in which no directory can be made, for example a read-only shared folder."""


def _download_into(dataset: FileDataset, root: Path) -> Path:
    """Downloads a dataset into `root/folder`; on failure, leaves nothing there that was not there before."""
    destination = root / dataset.folder
    created = [path for path in (destination, *destination.parents) if not os.path.exists(path)]
    try:
        try:
            destination.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(destination)
            workplace = tempfile.TemporaryDirectory(prefix=_WORKPLACE, dir=destination)
        except OSError as error:
            raise _NotWritable(f"{destination} cannot be written: {error}") from error
        with workplace as temporary, _locked(temporary), _timeout_of_sockets(_STALLED_SECONDS):
            assert dataset.download is not None
            dataset.download(Path(temporary))
            if missing := dataset.missing(Path(temporary)):
                raise FileNotFoundError(f"the download finished without {', '.join(missing)}")
            for file in dataset.files:
                (destination / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(temporary) / file, destination / file)  # same file system: whole or not at all
        return destination
    finally:
        for path in created:  # innermost first; a directory that holds the data is not empty and stays
            with suppress(OSError):
                path.rmdir()


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Holds a lock on a folder, which ends with this process."""
    if sys.platform == "win32":  # where a folder cannot be locked
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _remove_abandoned(destination: Path) -> None:
    """Removes what killed downloads left in a folder; those that are going on hold a lock."""
    if sys.platform == "win32":
        return
    for folder in destination.glob(f"{_WORKPLACE}*"):
        with suppress(OSError):  # locked, or of another user
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def fetch(url: str, directory: Path, md5: str | None = None) -> None:
    """Downloads a file into a directory.

    Raises:
        OSError: it cannot be had, or came cut off.
    """
    from torchvision.datasets.utils import download_url

    path = directory / url.rsplit("/", 1)[1]
    with _whole(url):
        download_url(url, str(directory), md5=md5)
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                while stream.read(1 << 20):
                    pass


def fetch_archive(url: str, directory: Path) -> None:
    """Downloads an archive and unpacks it into a directory.

    Raises:
        OSError: it cannot be had, or came cut off.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    with _whole(url):
        download_and_extract_archive(url, str(directory), remove_finished=True)


@contextmanager
def _whole(url: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: md5
        raise OSError(f"{url} came cut off, or is something else ({error})") from error


@contextmanager
def _timeout_of_sockets(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)  # torchvision's downloader has no argument for it
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def _unavailable(
    dataset: FileDataset, directories: list[Path], data_root: object, failure: BaseException | None
) -> str:
    """Writes the message of `DatasetUnavailable`: looked for what, where, why no download, and what to do."""
    lines = [f"{dataset.title} was not found. Looked for its {len(dataset.files)} files in:"]
    for directory in directories:
        missing = dataset.missing(directory)
        state = "none of them" if len(missing) == len(dataset.files) else f"lacks {', '.join(missing)}"
        lines.append(f"  {directory}  ({state if os.path.isdir(directory) else 'no such directory'})")
    if data_root is not None:
        lines.append("  (only there, because data_root was given)")
    lines.append(f"Downloading it failed: {failure}" if failure else "It was not downloaded.")
    lines.append("To put it there, copy these files into one of the directories above, in this layout:")
    lines.extend(f"  {file}" for file in dataset.files)
    lines.append(
        f"or name a directory that has them, with the argument data_root or the environment variable "
        f"{ENVIRONMENT_VARIABLE}, or run this once on a machine that can download. {dataset.hint}".rstrip()
    )
    return "\n".join(lines)
