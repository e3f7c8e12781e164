"""What a method of a comparison is, and the parts that tables of methods are made of."""

from __future__ import annotations

import copy
import importlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import meta
from meta.codecs import declare

SCHEDULES = ("constant", "linear", "cosine")

Make = Callable[[Any, int, Mapping[str, Any]], Any]
"""Builds a teacher from (environment, seed, teacher options)."""

Wrapper = Callable[[Any], Any]
"""Wraps an environment."""


@dataclass(frozen=True)
class Own:
    """One value of a method's own parameter.

    Attributes:
        environment: options of the environment that come with it.
        teacher: options of the teacher.
    """

    environment: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Attributes:
        own: values of its own parameter.
        make: builds the teacher; None: a fixed loss, the zero action.
        learns: whether the teacher spends student steps on its own training.
        tuned_as: the method whose tuning it takes over, if it has none of its own; None: itself.
        crowd: how many times as many students as the preset says the teacher has at a time, in the same number of
            student steps; in tuning also in as many times more of them, so that there are as many updates.
        spends: how many times the task's budget of student steps the teacher has.
        taught_as: the method whose teacher it takes over, from the task that its own task names as `source`; its own
            values are that method's, its students' learning rate that of `tuned_as`.
        rates: learning rates of the student, if they are others than the table's.
        episode_rate: factor on it in the episodes that the teacher learns on. The gradient of a training is noise near
            the edge of stability, where the fastest training is.
        wrapper: of an environment with one student: the teacher sees something else through it, one student at a time.
    """

    own: tuple[Own, ...]
    make: Make | None = None
    learns: bool = False
    tuned_as: str | None = None
    crowd: int = 1
    spends: int = 1
    taught_as: str | None = None
    rates: tuple[float, ...] | None = None
    episode_rate: float = 1.0
    wrapper: Wrapper | None = None


@dataclass(frozen=True)
class Configuration:
    """What is tuned.

    Attributes:
        learning_rate: of the student.
        lr_schedule: of the student.
        own: index into the method's own values.
    """

    learning_rate: float
    lr_schedule: str
    own: int

    def __str__(self) -> str:
        """For progress: short."""
        return f"lr {self.learning_rate:g} {self.lr_schedule}, own {self.own}"


@dataclass(frozen=True)
class Table:
    """A benchmark's methods.

    Attributes:
        methods: by name, in the order of tables and figures.
        learning_rates: of the student; a function of (method, the teachers' loss family).
        schedules: of the student's learning rate.
    """

    methods: Mapping[str, Method]
    learning_rates: Callable[[Method, str], tuple[float, ...]]
    schedules: tuple[str, ...] = SCHEDULES

    def grid(self, name: str, loss: str) -> list[Configuration]:
        """All configurations of a method: learning rates x schedules x values of its own parameter."""
        method = self.methods[name]
        rates = method.rates or self.learning_rates(method, loss)
        return [Configuration(*c) for c in itertools.product(rates, self.schedules, range(len(method.own)))]


def table_at(path: str) -> Table:
    """The table at `"module:attribute"`: worker processes get its name, since the teachers' makers are not pickled."""
    module, _, attribute = path.partition(":")
    table: Table = getattr(importlib.import_module(module), attribute)
    return table


@declare
@dataclass(frozen=True)
class LinearDecay:
    """SB3's learning-rate schedule, from `rate` linearly to zero; a class, so that checkpoints hold it by value."""

    rate: float

    def __call__(self, remaining: float) -> float:
        """The rate at a remaining progress of 1 to 0."""
        return self.rate * remaining


def decaying(algorithm: Callable[..., Any], policy: str = "AttentionPolicy", **fixed: Any) -> Make:
    """Builds an algorithm with L2T-DLF's actor (or another) and a decaying learning rate.

    Args:
        algorithm: of the teacher.
        policy: name of the actor's.
        **fixed: options of every teacher.
    """

    def make(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
        chosen = {**copy.deepcopy({**fixed, **options}), "learning_rate": LinearDecay(options["learning_rate"])}
        return algorithm(policy, env, seed=seed, **chosen)

    return make


def random_actions(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    """Builds a teacher of random actions."""
    return meta.RandomTeacher("RandomPolicy", env, policy_kwargs={"seed": seed}, seed=seed)


def fixed_loss(base: str, *options: Mapping[str, Any]) -> Method:
    """A fixed loss: the zero action of sample weights over it."""
    return Method(tuple(Own({"loss": "sample-weights", "loss_kwargs": {"base": base, **o}}) for o in options))


def cross_entropy(*decays: float) -> Method:
    """Cross-entropy has no parameter of its own; it gets weight decay instead."""
    shared = {"loss": "sample-weights", "loss_kwargs": {"base": "cross-entropy"}}
    return Method(tuple(Own({**shared, "weight_decay": decay}) for decay in decays))
