"""`teachenv.compare`: teachers on a task of one's own, in one call."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym

from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.experiment.backends import make_backend
from teachenv.experiment.cases import execute
from teachenv.experiment.comparison import Comparison
from teachenv.experiment.contest import Contest, Effort, Rung
from teachenv.experiment.methods import Method
from teachenv.experiment.naming import file_name, in_words, made_by, objects_in
from teachenv.experiment.precision import on_any_machine
from teachenv.experiment.report import Report
from teachenv.experiment.rows import ResultsFile
from teachenv.experiment.setting import Configuration, Setting, TrainsNoStudent, registered
from teachenv.experiment.trusted_dev import baselines
from teachenv.experiment.writing import write_atomically, writing
from teachenv.fingerprints import digest
from teachenv.problem import Problem
from teachenv.settings import Settings, plain
from teachenv.tasks.base import Task

Tune = Mapping[str, Sequence[Any]]

# Of what the folder holds: a comparison goes on in it only with the same.
_ABOUT = "comparison.json"

# Shares of the budget that tuning spends on each configuration, and the students that judge it: of the last round of
# successive halving, of the one before, and so on.
_TUNING = ((0.2, 128), (0.06, 64), (0.03, 32))


def compare(
    env: str | None = None,
    *,
    methods: Mapping[str, Method],
    task: Task | str | None = None,
    tune: Tune | None = None,
    budget: int = 96_000,
    seeds: int = 3,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    backend: Literal["processes", "inline", "ray"] = "processes",
    address: str | None = None,
    effort: Effort | None = None,
    equal_grids: bool = True,
    **options: Any,
) -> Report:
    """Compares methods of teaching on one task: tunes each, trains its teachers, and measures students under them.

    The protocol is fair by default. Every method is tuned over equally many configurations (the values of `tune` times
    its own candidates) by successive halving on dev, on seeds that are not used again. Every teacher has the same
    budget of student steps. Then fresh students of each seed train on the whole pool, and test is touched once. With a
    trusted dev set, students that learn from its labels take part (`teachenv.experiment.trusted_dev`).

    Args:
        env: a registered environment (`"TeachDigits-v0"`), with its module before it if that registers it
            (`"mypackage:Mine-v0"`); or give a task.
        methods: by name: `teachenv.experiment.fixed(...)`, `meta.methods.rmd(...)`, `agents.methods.ddpg(...)`, or a
            `teachenv.experiment.Method` of your own. A list as an option is its grid.
        task: a `teachenv.Task` of your own, or the name of one; in place of `env`.
        tune: options of the environment that every method is tuned over, all combinations of the listed values.
        budget: student steps that each teacher may spend on its own training.
        seeds: how many teachers of each method are trained.
        out: folder of this comparison alone, where an interrupted call goes on; None: `runs/` and the task's name.
        workers: processes, or CPUs of a local Ray cluster; None: as many as there are cores.
        backend: where the work is done; `"inline"`: in this process.
        address: where a Ray cluster answers, or `"auto"`; None: a local one is started.
        effort: how many students are trained in tuning, on the way and at the end; None: by the budget.
        equal_grids: whether methods must have equally many candidates.
        **options: options of the environment, the same for all methods; see `teachenv.Settings`.

    Returns:
        The report: `table()` is markdown, `rows` the rows, `figures` Matplotlib figures by name, `html` the path of the
        page.

    Raises:
        ValueError: what cannot be compared: grids of different sizes, a folder with other results, ...
        TypeError: an option that a method or the environment does not have.
        CasesFailed: some of the work failed; the rest is done and kept, and the report is in the folder.
        ModuleNotFoundError: the backend needs Ray, which is not installed.
    """
    methods = _checked(methods, checks.flag("equal_grids", equal_grids))
    setting, tuned = _setting(env, task, options), _tuned({} if tune is None else tune)
    contest = _contest(setting, methods, tuned, budget, effort)
    comparison = Comparison("compare", [contest], checks.integer("seeds", seeds, least=1))
    folder = _folder(out, contest)
    about = _agreed(folder, _about(contest, tuned))  # before anything is started or made
    with ResultsFile(folder / "results.jsonl") as results, make_backend(backend, workers, address) as machines:
        # Again, now that nobody else writes there.
        write_atomically(folder / _ABOUT, json.dumps(_agreed(folder, about), indent=1) + "\n")
        return execute(results, comparison.stages, comparison.report, machines)


def _folder(out: Any, contest: Contest) -> Path:
    if out is None:
        return Path("runs", file_name(contest.name))
    try:
        name = os.fsdecode(out)
    except TypeError:
        name = ""
    # An empty one is mostly a variable that was not set.
    if not name or "\0" in name:
        raise ValueError(f"out must be None or the path of a folder, found {checks.shown(out)}")
    return Path(name)


def _checked(methods: object, equal_grids: bool) -> dict[str, Method]:
    if not isinstance(methods, Mapping) or not methods:
        raise ValueError(f"methods must be a dictionary of at least one method by name, found {checks.shown(methods)}")
    for name, method in methods.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"names of methods must be texts, found {checks.shown(name)}")
        if not isinstance(method, Method):
            raise ValueError(
                f"methods[{name!r}] must be a method such as meta.methods.rmd() or teachenv.experiment.fixed("
                f'"cross-entropy"), found {checks.shown(method)}'
            )
        for other in (method.tuned_as, method.taught_as):
            if other is not None and other not in methods:
                raise unknown_name(f"method in tuned_as or taught_as of {name!r},", other, methods)
    sizes = {name: len(method.candidates) for name, method in methods.items() if method.tuned_as is None}
    if equal_grids and len({*sizes.values()}) > 1:
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"grids of different sizes: {counts}; a fair comparison tries equally many candidates of each method: give "
            "their options lists of the same length, or pass equal_grids=False"
        )
    return dict(methods)


def _tuned(tune: object) -> dict[str, list[Any]]:
    if not isinstance(tune, Mapping):
        raise ValueError(f"tune must be a dictionary of lists by name of an option, found {checks.shown(tune)}")
    return {name: [plain(name, value) for value in _values(name, values)] for name, values in tune.items()}


def _values(name: str, values: Any) -> list[Any]:
    known = {field.name for field in fields(Settings)} - {"task", "student", "loss"}
    checks.known_options("tune", [name], sorted(known), "teachenv.Settings")
    listed = checks.listed(f"tune[{name!r}]", values, "values")
    if not listed:
        raise ValueError(f"tune[{name!r}] must have at least one value, found none; leave it out for the default")
    return listed


def _setting(env: str | None, task: Task | str | None, options: Mapping[str, Any]) -> Setting:
    if (env is None) == (task is None):
        number = "neither" if env is None else "both"
        raise ValueError(f"found {number} an environment's id and a task, expected one of them to compare on")
    if env is not None and not isinstance(env, str):
        raise ValueError(f"env must be the id of a registered environment, found {checks.shown(env)}")
    known = {*inspect.signature(compare).parameters, *(field.name for field in fields(Settings))} - {"options"}
    checks.known_options("teachenv.compare", options, sorted(known), "teachenv.Settings and help(teachenv.compare)")
    for name, value in options.items():
        try:
            in_words(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if env is not None:
        registered(env)
    return Setting(env, dict(options) if task is None else {"task": task, **options}, loss=None)


def _contest(setting: Setting, methods: dict[str, Method], tuned: Tune, budget: int, effort: Effort | None) -> Contest:
    """The contest; its environment is made once for each method, to name what it is of and to fail early."""
    budget = checks.integer("budget", budget, least=1)
    if effort is not None and not isinstance(effort, Effort):
        raise ValueError(f"effort must be None or a teachenv.experiment.Effort, found {checks.shown(effort)}")
    first = {name: values[0] for name, values in tuned.items()}
    if "loss" in setting.options:
        # Of methods that each bring a loss, none would meet it.
        setting.make_single(Method(), Configuration(first))
    size = max(len(method.candidates) for method in methods.values())
    problem, *_ = _problems(setting, methods, first)
    further = {name: method for name, method in baselines(problem, size).items() if name not in methods}
    _problems(setting, further, first)
    methods = {**methods, **further}
    for values in tuned.values():
        size *= len(values)
    effort = effort or effort_of(budget, problem.settings.horizon, size)
    return Contest.of(setting, effort, methods, lambda method: tuned, problem=problem)


def _problems(setting: Setting, methods: Mapping[str, Method], student: Mapping[str, Any]) -> list[Problem]:
    """What each method is of, in one configuration."""
    problems = []
    for name, method in methods.items():
        try:
            env = setting.make_single(method, Configuration(student))
            if method.wrapper is not None:
                method.wrapper(env)  # it refuses what it does not fit before anything is trained
            problems.append(env.problem)
        except TrainsNoStudent:
            raise  # it is no method's fault
        except (TypeError, ValueError) as error:
            raise type(error)(f"method {name!r}: {error}") from error
    return problems


def effort_of(budget: int, horizon: int, configurations: int) -> Effort:
    """The effort that a comparison spends by default.

    Args:
        budget: student steps of each teacher.
        horizon: student steps of a training run.
        configurations: how many each method has.
    """
    # At least ten updates of a teacher, of up to 16 students each.
    parallel = max(1, min(16, budget // (10 * horizon)))
    update = parallel * horizon
    sizes = [configurations]
    while sizes[-1] > 4 and len(sizes) < len(_TUNING):
        sizes.append(-(-sizes[-1] // 4))
    rungs = tuple(
        Rung(count, max(1, round(share * budget / update)) * update, parallel, students)
        for count, (share, students) in zip(sizes, reversed(_TUNING[: len(sizes)]), strict=True)
    )
    return Effort(
        student_steps=budget,
        parallel=parallel,
        rungs=rungs if configurations > 1 else (),
        points=6,
        students=32,
        final_students=64,
    )


def _about(contest: Contest, tuned: Tune) -> dict[str, Any]:
    """A description, as JSON values, of what a folder holds results of."""
    about: dict[str, Any] = in_words(
        {
            "task": contest.name,
            "dataset": contest.dataset,
            "student": contest.student,
            "env": contest.setting.env,
            "options": on_any_machine(contest.setting.options),
            "tune": tuned,
            # Their names are what rows know them by: a network whose code has changed would keep its old results.
            "contents": _contents(contest),
        }
    )
    return about


def _contents(contest: Contest) -> dict[str, str]:
    """Digests of all that rows know by a name alone: objects of one's own, methods, and what an id is registered as."""
    methods = contest.methods
    each = [(candidate.environment, candidate.teacher) for one in methods.values() for candidate in one.candidates]
    contents = objects_in([contest.setting.options, each])
    # Their candidates may change: rows have those as options.
    fields = ("make", "wrapper", "learns", "students_factor", "budget_factor", "episode_rate")
    for name, method in methods.items():
        contents[f"method {name}"] = digest([made_by(getattr(method, field)) for field in fields])
    if contest.setting.env is not None:
        spec = gym.spec(registered(contest.setting.env))
        made = (spec.entry_point, spec.vector_entry_point, spec.max_episode_steps, spec.additional_wrappers)
        kwargs = {**spec.kwargs, "defaults": on_any_machine(spec.kwargs.get("defaults", {}))}
        contents[f"registration of {spec.id}"] = digest((made, on_any_machine(kwargs)))
    return contents


