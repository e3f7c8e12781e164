"""The command `python -m benchmarks dacbench`: what is measured in which order."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from benchmarks.dacbench import report, theirs
from benchmarks.dacbench.cases import SIZES, Measured, Size, measured
from benchmarks.dacbench.files import Images, find_images
from benchmarks.dacbench.measure import measure
from benchmarks.options import CommonOptions, Tables
from teachenv.experiment.cases import Case
from teachenv.experiment.rows import agreeing

NAME = "dacbench"
_LAST = {"trajectory": "parameters_difference", "baseline": "test_loss", "speed": "vector_over_plain"}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `python -m benchmarks dacbench`."""

    threads: int | None = None
    """Torch threads of every contender; by default as many as torch takes."""


def run(options: Options) -> None:
    """Measures what the folder does not hold yet; writes rows, tables, figure and page."""
    size, threads = SIZES[options.preset], options.threads or torch.get_num_threads()
    version = theirs.installed()
    if version is None:
        print(
            "DACBench is not installed: this library is measured alone; pip install -e '.[peers]' brings it",
            file=sys.stderr,
            flush=True,
        )
    images = {train: find_images(options.root, train, size.test) for train in {size.train, size.whole}}
    cases = [
        _case(each, images[each.train], seed, size, version, threads)
        for seed in range(options.seeds or size.seeds)
        for each in measured(size, version is not None)
    ]
    # A table of rows is the same where DACBench is not installed.
    shown = [
        _case(each, images[each.train], 0, size, version, threads).identity for each in measured(size, compared=True)
    ]
    for identity in shown:
        identity["config"].pop("dacbench")
    options.execute(NAME, [lambda session: cases], lambda rows: report.make(agreeing(rows, shown)))


def _case(each: Measured, images: Images, seed: int, size: Size, version: str | None, threads: int) -> Case:
    return Case(
        benchmark=NAME,
        task="mnist",
        dataset=images.name,
        student=each.network,
        method=each.method,
        seed=seed,
        config={**each.config(size), "threads": threads, "dacbench": version},
        label=f"{each.measurement}: {each.network}, {each.method}, {images.name}, repetition {seed}",
        function=measure,
        arguments={"case": each, "images": images, "seed": seed, "size": size, "compared": version is not None},
        last=_LAST[each.measurement],
        resources={"num_cpus": threads},
    )


TABLES: Tables = {"table": report.make}
