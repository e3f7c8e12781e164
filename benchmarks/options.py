"""The options that every benchmark has on its command line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from teachenv.experiment.cases import Stage
    from teachenv.experiment.jobs import Backend
    from teachenv.experiment.report import Report
    from teachenv.experiment.row import Row

Preset: TypeAlias = Literal["smoke", "laptop", "paper"]

Tables: TypeAlias = "Mapping[str, Callable[[list[Row]], Report]]"
"""What a benchmark writes, by the name of a table's file without suffix, each made from rows alone."""

Names: TypeAlias = Mapping[str, "tuple[Iterable[str] | None, Collection[str]]"]
"""By kind, such as "method": the names that an option has, and those that there are."""

_OTHER = "choose another folder with --out"


@dataclass(frozen=True)
class CommonOptions:
    """Base of each benchmark's `Options`; the command line is derived from the fields and the sentences below them.

    Every whole number is a count of something, and what is named twice is run once.

    Raises:
        ValueError: a whole number is less than one, an option that takes several values has none, or a name is not
            known.
    """

    preset: Preset = "laptop"
    """Size of the run: smoke only checks that everything runs, laptop gives real results on two cores, paper is the
    paper's."""

    seeds: int | None = None
    """How often everything is repeated, each time with another seed; by default what the preset says."""

    out: Path | None = None
    """Folder of the rows, tables and figures, by default runs/NAME; a run that was stopped there continues."""

    data_root: Path | None = None
    """Folder of the data sets; by default $TEACHENV_DATA, then the user's cache."""

    check: bool = False
    """Run no experiment: read the rows in the folder, and fail if a line with a teacher lacks the measurements that
    show whether the teacher acted, or if a table does not agree with its rows. Needs only --out, and no data."""

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise ValueError(f"found {flag} {value}, expected at least 1; leave it out for the default")
            if isinstance(value, tuple):
                if not value:
                    raise ValueError(
                        f"found {flag} without a value, expected at least one; leave it out for the default"
                    )
                object.__setattr__(self, name, tuple(dict.fromkeys(value)))
        for kind, (names, known) in self._names().items():
            for name in names or ():
                if name not in known:
                    from teachenv.errors import unknown_name  # brings torch, for which the help does not wait

                    raise unknown_name(kind, name, known)

    def _names(self) -> Names:
        """The options that are names, with the names that there are: they are looked up before anything runs."""
        return {}

    @property
    def root(self) -> str | None:
        """The folder of the data sets, as environments take it."""
        return None if self.data_root is None else str(self.data_root)

    def output_folder(self, name: str) -> Path:
        """Where the results of the benchmark called `name` go: `out`, or `runs/NAME` without it."""
        return Path("runs", name) if self.out is None else self.out

    def execute(
        self, name: str, stages: Iterable[Stage], report: Callable[[list[Row]], Report], part: str | None = None
    ) -> None:
        """Does the cases that the folder does not hold yet, and writes tables, figures and page; see `cases.execute`.

        Raises:
            ValueError: the folder holds the results of something else; or `check` is set, which runs nothing.
        """
        if self.check:
            raise ValueError("found check=True in a run; call teachenv.experiment.evidence.check, as the command does")
        from teachenv.experiment.cases import execute
        from teachenv.experiment.rows import ResultsFile

        path = self.output_folder(name) / f"{part or 'results'}.jsonl"
        with ResultsFile(path) as results:
            for row in results.rows():
                if row.benchmark != name:
                    raise ValueError(f"{path} holds results of {row.benchmark}, expected those of {name}; {_OTHER}")
            if (path.parent / "comparison.json").exists():
                raise ValueError(f"{path.parent} holds results of teachenv.compare, expected those of {name}; {_OTHER}")
            with self._machines() as machines:
                execute(results, stages, report, machines, part)

    def _machines(self) -> Backend:
        """A machine that does one case at a time: nothing else may disturb what is measured here."""
        from teachenv.experiment.backends import make_backend

        return make_backend("inline")


@dataclass(frozen=True)
class ParallelOptions(CommonOptions):
    """The options of benchmarks whose jobs run side by side."""

    workers: int | None = None
    """Processes, each on one core; by default as many as there are usable cores."""

    backend: Literal["processes", "inline", "ray"] = "processes"
    """Where jobs run: processes of this machine, inline (in this process), or ray (pip install "teachenv[ray]")."""

    address: str | None = None
    """Address of a Ray cluster, or auto for the one that this machine is part of; by default one is started here."""

    @property
    def processes(self) -> int:
        """How many processes run jobs."""
        from teachenv.experiment.processes import usable_cores

        return self.workers or usable_cores()

    def _machines(self) -> Backend:
        from teachenv.experiment.backends import make_backend

        return make_backend(self.backend, self.workers, self.address)
