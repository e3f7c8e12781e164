"""The command `teachenv compare ENV`, and what all commands have in common: errors of one line, and exit codes."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from teachenv.experiment import interrupts
from teachenv.experiment.parsing import parsed

TRACEBACK = "TEACHENV_TRACEBACK"
"""Environment variable: if it is set, errors have their traceback."""

_METHODS = "teachenv.methods"
"""The group of entry points that name dictionaries of methods: those of this package's own, and of any other."""


def ended(work: Callable[[], object]) -> int:
    """Runs a command's work, and returns the exit code.

    Args:
        work: the command's work.

    Returns:
        The exit code: 0; 1 if some of the work failed, 2 after another error that the user can fix (both say so on
        stderr), 130 after Ctrl-C, 143 after a request to end (SIGTERM).
    """
    try:
        with interrupts.raised():
            work()
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, interrupts.Interrupted) else signal.SIGINT
        print(interrupts.message(number), file=sys.stderr)
        return interrupts.exit_code(number)
    except Exception as error:
        failures = getattr(error, "failures", None)
        if failures is None and (os.environ.get(TRACEBACK) or not _is_for_the_user(error)):
            raise
        fail(str(error) or type(error).__name__)
        for failure in failures or ():
            print(f"  {failure.label}: {' '.join(failure.reason.split())}", file=sys.stderr)
            if os.environ.get(TRACEBACK):
                print(failure.traceback, file=sys.stderr)
        return 2 if failures is None else 1
    return 0


def fail(message: str) -> int:
    """Says on stderr, in one line, what went wrong; returns the exit code."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 2


def _is_for_the_user(error: BaseException) -> bool:
    """Whether the message alone says what to do, so that a traceback would only hide it."""
    # An extra that is not installed is an ImportError, which names it.
    if isinstance(error, (ValueError, OSError, ImportError)):
        return True
    # Looked up, not imported: if the error is one, somebody has imported its module; if nobody has, it is none.
    for module, name in (
        ("teachenv.errors", "DatasetUnavailable"),
        ("teachenv.errors", "UnknownOption"),
        ("gymnasium.error", "Error"),
    ):
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return True
    return False


@dataclass(frozen=True)
class Compare:
    """Compares methods of teaching in an environment: tunes each on dev, trains its teachers, and measures students."""

    env: str
    """A registered environment, with its module before it if that registers it: mypackage:Mine-v0."""

    methods: tuple[str, ...] = ("cross-entropy", "random", "ddpg", "rmd")
    """Names, with spaces or commas between them: cross-entropy, focal, label-smoothing, large-margin, smooth-01 (plain
    losses), random, rmd, finite-difference, evolution-strategies, ddpg, td3, sac, ppo, each with a grid of four
    candidates; or module:attribute of a teachenv.experiment.Method of your own, with as many."""

    tune: tuple[str, ...] = ()
    """Options of the environment that every method is tuned over, all combinations of the values:
    learning_rate=0.1,0.4 lr_schedule=linear; by default none."""

    set: tuple[str, ...] = ()
    """Options of the environment, the same for all methods: horizon=60 label_noise=0.4; by default its own."""

    budget: int = 96_000
    """Student steps that each teacher may spend on its own training."""

    seeds: int = 3
    """Teachers of each method that are trained, each with another seed."""

    out: Path | None = None
    """Folder of rows, tables, figures and page, by default runs/TASK; a run that was stopped there continues."""

    workers: int | None = None
    """Processes; by default as many as there are cores."""

    backend: Literal["processes", "inline", "ray"] = "processes"
    """Where the work is done: processes, inline (in this process), or ray (pip install "teachenv[ray]")."""

    address: str | None = None
    """Address of a Ray cluster, or auto for the one that this machine is part of; by default one is started here."""

    def run(self) -> None:
        """Compares the methods, and writes rows, table, figures and page."""
        from teachenv.experiment.comparing import compare

        named = [name for names in self.methods for name in names.split(",") if name]
        tuned = {name: list(values) for name, values in _options("--tune", self.tune).items()}
        options = {name: _single(name, values) for name, values in _options("--set", self.set).items()}
        arguments = {name: getattr(self, name) for name in ("budget", "seeds", "out", "workers", "backend", "address")}
        compare(self.env, methods={name: method_named(name) for name in named}, tune=tuned, **arguments, **options)


def method_named(name: str) -> Any:
    """The method of a name, as `Compare.methods` has them.

    Raises:
        ValueError: an unknown name, with the nearest known one.
        ImportError: the module before the colon cannot be imported, or the package of a method without one.
    """
    from teachenv.errors import unknown_name
    from teachenv.experiment.methods import GRIDS
    from teachenv.experiment.setting import imported

    module, _, attribute = name.rpartition(":")
    if module:
        method = getattr(imported(module, name), attribute, None)
        if method is None:
            raise ValueError(f"found no {attribute!r} in module {module!r}; expected a teachenv.experiment.Method")
        return method
    known: dict[str, Any] = dict(GRIDS)
    failures = []
    for point in importlib.metadata.entry_points(group=_METHODS):
        try:
            known |= _grids(point)
        except ImportError as error:
            failures.append(error)
    if name in known:
        return known[name]
    raise failures[0] if failures else unknown_name("method", name, known)


def _grids(point: importlib.metadata.EntryPoint) -> Mapping[str, Any]:
    """The methods of an entry point.

    Raises:
        ImportError: its package is another one of the same name, or fails itself.
    """
    try:
        grids: Mapping[str, Any] = point.load()
        return grids
    except (ImportError, AttributeError) as error:
        package = point.module.partition(".")[0]
        file = getattr(sys.modules.get(package), "__file__", None)
        raise ImportError(
            f"found no methods in {point.value}: {error}. The package {package!r} that Python imports is in "
            f"{os.path.dirname(file) if file else 'no folder'}; expected that of "
            f"{point.dist.name if point.dist else 'its project'}. Other projects (openai-agents) and folders "
            f"may be called {package!r}, too: use a virtual environment for each, or run this in another folder"
        ) from error


def _options(flag: str, texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Options of the environment as the command line has them, with their values by name."""
    options: dict[str, tuple[Any, ...]] = {}
    for name, values in map(_option, texts):
        if name in options:
            raise ValueError(f"found {name} twice after {flag}, expected each option once")
        if name in (field.name for field in fields(Compare)):
            raise ValueError(
                f"found {name} after {flag}, expected an option of the environment; write --{name} instead"
            )
        options[name] = values
    return options


