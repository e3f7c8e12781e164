"""Result rows: one JSON object per line, appended so that a crash loses at most the job it interrupted.

A benchmark writes nothing but rows while it runs; its tables and figures are made from the rows alone, so they can be
made again without running anything::

    with ResultsFile(folder / "results.jsonl") as results:  # fails here, before any work, if nothing can be written
        session = Session(results, backend)
        session.perform(cases)  # see `teachenv.experiment.cases`: what has rows already is left out
        report(results.rows()).write(folder)
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from teachenv.experiment.lock import Lock, lock
from teachenv.experiment.row import Row, as_read_back, key_of
from teachenv.experiment.writing import writing

# Of each line.
_BEGINNING = b'{"benchmark":'


class MalformedResults(ValueError):
    """A line of a results file is not a row."""


class ResultsFile:
    """The rows of one benchmark run, in a file that outlives the process.

    Opening makes the folder, checks that it can be written to, and reads what an earlier run left. A last line that a
    crash cut short is removed with a warning. Rows that say the same thing again (same benchmark, task, dataset,
    student, method, seed, config, metric and student steps) replace the older ones in `rows`; the file keeps both.

    Only one process may have the file open for writing (see `teachenv.experiment.lock`): workers hand their rows to it.
    Another one is refused until this object, and all others of the same file in this process, are closed or gone.

    Args:
        path: the file, usually `DIR/results.jsonl`. It is made by the first `append`.

    Raises:
        OutputNotWritable: rows or the files beside them could not be written.
        InUse: another process has the file open; the message says which.
        MalformedResults: a line other than a torn last one is not a row.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with writing(self.path):
            folders = (self.path.parent, *self.path.parent.parents)
            self._made = [folder for folder in folders if not folder.exists()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass  # tables and figures will need new files in the folder
            # Before anything is read: the end of a row that is just being written looks torn.
            self._lock: Lock | None = lock(self.path)
            if self.path.exists():
                with self.path.open("r+b") as file:
                    _mend_last_line(file.fileno(), self.path)
        self._rows: dict[tuple[str, str, int], Row] = {}
        self._metrics: dict[str, dict[str, float]] = {}
        if self.path.exists():
            self._remember(read_rows(self.path))

    def close(self) -> None:
        """Lets other processes write to the file: this object still has its rows, but takes no more.

        That does not wait until the object is gone, since a traceback that a notebook shows keeps it alive. A folder
        that was made for the file, and into which nothing has been written, is removed.
        """
        self._lock = None
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows to the end of the file, on disk when this returns.

        All lines go into a single write, so nobody sees half a row; hand over all rows of one job together.

        Raises:
            OutputNotWritable: the write failed, for example on a full disk; none of the rows are then in the file.
            ValueError: the file is closed.
        """
        if self._lock is None:
            raise ValueError(f"{self.path} is closed, expected an open one to append rows to; open it again")
        rows = list(rows)
        data = "".join(f"{row.to_json()}\n" for row in rows).encode()
        if not data:
            return
        with writing(self.path):
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                start = os.fstat(file).st_size
                written = os.write(file, data)
                if written != len(data):
                    os.ftruncate(file, start)
                    raise OSError(f"only {written} of {len(data)} bytes fitted (is the disk full?)")
                os.fsync(file)
            finally:
                os.close(file)
        self._remember(rows)

    def rows(self) -> list[Row]:
        """All rows in the order of the file, of each number only the newest row."""
        return list(self._rows.values())

    def done(self, identity: Mapping[str, Any], metrics: Collection[str] = ()) -> bool:
        """Whether this piece of work is in the file already, so that it can be skipped.

        Args:
            identity: its `IDENTITY`, by name. The config is compared as JSON: the order of keys does not matter, tuples
                equal lists, 1 differs from 1.0.
            metrics: metrics that must all be there. Without any, one row of whatever metric is enough.
        """
        key = key_of(identity)
        return key in self._metrics and self._metrics[key].keys() >= set(metrics)

    def value(self, metric: str, identity: Mapping[str, Any]) -> float:
        """The newest number of a metric, of the work that `done` would find.

        Raises:
            LookupError: there is none.
        """
        try:
            return self._metrics[key_of(identity)][metric]
        except KeyError:
            raise LookupError(f"no row has {metric!r} of {dict(identity)}") from None

    def _remember(self, rows: Iterable[Row]) -> None:
        for row in rows:
            key = key_of(row.identity)
            self._rows[key, row.metric, row.student_steps] = row
            self._metrics.setdefault(key, {})[row.metric] = row.value


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Every row of a results file, older versions of a row included, without touching the file or its folder.

    Raises:
        FileNotFoundError: there is no such file.
        MalformedResults: a line is not a row; the message has its number.
    """
    path = Path(path)
    rows = []
    # Split at the byte \n only: str.splitlines would also split at characters that JSON strings may hold.
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        if not line and number == 1:
            break  # an empty file has no rows
        try:
            rows.append(Row.from_json(line))
        except (ValueError, RecursionError) as error:
            raise MalformedResults(
                f"{path}, line {number}: expected one row as JSON, found {_shortened(line)} ({error}); "
                "repair or remove this line, or choose another folder"
            ) from error
    return rows


def agreeing(rows: Iterable[Row], identities: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of these pieces of work, of any seed: a folder can hold runs of several settings, which no table may mix.

    Args:
        rows: the rows of a file.
        identities: the `IDENTITY` of each by name, or a part of it; a `config` may be a part of the rows' own, too.
    """
    parts = [as_read_back(dict(identity)) for identity in identities]
    return [row for row in rows if any(_agrees(row, identity) for identity in parts)]


def of_one_configuration(
    rows: Sequence[Row], asked: Mapping[tuple[str, str, str], Mapping[str, Any]] | None = None
) -> list[Row]:
    """Rows of one configuration for each task, student and method: no line of a table may mix several.

    A folder can hold runs of several budgets, or grids that made others the best.

    Args:
        rows: rows of training runs.
        asked: the configuration, by task, student and method; of others it is that of the newest row.
    """
    chosen = {(row.task, row.student, row.method): row.config for row in rows}
    chosen |= {key: as_read_back(dict(config)) for key, config in (asked or {}).items()}
    return [row for row in rows if chosen[row.task, row.student, row.method] == row.config]


def judging(rows: Iterable[Row]) -> list[Row]:
    """The rows of training runs that judge a method, without those that tuned it."""
    return [row for row in rows if row.config.get("stage") == "training"]


def _agrees(row: Row, identity: Mapping[str, Any]) -> bool:
    config, fields = identity.get("config", {}), identity.keys() - {"config", "seed"}
    return config.items() <= row.config.items() and all(getattr(row, name) == identity[name] for name in fields)


def _mend_last_line(file: int, path: Path) -> None:
    """Brings a file to end with a whole line, whatever a crash left."""
    data = path.read_bytes()
    whole, _, last = data.rpartition(b"\n")
    if not last or not _begins_a_row(last):
        return  # in the latter case it is not of this library, and `read_rows` refuses the file as it is
    try:
        Row.from_json(last)
    except (ValueError, RecursionError):
        keep = len(data) - len(last)
        os.ftruncate(file, keep)
        os.fsync(file)
        number = whole.count(b"\n") + 2 if keep else 1
        warnings.warn(
            f"{path}, line {number}: cut off an unfinished row that an interrupted run left ({_shortened(last)}); "
            "its job will run again",
            RuntimeWarning,
            stacklevel=3,
        )
    else:  # only the line's end is missing: keep the row
        os.lseek(file, 0, os.SEEK_END)
        os.write(file, b"\n")
        os.fsync(file)


def _begins_a_row(line: bytes) -> bool:
    """Whether a crash may have left this of a row; zeros are what some file systems leave of a lost block."""
    squeezed = line.replace(b" ", b"")
    return _BEGINNING.startswith(squeezed[: len(_BEGINNING)]) or not line.strip(b"\0")


def _shortened(line: bytes) -> str:
    text = line.decode(errors="replace")
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
