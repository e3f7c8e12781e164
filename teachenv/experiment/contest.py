"""One task of a comparison: which methods compete on it, and how much is spent on each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from teachenv import checks
from teachenv.experiment.methods import Method
from teachenv.experiment.naming import in_words
from teachenv.experiment.setting import Configuration, Setting
from teachenv.problem import Problem

E = TypeVar("E", bound="Effort")


class Rung(NamedTuple):
    """One round of successive halving.

    Attributes:
        configurations: how many are left.
        steps: student steps on which a teacher is trained in each.
        parallel: students that it teaches at a time.
        students: fresh students whose dev accuracy decides.
        length: part of the final training run that they have.
    """

    configurations: int
    steps: int
    parallel: int
    students: int
    length: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much training is spent on a contest.

    Attributes:
        student_steps: budget of each teacher.
        parallel: students that it teaches at a time.
        rungs: the rounds of successive halving; none: the first configuration of each grid is taken.
        points: how often a learning teacher is measured.
        students: fresh students of each such measurement.
        final_students: fresh students on the whole pool.

    Raises:
        ValueError: a number is out of range.
    """

    student_steps: int
    parallel: int
    rungs: tuple[Rung, ...]
    points: int
    students: int
    final_students: int

    @classmethod
    def smallest(cls: type[E], horizon: int, parallel: int = 1, **more: Any) -> E:
        """The least that goes through all stages: tuning by one update of a teacher, and training by two.

        Args:
            horizon: student steps of a training run.
            parallel: students that a teacher has at a time, and that are measured.
            **more: what a subclass has besides.
        """
        update = horizon * parallel
        return cls(
            student_steps=2 * update,
            parallel=parallel,
            rungs=(Rung(1, update, parallel, parallel),),
            points=1,
            students=parallel,
            final_students=parallel,
            **more,
        )

    def __post_init__(self) -> None:
        """Checks the numbers: a wrong one would be met hours later."""
        least = {"student_steps": 0, "parallel": 1, "points": 1, "students": 1, "final_students": 1}
        for name, number in least.items():
            checks.integer(name, getattr(self, name), number)
        for place, rung in enumerate(self.rungs):
            for name, number in {"configurations": 1, "steps": 0, "parallel": 1, "students": 1}.items():
                checks.integer(f"rungs[{place}].{name}", getattr(rung, name), number)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A task on which methods are compared.

    Attributes:
        name: the task's name in rows.
        dataset: what the data really is.
        student: the network's name in rows.
        setting: environment and options.
        effort: what is spent on each method.
        methods: all methods that the contest knows, by name.
        run: names of those that are compared, in this order.
        tune: values of the student's options that every method is tuned over, by name; a function of the method.
        source: name of the contest whose teachers are used by methods that are `taught_as` another.
    """

    name: str
    dataset: str
    student: str
    setting: Setting
    effort: Effort
    methods: Mapping[str, Method]
    run: tuple[str, ...]
    tune: Callable[[Method], Mapping[str, Sequence[Any]]]
    source: str | None = None

    @classmethod
    def of(
        cls,
        setting: Setting,
        effort: Effort,
        methods: Mapping[str, Method],
        tune: Callable[[Method], Mapping[str, Sequence[Any]]],
        run: Sequence[str] | None = None,
        problem: Problem | None = None,
        **more: Any,
    ) -> Contest:
        """A contest whose task, data and student have the names that its environment has for them.

        Args:
            setting: environment and options.
            effort: what is spent on each method.
            methods: all methods that the contest knows, by name.
            tune: gives the values that a method is tuned over; see the attribute.
            run: names of those that are compared; None: all.
            problem: that of an environment of the setting; None: one is made, which fails early.
            **more: the other attributes, and other names.
        """
        run = tuple(methods if run is None else run)
        if problem is None:
            first = {name: values[0] for name, values in tune(methods[run[0]]).items()}
            problem = setting.make_single(methods[run[0]], Configuration(first)).problem
        task, student = problem.task, in_words(problem.settings.student)
        if problem.settings.teacher is not None:
            student = f"{student} beside {in_words(problem.settings.teacher)}"
        named: dict[str, Any] = {"name": task.name, "dataset": task.dataset, "student": student}
        return cls(**named | more, setting=setting, effort=effort, methods=methods, run=run, tune=tune)

    def grid(self, name: str) -> list[Configuration]:
        """All configurations of a method: the student's options times its candidates."""
        method = self.methods[name]
        tuned = dict(self.tune(method))
        if method.rates == ():
            tuned.pop("learning_rate", None)
        elif method.rates is not None:
            tuned["learning_rate"] = method.rates
        values = itertools.product(*tuned.values(), range(len(method.candidates)))
        return [Configuration(dict(zip(tuned, combination, strict=False)), combination[-1]) for combination in values]

    def budget(self, method: Method) -> int:
        """The student steps that a method's teacher may spend."""
        return self.effort.student_steps * method.budget_factor if method.learns else 0
