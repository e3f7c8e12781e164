"""The training runs of the benchmark as cases: what is tuned, which networks need which, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from benchmarks.lgtm_pretraining import work
from benchmarks.lgtm_pretraining.methods import METHODS, NONE, RELEASED, SCRATCH, UNTAUGHT, Cell, Rates, grid, name_of
from benchmarks.lgtm_pretraining.phases import FineTuning, Phase, Pretraining, Role
from teachenv.experiment.cases import Case, Session, Stage
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

TEACHER = "teacher"
"""The method of rows that tell how good a teacher is that learns alone."""

# Seeds that tune, and none that judges.
_TUNING_SEEDS = (1_000_000, 1_000_001)

Tried = list[tuple[Rates, list[Case]]]
"""Configurations, and the training runs that try each: one for each seed that tunes."""


@dataclass(frozen=True)
class Study:
    """The training runs, as stages of a session.

    Each method is tuned over as many configurations, by the mean on dev over two seeds that judge none: in the first
    phase in training runs of half the length, in the second on students that were pre-trained alone, or drawn.

    Attributes:
        benchmark: the benchmark's name.
        pretraining: the first phase.
        tuning: the second phase.
        cells: which pairs of methods are measured.
        seeds: how often.
    """

    benchmark: str
    pretraining: Pretraining
    tuning: FineTuning
    cells: tuple[Cell, ...]
    seeds: int

    @property
    def stages(self) -> Iterator[Stage]:
        """The training runs that tune a phase each, and then those that are measured."""
        yield self._tune_first
        yield self._tune_second
        yield self._measure

    def shown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of training runs that are measured, whichever cells this study was asked for."""
        phases = [(self.pretraining, {}), (self.tuning, {"after": dict(self.pretraining.config)})]
        known = [
            {"task": phase.task, "student": phase.student, "config": {**_about(phase), **more, "stage": "training"}}
            for phase, more in phases
        ]
        return agreeing(rows, known)

    def _tune_first(self, session: Session) -> list[Case]:
        # The second phase is tuned on students that were pre-trained alone.
        names = dict.fromkeys([NONE, *(_tuned(first) for first, _ in self.cells if first != SCRATCH)])
        return [case for name in names for _, cases in self._first_tried(name) for case in cases]

    def _tune_second(self, session: Session) -> list[Case]:
        pairs = dict.fromkeys((_begun(first), _tuned(second)) for first, second in self.cells)
        return [case for cell in pairs for _, cases in self._second_tried(session, cell) for case in cases]

    def _measure(self, session: Session) -> list[Case]:
        cases: list[Case] = []
        for seed in range(self.seeds):
            cases += [self._teacher(self.pretraining, seed), self._teacher(self.tuning, seed)]
            of_cells = [self._second(session, cell, seed) for cell in self.cells]
            cases += [case for case in of_cells if case is not None]
        return cases

    def _first_tried(self, name: str) -> Tried:
        short = replace(self.pretraining, steps=max(1, self.pretraining.steps // 2))
        return [
            (rates, [self._pretrained(short, name, rates, seed) for seed in _TUNING_SEEDS])
            for rates in grid(name, short)
        ]

    def _second_tried(self, session: Session, cell: Cell) -> Tried:
        begins = {seed: self._first(session, cell[0], seed) for seed in _TUNING_SEEDS}
        if cell[0] != SCRATCH and None in begins.values():
            return []
        return [
            (rates, [self._classifier(cell, rates, seed, begin) for seed, begin in begins.items()])
            for rates in grid(cell[1], self.tuning)
        ]

    def _first(self, session: Session, name: str, seed: int) -> Case | None:
        """A student's pre-training at the rates that are best on dev; None: it has none, or its tuning failed."""
        if name == SCRATCH:
            return None
        best = _best(session, self.pretraining, self._first_tried(_tuned(name)))
        if best is None:
            return None
        return replace(self._pretrained(self.pretraining, name, best, seed), makes=work.NETWORK)

    def _second(self, session: Session, cell: Cell, seed: int) -> Case | None:
        """A student's fine-tuning likewise."""
        begin = self._first(session, cell[0], seed)
        tried = self._second_tried(session, (_begun(cell[0]), _tuned(cell[1])))
        best = _best(session, self.tuning, tried)
        if best is None or (begin is None and cell[0] != SCRATCH):
            return None
        return self._classifier(cell, best, seed, begin)

    def _pretrained(self, phase: Pretraining, name: str, rates: Rates, seed: int) -> Case:
        teacher = None if name == NONE else self._teacher(self.pretraining, seed)
        return self._case(phase, name, name, rates, seed, teacher=teacher)

    def _classifier(self, cell: Cell, rates: Rates, seed: int, begin: Case | None) -> Case:
        second = cell[1]
        teacher = None
        if second != NONE:
            teacher = self._teacher(self.tuning if METHODS[second].tuned else self.pretraining, seed)
        return self._case(self.tuning, name_of(cell), second, rates, seed, begin=begin, teacher=teacher)

    def _teacher(self, phase: Phase, seed: int) -> Case:
        """A teacher that learns alone: the language model, or the classifier that is made of it."""
        begin = None if phase is self.pretraining else self._teacher(self.pretraining, seed)
        case = self._case(
            phase, TEACHER, NONE, Rates(phase.teacher_rate, phase.teacher_rate), seed, role="teacher", begin=begin
        )
        return replace(case, makes=work.NETWORK)

    def _case(
        self,
        phase: Phase,
        name: str,
        method: str,
        rates: Rates,
        seed: int,
        role: Role = "student",
        **folders: Case | None,
    ) -> Case:
        """A training run; those of the seeds that tune do not touch test."""
        tunes = seed in _TUNING_SEEDS
        config = {**_about(phase), **METHODS[method].config, "tuned": rates._asdict()}
        if phase is self.tuning:
            config["after"] = dict(self.pretraining.config)
        given: dict[str, Any] = {"phase": phase, "method": METHODS[method], "rates": rates}
        needs = {key: case for key, case in folders.items() if case is not None}
        tried = ", ".join(f"{rate:g}" for rate in rates if rate is not None) + ", " if tunes else ""
        return Case(
            benchmark=self.benchmark,
            task=phase.task,
            dataset=phase.parts().dataset,
            student=phase.student,
            method=name,
            seed=seed,
            config={**config, "stage": "tuning" if tunes else "training"},
            label=f"{phase.name}: {name}, {tried}seed {seed}",
            function=work.train,
            arguments={**given, "seed": seed, "role": role, "test": not tunes, **needs},
            last=f"{'dev' if tunes else 'test'}_{phase.metric}",
        )


def _about(phase: Phase) -> dict[str, Any]:
    """What the rows of a phase have in common."""
    return {"phase": phase.name, "setting": dict(phase.config)}


def _tuned(name: str) -> str:
    """The method whose tuning a method's rates are of."""
    return UNTAUGHT if name == RELEASED else name


def _begun(first: str) -> str:
    """The way of pre-training on whose students the second phase is tuned."""
    return SCRATCH if first == SCRATCH else NONE


def _best(session: Session, phase: Phase, tried: Tried) -> Rates | None:
    """The rates that are best on dev, by the mean over seeds; None: a training failed, or there is none."""
    sign = 1 if phase.higher_is_better else -1
    try:
        scores = {
            rates: sign * fmean(session.results.value(f"dev_{phase.metric}", case.identity) for case in cases)
            for rates, cases in tried
        }
    except LookupError:
        return None
    return max(scores, key=lambda rates: scores[rates], default=None)
