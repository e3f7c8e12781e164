"""The fair comparison of teachers: equal grids, equal budgets, dev for tuning, test touched once.

Each method is tuned by successive halving on dev, on seeds of its own. Then for each seed its teacher learns, within
the budget of student steps that all teachers have, and fresh students are trained under it: on a split of the pool, for
the curve of J on dev, and on the whole pool, for the error on test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from teachenv.experiment import comparison_report
from teachenv.experiment.cases import Case, Session, Stage
from teachenv.experiment.comparison_report import TEST_ERROR, Result, Results
from teachenv.experiment.contest import Contest, Rung
from teachenv.experiment.jobs import Shared
from teachenv.experiment.methods import Method
from teachenv.experiment.naming import in_words
from teachenv.experiment.precision import on_any_machine
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row, digest
from teachenv.experiment.rows import agreeing, read_rows
from teachenv.experiment.setting import Configuration, Setting, candidate_of
from teachenv.experiment.teachers import TEACHER
from teachenv.experiment.work import train, tune

Best = dict[tuple[str, str], Configuration]
"""The best configuration by (contest, method)."""


@dataclass
class Comparison:
    """Tunes, trains and measures, as stages of a session.

    Attributes:
        benchmark: the comparison's name in the rows.
        contests: what is compared, where.
        seeds: teachers of each kind.
        shipped: rows of an earlier run whose tuning is used where the settings agree.
        result: what methods are compared by on test.
    """

    benchmark: str
    contests: Sequence[Contest]
    seeds: int
    shipped: Sequence[Row] = ()
    result: Result = TEST_ERROR
    _shipped: dict[str, Row] = field(init=False)
    _sent: dict[str, Shared] = field(init=False, default_factory=dict)
    _asked: dict[tuple[str, str, str], Mapping[str, Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that no two contests have one name, and prepares the shipped rows.

        Raises:
            ValueError: two contests of one name.
        """
        names = [contest.name for contest in self.contests]
        if len({*names}) < len(names):
            raise ValueError(f"found tasks of the same name ({', '.join(names)}), expected settings that differ in it")
        self._shipped = {digest(row.identity): row for row in self.shipped}

    @property
    def stages(self) -> Iterator[Stage]:
        """Tuning, round by round, and then the training runs."""
        return self.stages_of(self.contests)

    def stages_of(self, contests: Sequence[Contest]) -> Iterator[Stage]:
        """The stages of some of the contests: those of one finish before those of the next are asked for.

        Args:
            contests: some of these, and the sources of teachers that their methods use.
        """
        for number in range(max(len(contest.effort.rungs) for contest in contests)):
            yield partial(self._rung, contests, number)
        yield partial(self.trainings, contests)

    def results(self, rows: Sequence[Row]) -> Results:
        """The rows in the contests' settings, of all methods that these know: what a report shows.

        Of methods that the stages had training runs of, these are the rows of the configuration that was asked for.
        """
        settings = [
            {"task": c.name, "dataset": c.dataset, "student": c.student, "config": _shared(c.setting)}
            for c in self.contests
        ]
        methods = {name: method for contest in self.contests for name, method in contest.methods.items()}
        loss = in_words(self.contests[0].setting.loss)
        return Results(agreeing(rows, settings), methods, self.seeds, loss, self.result, self.asked)

    @property
    def asked(self) -> Mapping[tuple[str, str, str], Mapping[str, Any]]:
        """The configuration of the training runs that the stages have had so far, by task, student and method."""
        return self._asked

    def report(self, rows: Sequence[Row]) -> Report:
        """The report: table, figures and page."""
        return comparison_report.make("Teachers compared", self.results(rows))

    def _rung(self, contests: Sequence[Contest], number: int, session: Session) -> Iterable[Case]:
        """The cases of a round of tuning that have no rows yet, of the contests that have so many rounds."""
        cases = [
            case
            for contest in contests
            if number < len(contest.effort.rungs)
            for name in _tuned(contest)
            for _, case in self._tried(contest, name, number, session)
        ]
        lacking = [case for case in cases if not self._ship(case, session)]
        if lacking and self.shipped and not number:
            print(
                f"tuning {len(lacking)} of {len(cases)} configurations anew: neither {session.folder} nor what comes "
                "with teachenv has rows of them; --help says how long that takes",
                file=sys.stderr,
            )
        return lacking

    def _tried(self, contest: Contest, name: str, number: int, session: Session) -> list[tuple[Configuration, Case]]:
        """What a round of tuning tries of a method."""
        rung = contest.effort.rungs[number]
        left = self._left(contest, name, number, session)[: rung.configurations]
        return [(configuration, self._tuning(contest, name, configuration, rung)) for configuration in left]

    def _left(self, contest: Contest, name: str, number: int, session: Session) -> list[Configuration]:
        """A method's configurations after so many rounds, the best first; none if one of them has failed."""
        if number == 0:
            return contest.grid(name)
        return session.best_first("dev_accuracy", self._tried(contest, name, number - 1, session))

    def _ship(self, case: Case, session: Session) -> bool:
        """Whether the row is there, if need be from those that are shipped."""
        if session.is_done(case):
            return True
        row = self._shipped.get(case.digest)
        if row is not None:
            session.results.append([row])
        return row is not None

    def trainings(self, contests: Sequence[Contest], session: Session) -> list[Case]:
        """The training runs of all seeds, long ones first: begun last, they would leave the other cores idle."""
        best = self.best(contests, session)
        cases = [
            self._training(contest, name, best, seed)
            for seed in range(self.seeds)
            for contest in contests
            for name in contest.run
            if (contest.name, name) in best
        ]
        self._asked.update({(case.task, case.student, case.method): case.config for case in cases})
        return sorted(cases, key=lambda case: not case.config["budget"])

    def best(self, contests: Sequence[Contest], session: Session) -> Best:
        """The best configuration of each contest and method; those whose tuning failed are left out."""
        best: Best = {}
        for contest in contests:
            for name in {*contest.run, *_tuned(contest)}:
                tuned_as = contest.methods[name].tuned_as or name
                left = self._left(contest, tuned_as, len(contest.effort.rungs), session)
                if left:
                    best[contest.name, name] = left[0]
        for contest in contests:
            for name in contest.run:
                if contest.methods[name].taught_as and (contest.name, name) in best:
                    source, taught_as = self._source(contest, name)
                    candidate = best[source.name, taught_as].candidate
                    best[contest.name, name] = replace(best[contest.name, name], candidate=candidate)
        return best

    def _source(self, contest: Contest, name: str) -> tuple[Contest, str]:
        """The contest and method whose teacher a method uses."""
        taught_as = contest.methods[name].taught_as
        assert taught_as is not None
        return next(other for other in self.contests if other.name == contest.source), taught_as

    def _tuning(self, contest: Contest, name: str, configuration: Configuration, rung: Rung) -> Case:
        method = contest.methods[name]
        factor = method.students_factor if method.learns else 0
        effort: dict[str, Any] = {
            "budget": min(factor * method.budget_factor * rung.steps, contest.budget(method)),
            "parallel": factor * rung.parallel,
            "students": rung.students,
        }
        if rung.length != 1.0:
            effort["length"] = rung.length
        return self._case(
            contest,
            name,
            configuration,
            seed=0,
            config=_config(contest, method, configuration, "tuning") | effort,
            label=f"tuning {contest.name}: {name}, {configuration} on {rung.students} students",
            function=tune,
            arguments=effort,
            last="dev_accuracy",
        )

    def _training(self, contest: Contest, name: str, best: Best, seed: int) -> Case:
        method, configuration = contest.methods[name], best[contest.name, name]
        effort, source = contest.effort, None
        config = _config(contest, method, configuration, "training") | {
            "budget": contest.budget(method),
            "parallel": effort.parallel * method.students_factor if method.learns else 0,
            "students": effort.students,
            "final_students": effort.final_students,
        }
        if method.taught_as:
            origin, taught_as = self._source(contest, name)
            source = self._training(origin, taught_as, best, seed)
            config["taught"] = {**source.config, "task": origin.name}
        names = ("budget", "parallel", "students", "final_students")
        return self._case(
            contest,
            name,
            configuration,
            seed=seed,
            config=config,
            label=f"{contest.name}: {name}, seed {seed}",
            function=train,
            arguments={key: config[key] for key in names} | {"seed": seed, "points": effort.points, "source": source},
            last="test_error",
            # Its teacher stays, for students of other tasks and for whoever wants to use it.
            makes=TEACHER if method.learns else None,
        )

    def _case(self, contest: Contest, name: str, configuration: Configuration, **more: Any) -> Case:
        # Sent once to each worker: with the data of one's own task a setting is large.
        setting = self._sent.setdefault(contest.name, Shared(contest.setting))
        shared = {"setting": setting, "method": contest.methods[name], "configuration": configuration}
        return Case(
            benchmark=self.benchmark,
            task=contest.name,
            dataset=contest.dataset,
            student=contest.student,
            method=name,
            **{**more, "arguments": shared | more["arguments"]},
        )


def _tuned(contest: Contest) -> list[str]:
    return sorted({contest.methods[name].tuned_as or name for name in contest.run})


def _config(contest: Contest, method: Method, configuration: Configuration, stage: str) -> dict[str, Any]:
    """What shapes the numbers of a method in a configuration, as JSON values; objects of one's own by their names."""
    setting, candidate = contest.setting, candidate_of(method, configuration)
    config: dict[str, Any] = {
        "stage": stage,
        **_shared(setting),
        "loss": setting.loss if method.make is not None else None,
        **configuration.student,
        "own": {**candidate.environment, **candidate.teacher},
    }
    if setting.final:
        config["final"] = dict(setting.final)
    if method.episode_rate != 1.0:
        config["episode_rate"] = method.episode_rate
    named: dict[str, Any] = in_words(config)
    return named


def _shared(setting: Setting) -> dict[str, Any]:
    """What is the same for all methods in a setting."""
    shared: dict[str, Any] = in_words({"env": setting.env, "options": on_any_machine(setting.options)})
    return shared


def shipped_rows(path: Path) -> list[Row]:
    """The rows of an earlier run that come with a benchmark, if they are there."""
    return read_rows(path) if path.exists() else []
