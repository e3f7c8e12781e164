"""Options that were given and change nothing: an error, since who gives an option expects something of it.

Defaults are not checked, nor are values that ask for nothing (None, no options, a flag at its default, a momentum of
0).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import fields

from teachenv.checks import shown
from teachenv.optimizers import OPTIMIZERS
from teachenv.settings import Settings
from teachenv.tasks.base import Task


def refuse_idle(settings: Settings, given: Collection[str], task: Task) -> None:
    """Refuses options that have no effect beside the others.

    Args:
        settings: all options.
        given: names of those that a user gave.
        task: what they chose to train on.

    Raises:
        ValueError: the first such, and why.
    """
    neutral = {f.name: f.default for f in fields(settings) if isinstance(f.default, bool)}
    for name, reason in _idle(settings, given, task):
        value = getattr(settings, name)
        if name in given and value is not None and value != {} and value is not neutral.get(name):
            raise ValueError(f"{name}={shown(value)} has no effect {reason}: leave it out")


def _idle(settings: Settings, given: Collection[str], task: Task) -> Iterator[tuple[str, str]]:
    """Pairs of an option without effect, and why it has none."""
    if isinstance(settings.task, Task):
        for name in ("task_kwargs", "dataset", "data_root"):
            yield name, "with a Task of your own, which brings its data"
        sizes = settings.pool_size, settings.trusted_dev
        drawn_once = settings.label_noise or settings.imbalance > 1 or any(size is not None for size in sizes)
        if settings.resplit and not drawn_once:
            yield "split_seed", "with a Task of your own, of which nothing is drawn once for all episodes"
    # Of a series of noise levels the first may be 0.
    if not settings.label_noise and "label_noise" not in given:
        for name in ("label_noise_kind", "dev_noise"):
            yield name, "without label_noise"
    if task.dev is not None:
        yield "dev_noise", "with a trusted dev set, which has no label noise"
    for name in ("student", "teacher"):
        network = getattr(settings, name)
        if network is not None and not isinstance(network, str):
            yield f"{name}_kwargs", f"with a function as {name}, which builds what it builds"
    if isinstance(settings.student, str) and isinstance(settings.teacher, str | None):
        yield "output", "with networks by name, which return their outputs"
    if settings.teacher is None:
        for name in ("teacher_kwargs", "teacher_learning_rate"):
            yield name, "without a teacher network"
    if not isinstance(settings.loss, str):
        yield "loss_kwargs", "with a loss of your own, which has its options already"
    if settings.train_on == "pool":
        yield "train_size", 'with train_on="pool", which trains on the whole pool'
    optimizer = OPTIMIZERS[settings.optimizer]
    for name in ("momentum", "nesterov") if settings.momentum else ("nesterov",):
        if name not in optimizer.settings:
            options = ", ".join(map(repr, optimizer.options))
            yield name, f"with optimizer={settings.optimizer!r}, whose optimizer_kwargs are {options}"
    if task.measure is not None:
        for name in ("objective", "objective_temperature"):
            yield name, f"with task {task.name!r}, which has a measure of its own"
    if settings.teacher is not None:
        if settings.objective != "likelihood":
            yield "objective", "with a teacher network, where it is always minus the student's cross-entropy"
        yield "objective_temperature", "with a teacher network, where J is minus the student's cross-entropy"
    if settings.objective in ("likelihood", "expected-bleu"):
        yield "objective_temperature", f"with objective={settings.objective!r}"
