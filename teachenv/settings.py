"""The options of a teaching environment, the same on every id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch

from teachenv import checks
from teachenv.fingerprints import describe
from teachenv.losses import LossFamily
from teachenv.parts import PARTS, laid_over, spelled_out
from teachenv.setting_checks import CHECKS, NUMBERS
from teachenv.students import StudentFactory
from teachenv.students.calling import Output
from teachenv.tasks.base import Task
from teachenv.tasks.decisions import Objective

RENDER_MODES = ("ansi", "rgb_array")
NOT_COMPARED = ("data_root", "device", "divergence_penalty")
"""Settings in which environments may differ that continue one another's snapshots: data is compared by its content."""


@dataclass(frozen=True)
class Settings:
    """Options of `TeachEnv` and `TeachVectorEnv`. All are JSON values, but for objects of your own.

    Environments also take the options of a part together, `optimizer={"name": "sgd", "momentum": 0.9}`, likewise for
    `student`, `teacher`, `loss` and `task`; see `teachenv.parts`.

    Attributes:
        task: a name in `teachenv.TASKS` (`"digits"`, `"mnist"`, ...) or a `teachenv.Task` of your own.
        task_kwargs: options of a named task; see `teachenv.tasks.make_task`.
        dataset: other data for a named task; the CIFAR tasks take `"synthetic"`. None: the task's own.
        data_root: folder of the data; None: the environment variable TEACHENV_DATA, then the user's cache.
        pool_size: labelled samples to keep, drawn at random; None: all (digits: 1,000).
        split_seed: seed of what is fixed over episodes: pool and test split, trusted dev set, imbalance, label noise.
        trusted_dev: labelled samples that are taken out of the pool, before label noise comes in, and become the task's
            trusted dev set (`Task.with_dev`); None: none are.
        imbalance: how many times as frequent the pool's first class is as its last, the classes between them falling
            geometrically (`Task.with_imbalance`); 1: the pool as it is. Label noise comes in afterwards; test and a
            trusted dev set stay as they are.
        label_noise: fraction of the pool's labels that are changed, in [0, 1).
        label_noise_kind: `"pair"` (class c becomes c + 1) or `"symmetric"` (any other class).
        dev_noise: whether dev keeps the noise; False gives dev the true labels. A trusted dev set has none.
        student: a name in `teachenv.students.STUDENTS` (`"mlp"`, `"lenet"`, `"resnet8"`, ...) or a function
            without arguments that returns a fresh `nn.Module`, initialised from the global generators. It trains in
            `train()` mode and is measured in `eval()` mode, as in every PyTorch loop, in whichever mode it is returned;
            what else than its parameters, its buffers and the global generators it depends on (a Python counter, a
            tensor outside its buffers) is refused at once, by name.
        student_kwargs: options of a named student.
        output: which part of what a student of your own returns its outputs are, where that is no tensor: a name (a key
            or an attribute), a place in a tuple, or a function of what it returns, tensor or not, to the outputs. None:
            its `logits`. It holds in training and in evaluation, and for a teacher network, too.
        teacher: a second network, which learns beside the student and teaches it (`teachenv.joint`): as `student`.
            None: there is none. It goes with `loss="distillation"`, and only with it.
        teacher_kwargs: options of a named teacher network.
        teacher_learning_rate: its η; None: the student's. Its optimiser and schedule are the student's.
        loss: a name in `teachenv.LOSSES` (`"bilinear"`, `"sample-weights"`, ...) or a `teachenv.LossFamily`.
        loss_kwargs: options of a named loss family.
        horizon: student steps in an episode.
        steps_per_action: student steps under each action; must divide the horizon.
        batch_size: samples in a minibatch.
        learn_from: labelled samples that students learn from: `"pool"`, or with a trusted dev set also `"dev"` and
            `"pool and dev"`, which hold out a part of it as dev.
        train_size: samples that an episode trains on; None: what dev leaves of these.
        dev_size: samples of the dev split; None: 400 of the pool, or with a trusted dev set all of that, half of it
            where students learn from it.
        dev_measured: how many of them, drawn with the split, reward and observation are measured on; None: all. It
            bounds what a measurement costs.
        resplit: draw train and dev anew each episode; False: the same split in all.
        warm_start: steps of cross-entropy that the student takes before the episode's first action, at the base
            learning rate, on minibatches of their own; its optimiser then begins anew. The horizon does not count them.
        train_on: `"split"`, or `"pool"` to train a final student on all that `learn_from` names (dev may be a part of
            it).
        augment: augment minibatches; None: as the task is usually trained (CIFAR: yes).
        optimizer: the student's, a name in `teachenv.optimizers.OPTIMIZERS` (`"sgd"`, `"adam"`, ...).
        optimizer_kwargs: Adam's `betas` and `epsilon`; RMSprop's `alpha`, `epsilon` and `momentum`.
        learning_rate: η.
        momentum: SGD's μ.
        nesterov: SGD's: Nesterov's momentum.
        weight_decay: λ.
        lr_schedule: `"constant"`, `"linear"`, `"cosine"`, `"step"`, `"one-cycle"`, or
            `{"name": "step", "milestones": [...], "gamma": 0.1}`.
        control: what actions set, one or more of `"loss"`, `"learning-rate"`, `"momentum"`, `"weight-decay"` and
            `"augmentation"`: the loss's coordinates, and after them one for each of the others (`teachenv.control` has
            the maps; zero leaves each as it is). Of a pair of networks the student's optimiser alone.
        objective: J on dev: `"accuracy"`, smoothed; `"likelihood"`, minus the cross-entropy (L2T-DLN's; always that
            of the student in distillation); or `"margin"`, minus the margin error of L2T-DLF's released code. Of
            translation `"token-accuracy"` (what `"accuracy"` means there) and `"expected-bleu"`. Tasks with a measure
            of their own have their own.
        objective_temperature: τ of the smoothed accuracy (1 is L2T-DLF's relaxation, small is close to the accuracy
            itself) and of the margin error (the released code's k = 50 is 0.02).
        observe_samples: whether the teacher sees the samples that its next action weighs, six numbers of each
            (`teachenv.samples.LabelledSamples`). It goes with losses whose actions weigh the samples of one minibatch
            (`"sample-weights"` with one student step an action) and with samples of one label.
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
    trusted_dev: int | None = None
    imbalance: float = 1.0
    label_noise: float = 0.0
    label_noise_kind: Literal["pair", "symmetric"] = "pair"
    dev_noise: bool = True
    student: str | StudentFactory = "mlp"
    student_kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Output | None = None
    teacher: str | StudentFactory | None = None
    teacher_kwargs: Mapping[str, Any] = field(default_factory=dict)
    teacher_learning_rate: float | None = None
    loss: str | LossFamily = "bilinear"
    loss_kwargs: Mapping[str, Any] = field(default_factory=dict)
    horizon: int = 60
    steps_per_action: int = 1
    batch_size: int = 32
    learn_from: Literal["pool", "dev", "pool and dev"] = "pool"
    train_size: int | None = None
    dev_size: int | None = None
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
    control: tuple[str, ...] = ("loss",)
    objective: Objective = "accuracy"
    objective_temperature: float = 0.2
    observe_samples: bool = False
    divergence_penalty: float = 1.0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    autocast: Literal["bfloat16"] | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without the data, and makes plain Python values of NumPy's.

        Raises:
            ValueError: an option is of another type, or out of its range.
        """
        checks.choice("dtype", self.dtype, ("float32", "float64"))
        dtype = torch.float64 if self.dtype == "float64" else torch.float32
        for name, check in CHECKS.items():
            # The dataclass is frozen for everybody else.
            object.__setattr__(self, name, check(name, getattr(self, name)))
        for name, check in NUMBERS.items():
            object.__setattr__(self, name, check(name, getattr(self, name), dtype=dtype))
        if "epsilon" in self.optimizer_kwargs:
            checks.number("epsilon", self.optimizer_kwargs["epsilon"], above=0, dtype=dtype)
        self._require(
            "steps_per_action", self.horizon % self.steps_per_action == 0, f"a divisor of horizon={self.horizon}"
        )
        allowed = (None, "bfloat16") if self.dtype == "float32" else (None,)
        self._require("autocast", self.autocast in allowed, f"one of {allowed} with dtype={self.dtype!r}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {expected}, found {checks.shown(getattr(self, name))}")

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Settings:
        """Settings from keyword arguments.

        Args:
            kwargs: what a user chose.
            defaults: what stands in the place of this class's own defaults; see `teachenv.registration`. Options of a
                part in them (the student's, say) are for the part that they name, and for no other.

        Raises:
            TypeError: an unknown keyword, with the nearest known one.
            ValueError: see `Settings`.
        """
        known, kwargs = [f.name for f in fields(cls)], spelled_out(kwargs)
        for given in (kwargs, defaults or {}):
            checks.known_options("the environment", given, known, "teachenv.Settings")
        usual = {f.name: f.default for f in fields(cls)}
        settings = laid_over(kwargs, defaults or {}, usual)
        _fit_defaults_of_dev(settings, kwargs)
        return cls(**settings)

    def fingerprint(self) -> dict[str, str]:
        """A text for each setting as it was given; see `teachenv.problem_fingerprint` for what they come to."""
        return {f.name: describe(getattr(self, f.name)) for f in fields(self) if f.name not in NOT_COMPARED}


def _fit_defaults_of_dev(settings: dict[str, Any], kwargs: Mapping[str, Any]) -> None:
    """An id's defaults are for a dev split of the pool, and of one that a user makes smaller measure what there is."""
    task = kwargs.get("task")
    if kwargs.get("trusted_dev") is not None or (isinstance(task, Task) and task.dev is not None):
        for name in {"dev_size", "dev_measured"} - kwargs.keys():
            settings.pop(name, None)
    is_default = "dev_measured" in settings and "dev_measured" not in kwargs
    if is_default and isinstance(kwargs.get("dev_size"), int | np.integer):
        settings["dev_measured"] = max(1, min(settings["dev_measured"], int(kwargs["dev_size"])))


def plain(name: str, value: object) -> Any:
    """The value of one option as `Settings` keeps it, a plain Python value; of a part written together a mapping.

    Raises:
        ValueError: it is of another type, or out of its range.
        TypeError: an option that a part does not have.
    """
    if isinstance(value, Mapping) and name in PARTS:
        for option, each in spelled_out({name: value}).items():
            plain(option, each)
        return checks.options(name, value)
    if name in NUMBERS:
        return NUMBERS[name](name, value, dtype=torch.float64)
    return CHECKS[name](name, value) if name in CHECKS else value