def _agreed(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What a folder holds results of, with what it knows of objects of one's own beside those of this comparison.

    Raises:
        ValueError: it holds results of something else.
        OutputNotWritable: there can be no such folder.
    """
    file, rows = folder / _ABOUT, folder / "results.jsonl"
    with writing(rows):
        if not file.exists():
            if rows.exists() and (rows.is_dir() or rows.stat().st_size):
                raise ValueError(f"{folder} holds results of something else (there is no {_ABOUT}); choose another out")
            return about
    try:
        earlier = dict(json.loads(file.read_text()))
        known = dict(earlier.get("contents", {}))
    except (ValueError, TypeError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file} is damaged ({reason}); repair it, or choose another out") from error
    contents = about["contents"]
    changed = [name for name in contents if known.get(name, contents[name]) != contents[name]]
    if changed:
        raise ValueError(
            f"{folder} holds another comparison: the content of {changed[0]!r} has changed since; give it another "
            "name, or choose another out"
        )
    for name in about:
        if name != "contents" and earlier.get(name) != about[name]:
            name, before, now = _difference(name, earlier.get(name), about[name])
            raise ValueError(
                f"{folder} holds another comparison: found {name} {checks.shown(before)}, expected "
                f"{checks.shown(now)}; choose another out"
            )
    return {**about, "contents": {**known, **contents}}


def _difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """The first entry in which two dictionaries differ, with its name; two other values as they are."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return name, before, now
    key = next(k for k in [*now, *before] if k not in before or k not in now or before[k] != now[k])
    return _difference(f"{name}[{key!r}]", before.get(key, _NOTHING), now.get(key, _NOTHING))


_NOTHING = "nothing"
