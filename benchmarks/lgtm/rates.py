"""At which factor does the influence term teach, where some labels are wrong, and what else are right labels good for?

A few samples have right labels: the feedback. LGTM's teacher follows what its lessons do to the student's loss on them,
at several factors and in each of the three modes. The same labels have simpler uses, the controls: they may be mixed
into the minibatches of any method, or be all that a fixed teacher learns. Dev, by which rates and checkpoints are
selected, has labels as wrong as the training data, so that nobody has right labels but those of the feedback.

On images, where a training takes seconds, each line has six trainings with other rates, of a seed that judges none;
then students of other seeds, each on samples of its own, are trained as the one that was best on dev. Texts keep the
benchmark's rates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks.lgtm import work
from benchmarks.lgtm.methods import ALONE, Method
from benchmarks.lgtm.setting import Setting
from teachenv.experiment.cases import Case, Session, Stage
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

MODES = "meta", "released", "reweight"

RATES: tuple[str | float, ...] = ("teacher", 0.03, 0.1, 0.3, 1.0)
"""Factors of the influence term: the teacher's learning rate, as in the released code, or a number; the paper has 1."""

SHARES = 0.25, 0.5
"""Shares of a minibatch that may be feedback; LGTM's lines have the first."""

FOLLOWED = "lgtm:meta-0.3"
"""LGTM's line of which there are also runs in the other order of updates, and from a fine-tuned teacher."""

# Seeds that tune, and none that judges.
_TUNING_SEED = 1_000_000


def lines(student_labels: float | None = None) -> dict[str, Method]:
    """The study's methods by name; controls come first.

    Args:
        student_labels: weight λ of the labels in the loss of students that have a teacher; None: none, as in LGTM's
            code. A student without a teacher has labels alone.
    """
    settings: dict[str, Any] = {} if student_labels is None else {"student_labels": student_labels}
    plain = {
        "cross-entropy": Method(ALONE),
        "kd": Method("kd", True, settings=settings),
        "prokt": Method("prokt", settings=settings),
    }
    found = dict(plain)
    for name, method in plain.items():
        found |= {mixed(name, share): replace(method, mixed=share) for share in SHARES}
    found["kd:teacher-of-feedback"] = replace(plain["kd"], tuned_on_feedback=True)
    for mode, rate in itertools.product(MODES, RATES):
        found[influenced(mode, rate)] = Method("lgtm", False, {"mode": mode, "influence_rate": rate}, settings)
    found |= {mixed(name, SHARES[0]): replace(m, mixed=SHARES[0]) for name, m in found.items() if m.distiller == "lgtm"}
    for name in ("prokt", FOLLOWED):
        later = {**settings, "teacher_first": False}
        found[f"{name}:student-first"] = replace(found[name], settings=later)
        found[f"{name}:fine-tuned"] = replace(found[name], tuned=True)
    return found


def influenced(mode: str, rate: str | float) -> str:
    """The name of LGTM's line in a mode, at a factor."""
    return f"lgtm:{mode}-{rate if isinstance(rate, str) else f'{rate:g}'}"


def mixed(name: str, share: float) -> str:
    """The name of a line whose minibatches have a share of feedback."""
    return f"{name}:mixed-{100 * share:g}"


def untaught(name: str) -> str | None:
    """The name of the line that is the same without influence; None: nobody is taught by influence."""
    method, _, rest = name.partition(":")
    if method != "lgtm":
        return None
    suffix = rest.partition(":")[2]
    return f"prokt:{suffix}" if suffix else "prokt"


class Rates(NamedTuple):
    """What tuning chooses: learning rates of AdamW.

    Attributes:
        student_rate: the student's.
        teacher_rate: the teacher's, fixed or not.
    """

    student_rate: float
    teacher_rate: float


