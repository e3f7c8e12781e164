"""One measured number, and what says which piece of work it is of."""

import dataclasses
import hashlib
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

IDENTITY = ("benchmark", "task", "dataset", "student", "method", "seed", "config")
"""The fields of `Row` that say which piece of work its number is of."""


@dataclass(frozen=True)
class Row:
    """One measured number and everything needed to say where it came from.

    Values are checked and brought to plain Python types on construction (a numpy or torch scalar becomes a float), and
    `config` is copied, so a row never differs from what is read back from its file.

    Attributes:
        benchmark: name of the benchmark, as on its command line.
        task: setting, for example `digits-noisy-40`.
        dataset: data that the students were trained on; stand-ins are named as such.
        student: student network.
        method: teacher, perhaps with a suffix after a colon (`rmd:bilinear`).
        seed: seed of this repetition.
        metric: what `value` is. Errors and accuracies are fractions in [0, 1], never percent.
        value: the number; finite.
        student_steps: student SGD steps spent up to this number, the common currency of all teachers.
        seconds: wall-clock time spent up to this number; finite.
        config: every option that shaped the number, as JSON values.
        git_commit: the commit that it was measured at, from `teachenv.experiment.provenance`.
        versions: the libraries' versions; where a benchmark has a choice, also the precision of the networks.
        data: what a figure needs beside the number, such as a curve or a matrix: JSON values, or None.

    Raises:
        ValueError: a number is not finite, or a field cannot be written as JSON.
    """

    benchmark: str
    task: str
    dataset: str
    student: str
    method: str
    seed: int
    metric: str
    value: float
    student_steps: int
    seconds: float
    config: dict[str, Any]
    git_commit: str
    versions: dict[str, str]
    data: Any = None

    def __post_init__(self) -> None:
        for name in ("benchmark", "task", "dataset", "student", "method", "metric", "git_commit"):
            if not isinstance(getattr(self, name), str):
                self._refuse(name, "a string")
        for name in ("seed", "student_steps"):
            try:
                self._set(name, operator.index(getattr(self, name)))
            except TypeError:
                self._refuse(name, "an integer")
        for name in ("value", "seconds"):
            number = getattr(self, name)
            # A string also converts to float, but has no __float__ of its own.
            if not hasattr(number, "__float__") or not math.isfinite(number):
                self._refuse(name, "a finite number; say in its own metric that a run diverged")
            self._set(name, float(number))
        for name in ("config", "versions", "data"):
            if name != "data" and not isinstance(getattr(self, name), dict):
                self._refuse(name, "a dict")
            try:
                self._set(name, as_read_back(getattr(self, name)))
            except (TypeError, ValueError) as error:
                self._refuse(name, f"JSON values without NaN or infinity ({error})")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for everybody else

    def _refuse(self, name: str, expected: str) -> NoReturn:
        row = f"{self.benchmark}/{self.method}/{self.metric}"
        raise ValueError(f"row {row}: found {name}={getattr(self, name)!r}, expected {expected}")

    @property
    def identity(self) -> dict[str, Any]:
        """Which piece of work the number is of, by the names of `IDENTITY`."""
        return {name: getattr(self, name) for name in IDENTITY}

    def to_json(self) -> str:
        """The row as one line of JSON, without the line's end."""
        fields = dataclasses.asdict(self)
        if self.data is None:
            del fields["data"]
        return json.dumps(fields, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> "Row":
        """The row that a line of JSON holds.

        Raises:
            ValueError: the line is not JSON, is not an object, or lacks or adds a field.
        """
        content = json.loads(line)
        if not isinstance(content, dict):
            raise ValueError(f"found {type(content).__name__}, expected an object")
        known = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(known - {"data"} - content.keys()), sorted(content.keys() - known)
        if missing or unknown:
            raise ValueError(f"missing fields: {missing}, unknown fields: {unknown}")
        return cls(**content)


def digest(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for settings: equal where they read back equal from a file, else not."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()[:16]


def key_of(identity: Mapping[str, Any]) -> str:
    """One text for a piece of work, equal where its identity reads back equal from a file."""
    return canonical({name: identity[name] for name in IDENTITY})


def canonical(settings: Mapping[str, Any]) -> str:
    """JSON in which settings that read back equal are equal strings."""
    return json.dumps(as_read_back(settings), sort_keys=True)


def as_read_back(value: Any) -> Any:
    """A copy as a file would return it: tuples become lists, keys strings."""
    return json.loads(json.dumps(value, allow_nan=False))
