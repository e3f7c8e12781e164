"""The command `python -m benchmarks attribution`: which method meets which training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from benchmarks.attribution import labels, measure, report, trainings
from benchmarks.attribution.methods import METHODS
from benchmarks.attribution.settings import SETTINGS
from benchmarks.attribution.trainings import SHARES
from benchmarks.options import CommonOptions, Names, Tables
from teachenv.experiment.cases import Case

NAME = "attribution"


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `python -m benchmarks attribution`."""

    settings: tuple[str, ...] | None = None
    """Trainings whose samples are attributed; by default all of the preset."""

    methods: tuple[str, ...] | None = None
    """Methods of attribution; by default all of the training's."""

    noisy: tuple[str, ...] | None = None
    """Data sets in which wrong labels are looked for; by default all of the preset."""

    def _names(self) -> Names:
        noisy = self.noisy, labels.SIZES[self.preset]
        return {
            "setting": (self.settings, SETTINGS[self.preset]),
            "method": (self.methods, METHODS),
            "noisy data set": noisy,
        }


def run(options: Options) -> None:
    """Measures what the folder does not hold yet, one after the other; writes rows, table and figure."""
    options.execute(NAME, [lambda session: _attributions(options), lambda session: _labels(options)], report.make)


def _attributions(options: Options) -> Iterator[Case]:
    for name, setting in SETTINGS[options.preset].items():
        if name not in (options.settings or (name,)):
            continue
        for seed in range(options.seeds or setting.seeds):
            needs = {
                share.metric: _case(options, name, seed, share.metric, trainings.retrained, {"share": share})
                for share in SHARES
            }
            needs["networks"] = _case(options, name, seed, "networks", trainings.networks, {})
            for method in setting.methods:
                if method in (options.methods or (method,)):
                    yield _case(options, name, seed, method, measure.measured, {"method": method, **needs})


def _case(
    options: Options, name: str, seed: int, method: str, function: Callable[..., Any], arguments: Mapping[str, Any]
) -> Case:
    """What is known by a method's name: its measurement, or what that needs, which has files in the place of rows."""
    setting = SETTINGS[options.preset][name]
    makes = {trainings.retrained: trainings.RETRAINED, trainings.networks: trainings.NETWORKS}.get(function)
    return Case(
        benchmark=NAME,
        task=name,
        dataset=str(setting.options["task"]),
        student=setting.student,
        method=method,
        seed=seed,
        config=setting.config | ({"trainings": setting.averaged} if method == "attribute:averaged" else {}),
        label=f"{name}, seed {seed}: {method}",
        function=function,
        arguments={"setting": setting, "seed": seed, "data_root": options.root, **arguments},
        last=None if makes else "time_ratio",
        makes=makes,
    )


def _labels(options: Options) -> Iterator[Case]:
    for (task, size), noise, method in product(labels.SIZES[options.preset].items(), labels.NOISES, labels.METHODS):
        if task in (options.noisy or (task,)):
            for seed in range(options.seeds or size.seeds):
                yield _ranking(options, task, size, noise, method, seed)


def _ranking(options: Options, task: str, size: labels.Size, noise: labels.Noise, method: str, seed: int) -> Case:
    return Case(
        benchmark=NAME,
        task=f"{task}-{noise.name}",
        dataset=task,
        student="mlp",
        method=method,
        seed=seed,
        config={"samples": size.samples, **size.options, **noise._asdict()},
        label=f"{task}-{noise.name}, seed {seed}: {method}",
        function=labels.measured,
        arguments={"method": method, "task": task, "noise": noise, "size": size, "seed": seed}
        | {"data_root": options.root},
        last="auc",
    )


TABLES: Tables = {"table": report.make}