@dataclass(frozen=True)
class Study:
    """The trainings, as stages of a session.

    Attributes:
        benchmark: the benchmark's name.
        settings: where they are, in any order; each has a name of its own.
        methods: the lines by name.
        chosen: names of those that are run; None: all.
        seeds: students of each line.
        tuned: names of the settings in which each line has rates of its own; the others keep the setting's.
    """

    benchmark: str
    settings: Sequence[Setting]
    methods: Mapping[str, Method]
    chosen: Sequence[str] | None
    seeds: Mapping[str, int]
    tuned: Sequence[str]

    @property
    def stages(self) -> Iterator[Stage]:
        """The trainings that tune, and then those of all seeds."""
        yield self._tunings
        yield self._trainings

    def shown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of the trainings that judge, whichever lines this study was asked to run."""
        known = [
            {"task": setting.name, "method": name, "config": {**self._about(setting, name), "stage": "training"}}
            for setting in self.settings
            for name in self.methods
        ]
        return agreeing(rows, known)

    def _pairs(self) -> list[tuple[Setting, str]]:
        names = [name for name in self.methods if self.chosen is None or name in self.chosen]
        return [(setting, name) for setting in self.settings for name in names]

    def _grid(self, setting: Setting, name: str) -> list[Rates]:
        """Six pairs of rates for a line; all of the student's where there is no teacher."""
        if setting.name not in self.tuned:
            return [Rates(setting.student_rate, setting.teacher_rate)]
        if self.methods[name].distiller == ALONE:
            return [Rates(rate, setting.teacher_rate) for rate in (3e-4, 6e-4, 1e-3, 2e-3, 4e-3, 8e-3)]
        return list(itertools.starmap(Rates, itertools.product((1e-3, 3e-3), (1e-3, 3e-3, 1e-2))))

    def _tunings(self, session: Session) -> list[Case]:
        grids = [(setting, name, self._grid(setting, name)) for setting, name in self._pairs()]
        tuned = [triple for triple in grids if len(triple[-1]) > 1]
        return [self._case(setting, name, rates, None) for setting, name, grid in tuned for rates in grid]

    def _trainings(self, session: Session) -> list[Case]:
        cases = []
        for setting, name in self._pairs():
            grid = self._grid(setting, name)
            if len(grid) > 1:
                tried = [(rates, self._case(setting, name, rates, None)) for rates in grid]
                grid = session.best_first("dev_accuracy", tried)[:1]
            case = partial(self._case, setting, name)
            cases += [case(rates, seed) for rates in grid for seed in range(self.seeds[setting.name])]
        # Seed by seed: what is there before the end is paired.
        return sorted(cases, key=lambda case: case.seed)

    def _about(self, setting: Setting, name: str) -> dict[str, Any]:
        """What the rows of a line have in common."""
        tried = [list(rates) for rates in self._grid(setting, name)]
        return {"setting": dict(setting.config), **self.methods[name].config, "tried": tried}

    def _case(self, setting: Setting, name: str, rates: Rates, seed: int | None) -> Case:
        """A training of a line; no seed: one that tunes."""
        method, stage = self.methods[name], "tuning" if seed is None else "training"
        used = replace(setting, **rates._asdict())
        arguments: dict[str, Any] = {"setting": used, "method": method, "test": seed is not None}
        number = _TUNING_SEED if seed is None else seed
        if method.tuned:
            arguments["teacher"] = self._teacher(setting, method, rates.teacher_rate, number)
        return Case(
            benchmark=self.benchmark,
            task=setting.name,
            dataset=setting.parts(number).dataset,
            student=setting.title,
            method=name,
            seed=number,
            config={**self._about(setting, name), "stage": stage, "tuned": rates._asdict()},
            label=f"{setting.name}: {name}, {_in_words(rates) if seed is None else f'seed {seed}'}",
            function=work.distil,
            arguments={**arguments, "seed": number},
            last="dev_accuracy" if seed is None else "test_accuracy",
        )

    def _teacher(self, setting: Setting, method: Method, rate: float, seed: int) -> Case:
        """The case of a fixed teacher, the same for all lines that want one of the same data; it makes no rows."""
        data = Method(ALONE, mixed=method.mixed, tuned_on_feedback=method.tuned_on_feedback)
        return Case(
            benchmark=self.benchmark,
            task=setting.name,
            dataset=setting.parts(seed).dataset,
            student=setting.title,
            method="teacher",
            seed=seed,
            config={"setting": dict(setting.config), **data.config, "teacher_rate": rate},
            label=f"{setting.name}: fine-tuning a teacher, seed {seed}",
            function=work.fine_tune,
            arguments={
                "setting": replace(setting, teacher_rate=rate),
                "seed": seed,
                "stops": 1,
                "method": data,
                "test": False,
            },
            makes=work.TEACHER,
        )


def _in_words(rates: Rates) -> str:
    return f"rates {rates.student_rate:g} and {rates.teacher_rate:g}"
