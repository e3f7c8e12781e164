"""Where does reinforcement learning find what the exact gradient finds, and where is the gradient of no use?

One teacher's problem (`SpreadCredit`: by how much to credit a wrong label to the class before it) with 1 to 1,000
coordinates of an action, in training runs of 10 to 1,000 student steps with ten actions each, at a calm learning rate
and at one that makes the training runs chaotic. What can be gained is the same with any number of coordinates. All
teachers have L2T-DLF's policy, candidates of equal number, and the same budget; measured is how many student steps each
needs to half of what can be gained. Beside them stands what `meta.smoothness` says of the gradient, before any teacher.

40 % of the pool's labels are wrong, those of dev are right: this is a question about teachers that learn, not a gain
that students of noisy data could have.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import agents.methods
import meta
import meta.methods
import teachenv  # noqa: F401 - registers the environments
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from benchmarks.rl_and_gradient.report import KNOWN, NAME, SMOOTHNESS, UNTAUGHT, make
from benchmarks.rl_and_gradient.spread import SpreadCredit
from teachenv.experiment.cases import Case, Outcome, Session, Stage
from teachenv.experiment.comparison import Comparison
from teachenv.experiment.contest import Contest, Effort, Rung
from teachenv.experiment.methods import Candidate, Method
from teachenv.experiment.setting import Configuration, Setting

COORDINATES, HORIZONS = (1, 4, 10, 100, 1_000), (10, 100, 1_000)
_ACTIONS = 10
_ENV = "TeachDigits-v0"
_DATA = {"label_noise": 0.4, "label_noise_kind": "pair", "dev_noise": False}
# The rate at which such training runs end best, by their length.
_CALM = {10: 1.5, 100: 0.2, 1_000: 0.1}
_ROUGH = 0.4


class Place(NamedTuple):
    """Where teachers are compared.

    Attributes:
        coordinates: of an action.
        horizon: student steps of a training run.
        rough: whether the learning rate is one that makes training runs chaotic.
    """

    coordinates: int
    horizon: int
    rough: bool = False

    @property
    def name(self) -> str:
        """The task's name in rows."""
        return f"n{self.coordinates}-T{self.horizon}{'-rough' * self.rough}"

    def options(self) -> dict[str, Any]:
        """The environment's options."""
        rate = (
            {"learning_rate": _ROUGH, "lr_schedule": "constant"}
            if self.rough
            else {"learning_rate": _CALM[self.horizon], "lr_schedule": "linear"}
        )
        return {"horizon": self.horizon, "steps_per_action": self.horizon // _ACTIONS, **rate, **_DATA}


PLACES = {
    place.name: place
    for place in (
        *(Place(n, horizon) for horizon in HORIZONS for n in COORDINATES),
        *(Place(n, horizon, rough=True) for horizon in HORIZONS[1:] for n in COORDINATES),
    )
}
"""All places, by the task's name."""


def _known(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    action = options["u"] * env.problem.dynamics.loss.right()
    return meta.ConstantTeacher("ConstantPolicy", env, policy_kwargs={"action": action.tolist()}, seed=seed)


# A critic's update for each transition: with SB3's one for each step of all students it hardly learns.
_REPLAY: dict[str, Any] = {"learning_rate": [1e-3, 3e-3, 1e-3, 1e-4], "action_penalty": [0.1, 0.1, 1.0, 1.0]} | {
    "gradient_steps": -1
}
_EVOLUTION: dict[str, Any] = {"learning_rate": [0.1, 0.03, 0.3, 0.1], "sigma": [0.1, 0.1, 0.3, 0.3]}
_GRADIENT: dict[str, Any] = {"learning_rate": [0.1, 0.3, 0.03, 0.01]}


def methods(horizon: int) -> dict[str, Method]:
    """What is compared, with four candidates each, in training runs of so many student steps."""
    return {
        UNTAUGHT: Method((Candidate(),) * 4),
        KNOWN: Method(tuple(Candidate(teacher={"u": u}) for u in (1.0, 0.5, 0.75, 0.25)), _known),
        "rmd": meta.methods.rmd(**_GRADIENT),
        "rmd:truncated": meta.methods.rmd(last=max(1, horizon // 5), **_GRADIENT),
        "evolution-strategies": meta.methods.evolution_strategies(**_EVOLUTION),
        "evolution-strategies:persistent": meta.methods.evolution_strategies(window=_ACTIONS // 5, **_EVOLUTION),
        "ddpg": agents.methods.ddpg(**_REPLAY),
        "td3": agents.methods.td3(**_REPLAY),
        "sac": agents.methods.sac(**_REPLAY),
        "ppo": agents.methods.ppo(learning_rate=[1e-2, 3e-2, 3e-3, 1e-2], noise=[0.3, 0.3, 0.3, 1.0]),
    }


METHODS = tuple(methods(1))
"""Names of what is compared."""


@dataclass(frozen=True)
class Size:
    """What is spent.

    Attributes:
        places: where, by name.
        trainings: how many each teacher may learn from, by the horizon.
        parallel: how many of them at a time, by the horizon.
        candidates: how many of a method's candidates are tuned over.
        points: how often a teacher is measured on its way.
        students: fresh students of each measurement.
    """

    places: tuple[str, ...]
    trainings: Mapping[int, int]
    parallel: Mapping[int, int]
    candidates: int
    points: int
    students: int

    def effort(self, horizon: int) -> Effort:
        """What is spent on each teacher in training runs of so many student steps."""
        budget, parallel = self.trainings[horizon] * horizon, self.parallel[horizon]
        rungs = (Rung(self.candidates, budget // 2, parallel, 2 * self.students),) if self.candidates > 1 else ()
        return Effort(
            student_steps=budget,
            parallel=parallel,
            rungs=rungs,
            points=self.points,
            students=self.students,
            final_students=self.students,
        )


_TELLING = ("n10-T100", "n1-T100", "n1000-T100", "n100-T100", "n4-T100", "n10-T10", "n10-T100-rough", "n10-T1000")
SIZES: dict[Preset, Size] = {
    "smoke": Size(("n4-T10",), {10: 8}, {10: 4}, 1, 2, 4),
    "laptop": Size(_TELLING, {10: 640, 100: 320, 1_000: 96}, {10: 16, 100: 16, 1_000: 8}, 2, 10, 8),
    "paper": Size(tuple(PLACES), {10: 6_400, 100: 3_200, 1_000: 960}, {10: 16, 100: 16, 1_000: 16}, 4, 40, 32),
}
SEEDS: dict[Preset, int] = {"smoke": 1, "laptop": 3, "paper": 5}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks rl_and_gradient`."""

    places: tuple[str, ...] | None = None
    """Where teachers are compared, by default all that the preset has: n10-T100 (ten coordinates, training runs of 100
    student steps), with n one of 1, 4, 10, 100 and 1000 and T one of 10, 100 and 1000; n10-T100-rough (a learning rate
    that makes training runs of 100 or 1000 steps chaotic)."""

    methods: tuple[str, ...] | None = None
    """Who teaches, by default all: untaught and known (nobody, and the best constant action: between them shares are
    counted), rmd, rmd:truncated (the gradient of the last fifth of a training run), evolution-strategies and
    evolution-strategies:persistent (PES, with new noise in each fifth of a training run), ddpg, td3, sac, ppo."""

    def _names(self) -> Names:
        return {"place": (self.places, PLACES), "method": (self.methods, METHODS)}


def run(options: Options) -> None:
    """Measures the gradient, tunes, trains, and writes rows, table, figures and page."""
    size = SIZES[options.preset]
    places = [PLACES[name] for name in options.places or size.places]
    if foreign := [place.name for place in places if place.horizon not in size.trainings]:
        raise ValueError(
            f"preset {options.preset} has no training runs as long as those of {foreign[0]}; choose laptop"
        )
    seeds = options.seeds or SEEDS[options.preset]
    comparison = Comparison(NAME, [_contest(place, size, options) for place in places], seeds)
    stages = chain.from_iterable(_stages(comparison, contest) for contest in comparison.contests)
    options.execute(NAME, stages, lambda rows: make(rows, METHODS, seeds, comparison.asked))


def _contest(place: Place, size: Size, options: Options) -> Contest:
    """What is compared at a place."""
    setting = Setting(_ENV, {**place.options(), "data_root": options.root}, SpreadCredit(place.coordinates))
    known = {
        name: replace(method, candidates=method.candidates[: size.candidates])
        for name, method in methods(place.horizon).items()
    }
    chosen = [name for name in known if options.methods is None or name in options.methods]
    return Contest.of(setting, size.effort(place.horizon), known, lambda method: {}, chosen, name=place.name)


def _stages(comparison: Comparison, contest: Contest) -> Iterable[Stage]:
    """What is done at one place, which is whole before the next begins."""
    return [partial(_smoothness, contest), *comparison.stages_of([contest])]


def _smoothness(contest: Contest, session: Session) -> list[Case]:
    """The case of what `meta.smoothness` says of a contest's gradient, if it has no row yet."""
    students = contest.effort.students
    case = Case(
        benchmark=NAME,
        task=contest.name,
        dataset=contest.dataset,
        student=contest.student,
        method=SMOOTHNESS,
        seed=0,
        config={"stage": "smoothness", "students": students},
        label=f"{contest.name}: smoothness",
        function=smoothness,
        arguments={"setting": contest.setting, "students": students},
        last="usable_radius",
    )
    return [] if session.is_done(case) else [case]


def smoothness(setting: Setting, students: int, folder: Path) -> Outcome:
    """Measures how far the gradient holds, how it grows, and whether halves of the students agree on it."""
    env = setting.make(students, Method(), Configuration({}))
    report = meta.smoothness(env, students=students, repairs=False)
    # Of a gradient that is not finite there is no growth to speak of.
    growth = min(report.growth, 1e30) if report.growth == report.growth else 1e30
    values = {"gradient_growth": growth, "gradient_agreement": report.agreement, "usable_radius": report.radius}
    return Outcome(values=values, student_steps=0, seconds=0.0)


TABLES: Tables = {"table": partial(make, methods=METHODS, seeds=sys.maxsize)}
