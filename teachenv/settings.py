"""The options of a teaching environment, the same on every id."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from teachenv.errors import unknown_name
from teachenv.losses import LossFamily
from teachenv.students import StudentFactory
from teachenv.tasks.base import Task

RENDER_MODES = ("ansi", "rgb_array")


@dataclass(frozen=True)
class Settings:
    """Options of `TeachEnv` and `TeachVectorEnv`. All are JSON values, but for objects of your own.

    Attributes:
        task: a name (`"digits"`, `"mnist"`, `"cifar10"`, `"cifar100"`, `"synthetic"`) or a `teachenv.Task` of your own.
        task_kwargs: options of a named task; see `teachenv.tasks.make_task`.
        dataset: other data for a named task; the CIFAR tasks take `"synthetic"`. None: the task's own.
        data_root: folder of the data; None: the environment variable TEACHENV_DATA, then the user's cache.
        pool_size: labelled samples to keep, drawn at random; None: all (digits: 1,000).
        split_seed: seed of what is fixed over episodes: pool and test split, label noise.
        label_noise: fraction of the pool's labels that are changed, in [0, 1).
        label_noise_kind: `"pair"` (class c becomes c + 1) or `"symmetric"` (any other class).
        dev_noise: whether dev keeps the noise; False gives dev the true labels.
        student: a name in `teachenv.students.STUDENTS` (`"mlp"`, `"lenet"`, `"resnet8"`, ...) or a function
            without arguments that returns an `nn.Module`.
        student_kwargs: options of a named student.
        teacher: a second network, which learns beside the student and teaches it (`teachenv.joint`): as `student`.
            None: there is none. It goes with `loss="distillation"`, and only with it.
        teacher_kwargs: options of a named teacher network.
        teacher_learning_rate: its η; None: the student's. Its optimiser and schedule are the student's.
        loss: a name (`"bilinear"`, `"bilinear-generalized"`, `"bilinear-sigmoid"`, `"diagonal"`, `"diagonal-sigmoid"`,
            `"sample-weights"`, `"mixture"`, `"dynamic-network"`, `"distillation"`) or a `teachenv.LossFamily`.
        loss_kwargs: options of a named loss family.
        horizon: student steps in an episode.
        steps_per_action: student steps under each action; must divide the horizon.
        batch_size: samples in a minibatch.
        train_size: samples that an episode trains on; None: what dev leaves of the pool.
        dev_size: samples of the dev split.
        dev_measured: how many of them, drawn with the split, reward and observation are measured on; None: all. It
            bounds what a measurement costs.
        resplit: draw train and dev from the pool anew each episode; False: the same split in all.
        warm_start: steps of cross-entropy that the student takes before the episode's first action, at the base
            learning rate, on minibatches of their own; its optimiser then begins anew. The horizon does not count them.
        train_on: `"split"`, or `"pool"` to train a final student on the whole pool (dev is then a part of it).
        augment: augment minibatches; None: as the task is usually trained (CIFAR: yes).
        optimizer: the student's: `"sgd"`, `"adam"` or `"adamw"`.
        optimizer_kwargs: Adam's `betas` and `epsilon`.
        learning_rate: η.
        momentum: SGD's μ.
        nesterov: SGD's: Nesterov's momentum.
        weight_decay: λ.
        lr_schedule: `"constant"`, `"linear"`, `"cosine"`, `"step"`, or
            `{"kind": "step", "milestones": [...], "gamma": 0.1}`.
        objective: J on dev: `"accuracy"`, smoothed, or `"likelihood"`, minus the cross-entropy (L2T-DLN's; always that
            of the student in distillation). Of translation `"token-accuracy"` (what `"accuracy"` means there) and
            `"expected-bleu"`. Tasks with a measure of their own have their own.
        objective_temperature: τ of the smoothed accuracy J; 1 is L2T-DLF's relaxation, small is close to the accuracy
            itself.
        divergence_penalty: what a student that diverges costs: its last reward is minus this.
        device: a torch device.
        dtype: `"float32"` or `"float64"`, of the student and of the spaces.
        autocast: `"bfloat16"`: networks run under `torch.autocast`; parameters, optimiser, losses and the sums of
            gradients stay in float32. None: all in `dtype`.
    """

    task: str | Task = "digits"
    task_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    data_root: str | None = None
    pool_size: int | None = None
    split_seed: int = 0
    label_noise: float = 0.0
    label_noise_kind: Literal["pair", "symmetric"] = "pair"
    dev_noise: bool = True
    student: str | StudentFactory = "mlp"
    student_kwargs: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | StudentFactory | None = None
    teacher_kwargs: Mapping[str, Any] = field(default_factory=dict)
    teacher_learning_rate: float | None = None
    loss: str | LossFamily = "bilinear"
    loss_kwargs: Mapping[str, Any] = field(default_factory=dict)
    horizon: int = 60
    steps_per_action: int = 1
    batch_size: int = 32
    train_size: int | None = None
    dev_size: int = 400
    dev_measured: int | None = None
    resplit: bool = True
    warm_start: int = 0
    train_on: Literal["split", "pool"] = "split"
    augment: bool | None = None
    optimizer: str = "sgd"
    optimizer_kwargs: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    lr_schedule: str | Mapping[str, Any] = "constant"
    objective: Literal["accuracy", "likelihood", "token-accuracy", "expected-bleu"] = "accuracy"
    objective_temperature: float = 0.2
    divergence_penalty: float = 1.0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    autocast: Literal["bfloat16"] | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without the data.

        Raises:
            ValueError: an option is out of its range.
        """
        for name, least in (
            ("horizon", 1),
            ("steps_per_action", 1),
            ("batch_size", 1),
            ("dev_size", 1),
            ("warm_start", 0),
        ):
            value = getattr(self, name)
            self._require(name, isinstance(value, int) and value >= least, f"an integer of at least {least}")
        self._require(
            "steps_per_action", self.horizon % self.steps_per_action == 0, f"a divisor of horizon={self.horizon}"
        )
        for name in ("train_size", "pool_size", "dev_measured"):
            value = getattr(self, name)
            self._require(
                name, value is None or (isinstance(value, int) and value >= 1), "None or an integer of at least 1"
            )
        measured = self.dev_measured
        self._require(
            "dev_measured", measured is None or measured <= self.dev_size, f"at most dev_size={self.dev_size}"
        )
        rate = self.teacher_learning_rate
        self._require(
            "teacher_learning_rate",
            rate is None or _is_number(rate, at_least=0),
            "None or a finite number of at least 0",
        )
        for name in ("learning_rate", "momentum", "weight_decay", "divergence_penalty"):
            self._require(name, _is_number(getattr(self, name), at_least=0), "a finite number of at least 0")
        noise = self.label_noise
        self._require("label_noise", _is_number(noise, at_least=0) and noise < 1, "a fraction in [0, 1)")
        tau = self.objective_temperature
        self._require("objective_temperature", _is_number(tau, at_least=0) and tau > 0, "a positive number")
        for name, known in (
            ("train_on", ("split", "pool")),
            ("objective", ("accuracy", "likelihood", "token-accuracy", "expected-bleu")),
            ("dtype", ("float32", "float64")),
            ("label_noise_kind", ("pair", "symmetric")),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        allowed = (None, "bfloat16") if self.dtype == "float32" else (None,)
        self._require("autocast", self.autocast in allowed, f"one of {allowed} with dtype={self.dtype!r}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {expected}, found {getattr(self, name)!r}")

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> Settings:
        """Settings from keyword arguments.

        Raises:
            TypeError: an unknown keyword, with the nearest known one.
        """
        known = [f.name for f in fields(cls)]
        for name in kwargs:
            if name not in known:
                raise TypeError(str(unknown_name("option of the environment", name, known)))
        return cls(**kwargs)

    def fingerprint(self) -> dict[str, str]:
        """What must agree for a snapshot of one environment to fit another."""
        skip = ("data_root", "device", "divergence_penalty")
        return {f.name: _describe(getattr(self, f.name)) for f in fields(self) if f.name not in skip}


def _is_number(value: object, at_least: float) -> bool:
    return isinstance(value, int | float | np.number) and bool(at_least <= value < math.inf)


def _describe(value: object) -> str:
    """An option as text that is the same in every process: JSON values by value, objects by name."""
    return json.dumps(value, sort_keys=True, default=_stand_in)


def _stand_in(value: object) -> object:
    if isinstance(value, Task):
        return f"{value.name} ({value.dataset})"
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    return getattr(value, "__qualname__", type(value).__qualname__)
