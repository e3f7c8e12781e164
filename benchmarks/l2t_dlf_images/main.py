"""The command `python -m benchmarks l2t_dlf_images`: its options, and the comparison that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from benchmarks.l2t_dlf_images import large, report
from benchmarks.l2t_dlf_images.methods import methods as methods_at
from benchmarks.l2t_dlf_images.methods import published
from benchmarks.l2t_dlf_images.presets import PRESETS, SEEDS, Part, Presets
from benchmarks.options import Names, ParallelOptions, Tables
from teachenv.experiment.cases import one_at_a_time
from teachenv.experiment.comparison import Comparison, shipped_rows
from teachenv.experiment.comparison_report import Results
from teachenv.experiment.contest import Contest
from teachenv.experiment.methods import Method
from teachenv.experiment.precision import on_this_machine
from teachenv.experiment.setting import Setting

NAME = "l2t_dlf_images"

# Rows that come with this repository; their tuning is used where the settings agree.
SHIPPED = Path(__file__).resolve().parent.parent / "results" / NAME / "results.jsonl"


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks l2t_dlf_images`."""

    preset: Presets = "laptop"  # type: ignore[assignment]
    """Size of the run: smoke only checks that everything runs, laptop gives real results on two cores, published is the
    paper's way on MNIST without any tuning (hours for each seed), paper is the paper's sizes, tuned."""

    table: Literal[1, 2] | None = None
    """The paper's table: 1 is MNIST, 2 is CIFAR; by default both."""

    figure: Literal[3, 4] | None = None
    """Only what a figure of the paper needs: 3, the dev measure along the teacher's steps (LeNet); 4, Φ over time
    (ResNet-8, or the perceptron with --table 1)."""

    tasks: tuple[str, ...] | None = None
    """Names of tasks, such as mnist-mlp-noisy-40; by default all of the preset."""

    methods: tuple[str, ...] | None = None
    """What is run in each task, as far as the task has it; by default what the preset has time for. A method that uses
    teachers of another task, such as rmd:transferred, has them taught as well."""

    large: bool = False
    """Only teach the large students (ResNet-20, WRN-40-10, DenseNet-BC) for a few steps, and report time and memory."""

    device: str | None = None
    """A torch device for the students, such as cuda; by default the CPU."""

    retune: bool = False
    """Tune anew, even where the rows that come with this repository have the tuning already."""

    def __post_init__(self) -> None:
        """Checks the device, beside what all benchmarks check.

        Raises:
            ValueError: an unknown task, method or device, or a number out of range.
        """
        super().__post_init__()
        try:
            torch.device(self.device or "cpu")
        except RuntimeError as error:
            raise ValueError(f"found --device {self.device}, expected one of torch's, such as cpu or cuda:0") from error

    def _names(self) -> Names:
        parts = PRESETS[self.preset]
        methods = sorted({method for part in parts.values() for method in part.methods})
        return {"task": (self.tasks, parts), "method": (self.methods, methods)}


def run(options: Options) -> None:
    """Tunes, trains, measures, and writes rows, tables and figures."""
    if options.large:
        cases = large.cases(NAME, options.processes, **_of_machine(options))
        options.execute(NAME, [one_at_a_time(lambda session: cases)], large.report_of, "large")
        return
    comparison = comparison_of(options)
    options.execute(NAME, comparison.stages, lambda rows: report.make(comparison.results(rows)))


def _of_machine(options: Options) -> dict[str, str | None]:
    """The options that say where an environment's data and students are on this machine."""
    return {"data_root": options.root, "device": options.device or "cpu"}


def chosen(options: Options) -> dict[str, Part]:
    """The tasks that the options ask for, each with the methods that they ask for.

    Raises:
        ValueError: nothing is left.
    """
    parts, methods = PRESETS[options.preset], options.methods
    if options.figure == 3:
        parts, methods = _only(parts, "mnist-lenet"), methods or ("rmd", "l2t-dlf")
    elif options.figure == 4:
        parts, methods = (
            _only(parts, "mnist-mlp" if options.table == 1 else "cifar10-resnet8"),
            methods or ("rmd", "l2t-dlf"),
        )
    chosen_parts = {}
    for name, part in parts.items():
        default = part.by_default
        if default is None or (not default and name in (options.tasks or ())):
            default = part.methods
        wanted = default if methods is None else methods
        chosen_methods = tuple(method for method in part.methods if method in wanted)
        if (
            chosen_methods
            and (options.table in (None, part.table))
            and (options.tasks is None or name in options.tasks)
        ):
            chosen_parts[name] = replace(part, methods=chosen_methods)
    if not chosen_parts:
        raise ValueError("no task of this preset has all that was asked for; leave out --table, --tasks or --methods")
    return chosen_parts


def _only(parts: Mapping[str, Part], name: str) -> dict[str, Part]:
    return {key: part for key, part in parts.items() if key.startswith(name) and "noisy" not in key}


def comparison_of(options: Options) -> Comparison:
    """The comparison that the options describe; the data of its tasks is loaded once, to name it and to fail early."""
    parts = with_sources(chosen(options), PRESETS[options.preset])
    contests = [_contest(name, part, options) for name, part in parts.items()]
    shipped = [] if options.retune else shipped_rows(SHIPPED)
    return Comparison(NAME, contests, options.seeds or SEEDS[options.preset], shipped)


def with_sources(parts: Mapping[str, Part], preset: Mapping[str, Part]) -> dict[str, Part]:
    """The tasks together with those whose teachers they use, in the preset's order.

    Args:
        parts: what was asked for.
        preset: all of the preset's tasks; one that is added has no more methods than its teachers need.
    """
    wanted = {name: set(part.methods) for name, part in parts.items()}
    for part in parts.values():
        known = _known(part)
        for taught_as in filter(None, (known[method].taught_as for method in part.methods)):
            assert part.source is not None
            wanted.setdefault(part.source, set()).add(taught_as)
    return {
        name: replace(part, methods=tuple(method for method in part.methods if method in wanted[name]))
        for name, part in preset.items()
        if name in wanted
    }


def _known(part: Part) -> dict[str, Method]:
    return {**methods_at(part.rates), **published()}


def _contest(name: str, part: Part, options: Options) -> Contest:
    setting = Setting(part.env, on_this_machine({**part.options, **_of_machine(options)}), final=part.final)
    tuned = {"learning_rate": part.rates, "lr_schedule": part.schedules}
    return Contest.of(
        setting, part.effort, _known(part), lambda method: tuned, part.methods, name=name, source=part.source
    )


TABLES: Tables = {
    "table": lambda rows: report.make(Results.of(rows, {**methods_at((0.1,)), **published()})),
    "large": large.report_of,
}
