"""What each setting of an environment may be: a check for each, which returns a plain Python value."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, get_args

import torch
from torch import nn

from teachenv import checks
from teachenv.control import CONTROLS
from teachenv.losses import LOSSES, LossFamily
from teachenv.optimizers import OPTIMIZERS
from teachenv.schedules import SCHEDULES
from teachenv.students import STUDENTS
from teachenv.students.calling import checked_output
from teachenv.tasks import TASKS
from teachenv.tasks.base import Task
from teachenv.tasks.decisions import Objective
from teachenv.tasks.noise import NOISE_KINDS

Check = Callable[..., Any]


def _or_none(check: Check) -> Check:
    def checked(name: str, value: object, **more: Any) -> Any:
        if value is None:
            return None
        try:
            return check(name, value, **more)
        except ValueError as error:
            raise ValueError(str(error).replace(" must be ", " must be None or ", 1)) from None

    return checked


def _text(name: str, value: object) -> str:
    if isinstance(value, str) and value:
        return str(value)
    raise ValueError(f"{name} must be a name, found {checks.shown(value)}")


def _folder(name: str, value: object) -> str:
    if isinstance(value, str | os.PathLike) and os.fspath(value):
        return os.fsdecode(value)
    raise ValueError(f"{name} must be the path of a folder, found {checks.shown(value)}")


def _device(name: str, value: object) -> str:
    if isinstance(value, str | torch.device) and str(value):
        return str(value)
    raise ValueError(f"{name} must be a torch device such as 'cpu' or 'cuda:0', found {checks.shown(value)}")


def _network(name: str, value: object) -> object:
    if callable(value) and not isinstance(value, nn.Module):
        return value
    if isinstance(value, nn.Module):
        raise ValueError(
            f"{name} must be a name or a function that builds a fresh network, as lambda: nn.Linear(64, 10) does, "
            f"found a network: {checks.shown(value)}"
        )
    return checks.choice(name, value, STUDENTS, "teachenv.STUDENTS")


def _choice_or(alternative: str, name: str, value: object, names: Iterable[str], listed: str) -> str:
    if not isinstance(value, str):
        raise ValueError(
            f"unknown {name} {checks.shown(value)}: expected {alternative} or one of {', '.join(map(repr, names))}"
        )
    return checks.choice(name, value, names, listed)


def _loss(name: str, value: object) -> object:
    if isinstance(value, LossFamily):
        return value
    return _choice_or(f"a {LossFamily.__name__} object", name, value, LOSSES, "teachenv.LOSSES")


def _task(name: str, value: object) -> object:
    if isinstance(value, Task):
        return value
    return _choice_or("a teachenv.Task", name, value, TASKS, "teachenv.TASKS")


def _schedule(name: str, value: object) -> object:
    return checks.options(name, value) if isinstance(value, Mapping) else checks.choice(name, value, SCHEDULES)


def _control(name: str, value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        known = ", ".join(map(repr, CONTROLS))
        raise ValueError(f"{name} must be a list of some of {known}, found {checks.shown(value)}")
    for each in names:
        checks.choice(name, each, CONTROLS)
    if len(set(names)) < len(names):
        raise ValueError(f"{name} has a name twice, found {checks.shown(value)}: leave one out")
    # The loss's coordinates come first.
    return tuple(sorted(map(str, names), key=lambda each: each != "loss"))


_AT_LEAST_ONE = partial(checks.integer, least=1)

CHECKS: dict[str, Check] = {
    "task": _task,
    "task_kwargs": checks.options,
    "dataset": _or_none(_text),
    "data_root": _or_none(_folder),
    "pool_size": _or_none(_AT_LEAST_ONE),
    "split_seed": partial(checks.integer, least=0),
    "trusted_dev": _or_none(_AT_LEAST_ONE),
    "imbalance": partial(checks.number, least=1, dtype=None),
    "label_noise_kind": partial(checks.choice, known=NOISE_KINDS),
    "dev_noise": checks.flag,
    "student": _network,
    "student_kwargs": checks.options,
    "output": _or_none(checked_output),
    "teacher": _or_none(_network),
    "teacher_kwargs": checks.options,
    "loss": _loss,
    "loss_kwargs": checks.options,
    "horizon": _AT_LEAST_ONE,
    "steps_per_action": _AT_LEAST_ONE,
    "batch_size": _AT_LEAST_ONE,
    "learn_from": partial(checks.choice, known=("pool", "dev", "pool and dev")),
    "train_size": _or_none(_AT_LEAST_ONE),
    "dev_size": _or_none(_AT_LEAST_ONE),
    "dev_measured": _or_none(_AT_LEAST_ONE),
    "resplit": checks.flag,
    "warm_start": partial(checks.integer, least=0),
    "train_on": partial(checks.choice, known=("split", "pool")),
    "augment": _or_none(checks.flag),
    "optimizer": partial(checks.choice, known=OPTIMIZERS),
    "optimizer_kwargs": checks.options,
    "nesterov": checks.flag,
    "lr_schedule": _schedule,
    "objective": partial(checks.choice, known=get_args(Objective)),
    "observe_samples": checks.flag,
    "device": _device,
    "control": _control,
}
NUMBERS: dict[str, Check] = {
    "label_noise": partial(checks.number, least=0, below=1),
    "teacher_learning_rate": _or_none(partial(checks.number, least=0)),
    "learning_rate": partial(checks.number, least=0),
    "momentum": partial(checks.number, least=0),
    "weight_decay": partial(checks.number, least=0),
    "objective_temperature": partial(checks.number, above=0),
    "divergence_penalty": partial(checks.number, least=0),
}
"""Those that meet the student's tensors, and are checked to be numbers of its dtype."""
