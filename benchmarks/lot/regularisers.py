"""Which regulariser is best where models overfit? Learning from teaching beside those in common use, tuned alike.

Each is tuned in twelve training runs on validation data. Six have each of the optimisers and rates, at a middling
strength; six more have the best of these, at six other strengths. What has no strength (a model that is trained alone)
has six other rates instead. Then models of other seeds are trained as the best of the twelve was, and measured on test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks.lot import work
from benchmarks.lot.methods import LOT, PEERS, Method
from benchmarks.lot.problem import Problem
from teachenv.experiment.cases import Case, Session, Stage
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

# Seeds that tune, and none that judges.
_TUNING_SEED = 1_000_000

# What a rate that does well is multiplied by where there is no strength to vary.
_FACTORS = (0.3, 0.5, 0.7, 1.4, 2.0, 3.0)
_ALPHAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True)
class Regulariser:
    """A way to regularise.

    Attributes:
        method: how the model is trained.
        option: what says how strong it is: an attribute of the method, or an option of the problem (see
            `Problem.changed`); None: nothing.
        strengths: its values from weak to strong, seven if nobody chose others; the first training runs have that in
            the middle. Where there is no option, the best rate is multiplied by these instead; empty: by six factors.
        share: of the model's parameters that students have; None: they are networks as the problem has them.
        tuned_as: name of another line whose configuration this one has, instead of one that is tuned for it.
    """

    method: Method = field(default_factory=Method)
    option: str | None = None
    strengths: tuple[float, ...] = ()
    share: float | None = None
    tuned_as: str | None = None


STUDENT_STEPS = (1, 2, 5)


def regularisers(alphas: Sequence[float] | None, student_steps: Sequence[int]) -> dict[str, Regulariser]:
    """What is compared, by name.

    Args:
        alphas: the weights of LoT's term that are tried; None: seven from 1 to 64.
        student_steps: the values of N, each a line of its own.
    """
    tried = tuple(alphas or _ALPHAS)
    distilled = 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0
    of_steps = {("lot" if n == 1 else f"lot:n-{n}"): replace(LOT, student_steps=n) for n in student_steps}
    return {
        "teacher-only": Regulariser(),
        "teacher-only:total-steps": Regulariser(Method(longer=2.0)),
        "weight-decay": Regulariser(Method(), "decay", (3e-5, 1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 4e-3)),
        "dropout": Regulariser(Method(), "dropout", (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8)),
        "label-smoothing": Regulariser(Method(), "label_smoothing", (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)),
        "weight-average": Regulariser(Method(), "average", (0.9, 0.97, 0.99, 0.995, 0.998, 0.999, 0.9995)),
        **{name: Regulariser(PEERS[name], "alpha", distilled) for name in PEERS},
        **{name: Regulariser(method, "alpha", tried) for name, method in of_steps.items()},
        "lot:labels": Regulariser(replace(LOT, labels=True), "alpha", tried),
    }


class Configuration(NamedTuple):
    """What tuning chooses.

    Attributes:
        optimizer_name: the optimiser's name.
        learning_rate: its rate.
        strength: the regulariser's; None: it has none.
    """

    optimizer_name: str
    learning_rate: float
    strength: float | None = None


@dataclass(frozen=True)
class Regime:
    """Data on which models overfit, and the rates that are tried there.

    Attributes:
        problem: the data and the model, untuned.
        rates: three rates for each optimiser, by its name.
        seeds: how many models judge each regulariser.
    """

    problem: Problem
    rates: Mapping[str, Sequence[float]]
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """The training runs of all regularisers, as stages of a session.

    Attributes:
        benchmark: the benchmark's name.
        regimes: where models overfit, by the task's name in rows.
        compared: what is compared, by name.
        methods: names of those that are run; None: all.
        seeds: how many models judge each of them; None: as many as the regime says.
    """

    benchmark: str
    regimes: Mapping[str, Regime]
    compared: Mapping[str, Regulariser]
    methods: Sequence[str] | None
    seeds: int | None

    @property
    def stages(self) -> Iterator[Stage]:
        """Rates, strengths, and then the training runs of all seeds."""
        yield partial(self._each, self._rates)
        yield partial(self._each, self._strengths)
        yield self._trainings

    def shown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of the training runs that this study chose, whichever methods it was asked to run."""
        all_methods = replace(self, methods=None)
        known = [
            {"task": task, "method": name, "config": {**self._about(task, name), "stage": "training"}}
            for task, name in all_methods._pairs()
        ]
        return agreeing(rows, known)

    def _pairs(self) -> list[tuple[str, str]]:
        wanted = self.compared if self.methods is None else [name for name in self.compared if name in self.methods]
        return [(task, name) for task in self.regimes for name in wanted]

    def _each(self, tried: Callable[[str, str, Session], list[Configuration]], session: Session) -> list[Case]:
        pairs = dict.fromkeys((task, self._tuned(name)) for task, name in self._pairs())
        return [self._case(task, name, choice, None) for task, name in pairs for choice in tried(task, name, session)]

    def _tuned(self, name: str) -> str:
        """The line that is tuned for this one."""
        return self.compared[name].tuned_as or name

    def _rates(self, task: str, name: str, session: Session) -> list[Configuration]:
        """The optimisers and rates, each with the strength in the middle."""
        strengths = self.compared[name].strengths
        middle = None if self.compared[name].option is None else strengths[len(strengths) // 2]
        return [
            Configuration(optimizer, rate, middle)
            for optimizer, rates in self.regimes[task].rates.items()
            for rate in rates
        ]

    def _strengths(self, task: str, name: str, session: Session) -> list[Configuration]:
        """The best optimiser and rate, at the other strengths or, if there are none, at other rates."""
        best = self._best(task, name, self._rates(task, name, session), session)
        if best is None:
            return []
        strengths = self.compared[name].strengths
        if best.strength is None:
            return [best._replace(learning_rate=best.learning_rate * factor) for factor in strengths or _FACTORS]
        return [best._replace(strength=value) for value in strengths if value != best.strength]

    def _best(self, task: str, name: str, choices: Sequence[Configuration], session: Session) -> Configuration | None:
        problem = self.regimes[task].problem
        tried = [(choice, self._case(task, name, choice, None)) for choice in choices]
        sign = 1 if problem.higher_is_better else -1
        return next(iter(session.best_first(f"valid_{problem.metric}", tried, sign=sign)), None)

    def _trainings(self, session: Session) -> list[Case]:
        cases = []
        for task, name in self._pairs():
            tuned = self._tuned(name)
            tried = self._rates(task, tuned, session) + self._strengths(task, tuned, session)
            best = self._best(task, tuned, tried, session)
            if best is not None:
                cases += [self._case(task, name, best, seed) for seed in range(self.seeds or self.regimes[task].seeds)]
        # Long ones first: begun last, they would leave the other cores idle.
        return sorted(cases, key=lambda case: -self.compared[case.method].method.updates)

    def _about(self, task: str, name: str) -> dict[str, Any]:
        """What the rows of a method have in common: where it is tried, and in which configurations."""
        regime, regulariser = self.regimes[task], self.compared[name]
        tried = {
            "rates": {optimizer: list(rates) for optimizer, rates in regime.rates.items()},
            "option": regulariser.option,
            "strengths": list(regulariser.strengths),
        }
        students = {} if regulariser.share is None else {"share": regulariser.share}
        return {"regime": regime.problem.config, "compared": asdict(regulariser.method), "tried": tried, **students}

    def _case(self, task: str, name: str, choice: Configuration, seed: int | None) -> Case:
        """A training run of a configuration; no seed: one that tunes."""
        problem, method = applied(self.regimes[task].problem, self.compared[name], choice)
        stage, last = ("tuning", "valid") if seed is None else ("training", "test")
        return Case(
            benchmark=self.benchmark,
            task=task,
            dataset=problem.dataset,
            student=problem.title,
            method=name,
            seed=_TUNING_SEED if seed is None else seed,
            config={**self._about(task, name), "stage": stage, "tuned": choice._asdict()},
            label=f"{task}: {name}, {_in_words(choice)}" if seed is None else f"{task}: {name}, seed {seed}",
            function=work.train,
            arguments={
                "problem": problem,
                "method": method,
                "seed": _TUNING_SEED if seed is None else seed,
                "test": seed is not None,
            },
            last=f"{last}_{problem.metric}",
        )


def applied(problem: Problem, regulariser: Regulariser, choice: Configuration) -> tuple[Problem, Method]:
    """The problem and the method in a configuration."""
    options: dict[str, Any] = {"optimizer_name": choice.optimizer_name, "learning_rate": choice.learning_rate}
    method = regulariser.method
    if regulariser.option in {attribute.name for attribute in fields(Method)}:
        strength: dict[str, Any] = {regulariser.option: choice.strength}
        method = replace(method, **strength)
    elif regulariser.option is not None:
        options[regulariser.option] = choice.strength
    changed = problem.changed(options)
    return changed if regulariser.share is None else changed.with_students(regulariser.share), method


def _in_words(choice: Configuration) -> str:
    strength = "" if choice.strength is None else f", strength {choice.strength:g}"
    return f"{choice.optimizer_name} {choice.learning_rate:g}{strength}"
