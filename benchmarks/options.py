"""The options that every benchmark has on its command line."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Preset: TypeAlias = Literal["smoke", "laptop", "paper"]


@dataclass(frozen=True)
class CommonOptions:
    """Base of each benchmark's ``Options``; the command line is derived from the fields and the sentences below them.

    Raises:
        ValueError: If ``seeds`` is less than one.
    """

    preset: Preset = "laptop"
    """Size of the run: smoke proves the wiring, laptop gives real results on two cores, paper is the paper's own."""

    seeds: int | None = None
    """How often everything is repeated, each time with another seed; by default what the preset says."""

    out: Path | None = None
    """Folder of the rows, tables and figures, by default runs/NAME; a run that was stopped there continues."""

    data_root: Path | None = None
    """Folder of the data sets; by default $TEACHENV_DATA, then the user's cache."""

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"found --seeds {self.seeds}, expected at least 1; leave it out for the preset's number")

    def output_folder(self, name: str) -> Path:
        """Where the results of the benchmark called ``name`` go: ``out``, or ``runs/NAME`` without it."""
        return Path("runs", name) if self.out is None else self.out


@dataclass(frozen=True)
class ParallelOptions(CommonOptions):
    """Those of benchmarks whose jobs run side by side.

    Raises:
        ValueError: If ``seeds`` or ``workers`` is less than one.
    """

    workers: int | None = None
    """Processes, each on one core; by default as many as there are cores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"found --workers {self.workers}, expected at least 1")

    @property
    def processes(self) -> int:
        """How many."""
        return self.workers or os.cpu_count() or 1
