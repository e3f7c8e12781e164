"""Lines of methods that are tuned on dev, each in training runs of its own, and then judged on test by other seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from benchmarks.lgtm import work
from benchmarks.lgtm.methods import ALONE, Method
from benchmarks.lgtm.setting import Setting
from teachenv.experiment.cases import Case, Session, Stage
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

# Seeds that tune, and none that judges.
_TUNING_SEED = 1_000_000


class Choice(Protocol):
    """What tuning chooses, a named tuple of plain values."""

    def applied(self, setting: Setting, method: Method) -> tuple[Setting, Method]:
        """Setting and method with what was chosen."""

    def _asdict(self) -> dict[str, Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class TunedStudy:
    """The training runs, as stages of a session.

    Attributes:
        benchmark: the benchmark's name.
        settings: where they are, in any order; each has a name of its own.
        methods: the lines by name.
        chosen: names of those that are run; None: all.
        seeds: students of each line, by the setting's name.
        grid: takes a setting and the name of a line to what its tuning chooses from; one choice: there is no tuning.
        score: the metric that chooses, and that is reported, without `dev_` and `test_`.
        tuned_as: the line whose choice a line takes over, by its name; the others are tuned themselves.
        tuning_part: how long training runs that tune are, as a part of those that judge.
    """

    benchmark: str
    settings: Sequence[Setting]
    methods: Mapping[str, Method]
    chosen: Sequence[str] | None
    seeds: Mapping[str, int]
    grid: Callable[[Setting, str], Sequence[Choice]]
    score: str = "accuracy"
    tuned_as: Mapping[str, str] = field(default_factory=dict)
    tuning_part: float = 1.0

    @property
    def stages(self) -> Iterator[Stage]:
        """The training runs that tune, and then those of all seeds."""
        yield self._tunings
        yield self._trainings

    def shown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of the training runs that judge, whichever lines this study was asked to run."""
        known = [
            {"task": setting.name, "method": name, "config": {**self._about(setting, name), "stage": "training"}}
            for setting in self.settings
            for name in self.methods
        ]
        return agreeing(rows, known)

    def case(self, setting: Setting, name: str, choice: Choice, seed: int | None) -> Case:
        """A training run of a line; no seed: one that tunes."""
        stage, number = ("tuning", _TUNING_SEED) if seed is None else ("training", seed)
        used, method = choice.applied(setting, self.methods[name])
        if seed is None:
            used = replace(used, epochs=used.epochs * self.tuning_part)
        arguments: dict[str, Any] = {"setting": used, "method": method, "test": seed is not None}
        if method.tuned:
            arguments["teacher"] = self._teacher(setting, used, method, number)
        return Case(
            benchmark=self.benchmark,
            task=setting.name,
            dataset=setting.parts(number).dataset,
            student=setting.title,
            method=name,
            seed=number,
            config={**self._about(setting, name), "stage": stage, "tuned": choice._asdict()},
            label=f"{setting.name}: {name}, {_in_words(choice) if seed is None else f'seed {seed}'}",
            function=work.distil,
            arguments={**arguments, "seed": number},
            last=f"{'dev' if seed is None else 'test'}_{self.score}",
        )

    def _names(self) -> list[str]:
        return [name for name in self.methods if self.chosen is None or name in self.chosen]

    def _tried(self, setting: Setting, name: str) -> list[tuple[Choice, Case]]:
        """What a line chooses from, with the training runs that tune it."""
        tuned = self.tuned_as.get(name, name)
        return [(choice, self.case(setting, tuned, choice, None)) for choice in self.grid(setting, tuned)]

    def _tunings(self, session: Session) -> list[Case]:
        tried = [self._tried(setting, name) for setting in self.settings for name in self._names()]
        cases = {case.digest: case for grid in tried if len(grid) > 1 for _, case in grid}
        return list(cases.values())

    def _trainings(self, session: Session) -> list[Case]:
        cases = []
        for setting in self.settings:
            for name in self._names():
                tried = self._tried(setting, name)
                grid = [choice for choice, _ in tried]
                if len(grid) > 1:
                    grid = session.best_first(f"dev_{self.score}", tried)[:1]
                case = partial(self.case, setting, name)
                cases += [case(choice, seed) for choice in grid for seed in range(self.seeds[setting.name])]
        # Seed by seed: what is there before the end is paired.
        return sorted(cases, key=lambda case: case.seed)

    def _about(self, setting: Setting, name: str) -> dict[str, Any]:
        """What the rows of a line have in common."""
        tried = [list(choice) for choice in self.grid(setting, self.tuned_as.get(name, name))]
        about = {"setting": dict(setting.config), **self.methods[name].config, "tried": tried}
        # Rows from before there was such a part have none of it.
        return about if self.tuning_part == 1 else {**about, "tuning_part": self.tuning_part}

    def _teacher(self, setting: Setting, used: Setting, method: Method, seed: int) -> Case:
        """The case of a fixed teacher, the same for all lines that want one of the same data; it makes no rows."""
        data = Method(ALONE, mixed=method.mixed, tuned_on_feedback=method.tuned_on_feedback)
        return Case(
            benchmark=self.benchmark,
            task=setting.name,
            dataset=setting.parts(seed).dataset,
            student=setting.title,
            method="teacher",
            seed=seed,
            config={"setting": dict(setting.config), **data.config, "teacher_rate": used.teacher_rate},
            label=f"{setting.name}: fine-tuning a teacher, seed {seed}",
            function=work.fine_tune,
            arguments={
                "setting": replace(setting, teacher_rate=used.teacher_rate),
                "seed": seed,
                "stops": 1,
                "method": data,
                "test": False,
            },
            makes=work.TEACHER,
        )


def _in_words(choice: Choice) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in choice._asdict().items()
    )
