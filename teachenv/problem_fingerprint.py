"""What a snapshot says of the problem that it is of: a text for each setting, the same for what trains the same.

Settings that mean the same have the same text: a default that is written out, `1` for `1.0`, a loss by its name or as
an object. Data is compared by its content, wherever it was read from. `docs/fingerprints.md` has the rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from torch.utils.weak import WeakIdKeyDictionary

from teachenv.episodes import Episodes
from teachenv.fingerprints import describe, digest, digest_from_outside, simple_attributes
from teachenv.introspection import of_a_library
from teachenv.losses import LOSSES, LossFamily
from teachenv.optimizers import OPTIMIZERS, Optimizer, make_optimizer
from teachenv.schedules import shortest
from teachenv.settings import NOT_COMPARED, Settings
from teachenv.students import chosen_options
from teachenv.tasks import TASKS, task_options
from teachenv.tasks.base import Task

_DATA = ("pool", "test", "dev")
_MET: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Objects of users, each with its digest from outside and its text when it was first met."""


class ProblemFingerprint:
    """The texts of a problem's settings.

    They are taken when a problem is first made with an object: what a loss keeps when it is called is no part of them.
    What others change of it later (`loss.scale = 2.0`) is found by `current`, which then describes the object anew.

    Args:
        episodes: the problem's options and data.
        loss: its loss family.
        optimizer: the student's optimiser.
    """

    def __init__(
        self,
        episodes: Episodes,
        loss: LossFamily,
        optimizer: Optimizer,
    ) -> None:
        self._episodes, self._loss, self._optimizer = episodes, loss, optimizer
        self._settings, self._task = settings, task = episodes.settings, episodes.task
        self._tensors = (*task.pool, *task.test, *(task.dev or ()), episodes.rows.dev_targets)
        chosen = {name: getattr(settings, name) for name in ("student", "teacher", "loss")}
        self._objects = {name: value for name, value in chosen.items() if not isinstance(value, str | None)}
        if isinstance(settings.task, Task):
            self._objects["task"] = _beside_data(task)
        self._seen = self._from_outside()
        self._texts = self._described({f.name for f in fields(settings)})
        self._data: tuple[list[int | None], str] | None = None

    def current(self) -> dict[str, str]:
        """The text of each setting now, by name. The first call reads all data: 0.2 s for 100 MB."""
        seen = self._from_outside()
        changed = {name for name in seen if seen[name] != self._seen[name]}
        texts = dict(self._texts)
        if changed:
            texts |= self._described({*changed, *(f"{name}_kwargs" for name in changed)})
        return texts | {"task": f"{texts['task']}, data {self._digest_of_data()}"}

    def _described(self, names: Collection[str]) -> dict[str, str]:
        texts = {name: describe(value) for name, value in self._values().items() if name in names}
        for name, seen in self._from_outside().items():
            if name in texts:
                texts[name] = _as_first_met(getattr(self._settings, name), seen, texts[name])
        return texts

    def _from_outside(self) -> dict[str, str]:
        return {name: digest_from_outside(value) for name, value in self._objects.items()}

    def _digest_of_data(self) -> str:
        # A tensor counts the changes that are made to it in place.
        versions = [None if tensor.is_inference() else tensor._version for tensor in self._tensors]
        if self._data is None or self._data[0] != versions:
            self._data = versions, digest((self._task.dataset, self._tensors))
        return self._data[1]

    def _values(self) -> dict[str, Any]:
        """What is compared for each setting: of equal meanings one."""
        settings, task, episodes = self._settings, self._task, self._episodes
        values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in NOT_COMPARED}
        values |= self._of_task() | self._of_optimizer() | _of_loss(self._loss)
        for name in ("student", "teacher"):
            if isinstance(values[name], str):
                options = values[f"{name}_kwargs"]
                values[f"{name}_kwargs"] = chosen_options(values[name], tuple(task.pool[0].shape[1:]), options)
        values["lr_schedule"] = shortest(settings.lr_schedule, settings.horizon)
        defaults: dict[str, Any] = {
            "pool_size": len(task.pool[0]) + (settings.trusted_dev or 0),
            "dataset": task.dataset,
            "train_size": episodes.most_train,
            "dev_size": episodes.default_dev_size,
            "dev_measured": episodes.dev_size,
            "augment": task.augment is not None,
            "teacher_learning_rate": settings.learning_rate,
        }
        return values | {name: None for name, default in defaults.items() if values[name] == default}

    def _of_task(self) -> dict[str, Any]:
        settings = self._settings
        if not isinstance(settings.task, str):
            return {"task": self._in_words()}
        options = _without(task_options(settings.task), settings.task_kwargs)
        noise = {} if settings.label_noise else {"label_noise_kind": "pair", "dev_noise": True}
        if TASKS[settings.task].startswith("teachenv."):
            return {"task": settings.task, "task_kwargs": options, **noise}
        return {"task": [settings.task, self._in_words()], "task_kwargs": options, **noise}

    def _in_words(self) -> str:
        return f"Task{simple_attributes(self._task)} {digest(_beside_data(self._task))}"

    def _of_optimizer(self) -> dict[str, Any]:
        name, optimizer = self._settings.optimizer, self._optimizer
        entry = OPTIMIZERS[name]
        ineffective = {"momentum", "nesterov"} - {*entry.settings}
        values: dict[str, Any] = {f.name: f.default for f in fields(Settings) if f.name in ineffective}
        if not of_a_library(type(optimizer).__module__):
            return values | {"optimizer": {"name": name, "class": type(optimizer)}}
        default = make_optimizer(name)
        chosen = {option: getattr(optimizer, option) for option in entry.options}
        usual = {option: getattr(default, option) for option in entry.options}
        return values | {"optimizer_kwargs": _without(usual, chosen)}


def _of_loss(loss: LossFamily) -> dict[str, Any]:
    """This library's by their names, with their options where they are not the usual ones."""
    name = next((name for name, family in LOSSES.items() if family is type(loss)), None)
    if name is None or not of_a_library(type(loss).__module__):
        return {"loss": loss, "loss_kwargs": {}}
    return {"loss": name, "loss_kwargs": {} if digest(loss) == digest(type(loss)()) else loss}


def _as_first_met(value: Any, seen: str, text: str) -> str:
    """The text of an object before it has kept anything: environments may share it, one made after the other's steps.

    Args:
        value: the object.
        seen: its digest from outside, which tells when it is another one.
        text: its text now.
    """
    try:
        known: tuple[str, str] | None = _MET.get(value)  # type: ignore[no-untyped-call]
        if known is None or known[0] != seen:
            _MET[value] = known = seen, text
    except TypeError:  # no weak references
        return text
    return known[1]


def _beside_data(task: Task) -> dict[str, Any]:
    return {f.name: getattr(task, f.name) for f in fields(task) if f.name not in _DATA}


def _without(usual: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the chosen options that are not the usual ones."""
    return {name: value for name, value in chosen.items() if name not in usual or usual[name] != value}