def _single(name: str, values: Sequence[Any]) -> Any:
    if len(values) > 1:
        raise ValueError(
            f"found {len(values)} values of {name} after --set, expected one; to choose among them, write --tune"
        )
    return values[0]


def _option(text: str) -> tuple[str, tuple[Any, ...]]:
    """An option of the command line, `name=value` or `name=value,value`: (name, values)."""
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise ValueError(f"found {text!r}, expected an option of the environment with its value, such as horizon=60")
    try:
        return name, (json.loads(values),)
    except ValueError:
        return name, tuple(map(_value, values.split(",")))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


_DESCRIPTION = """\
Compares methods of teaching in an environment: tunes each on dev, trains its teachers with equal budgets, and measures
fresh students under them on test. Rows, tables, figures and report.html are in the folder; the same command again goes
on where it stopped. With a trusted dev set (--set trusted_dev=100) two methods more take part: "dev only" trains on its
labels, "train + dev" on those of the pool too. For a task or network of your own without an environment's id, call
teachenv.compare in Python.
"""

_HELP = """\
usage: teachenv compare ENV [options]

Compares methods of teaching in a Gymnasium environment whose episodes are training runs of a student network:

  teachenv compare TeachDigits-v0 --methods cross-entropy rmd --tune learning_rate=0.2,0.4 --budget 20000
  teachenv compare mypackage:Mine-v0 --methods rmd mymodule:my_method --set horizon=30

All options: teachenv compare --help
Errors are one line; set TEACHENV_TRACEBACK=1 for the traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script: `teachenv compare ENV ...`.

    Args:
        arguments: without the program's name; by default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, os.getcwd())  # where the user's own modules are, as with `python -m`
    if words[:1] in ([], ["-h"], ["--help"]):
        print(_HELP)
        return 0
    if words[0] != "compare":
        return fail(f"found {words[0]!r}, expected compare; teachenv compare --help describes it")
    return ended(lambda: parsed(Compare, "teachenv compare", _DESCRIPTION, words[1:]).run())
