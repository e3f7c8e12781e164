"""A training run of one's own, described by what a plain PyTorch loop has, as one of a teaching environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from teachenv import checks
from teachenv.env import TeachEnv
from teachenv.errors import unknown_name
from teachenv.losses import PLAIN_LOSSES, DataWeights, LossFamily
from teachenv.losses.plain import reads
from teachenv.optimizers.of_torch import optimizer_settings
from teachenv.students import FunctionalStudent
from teachenv.students.calling import Call, Output
from teachenv.students.kernels import DifferentiableKernels
from teachenv.students.prediction import Prediction
from teachenv.tasks.base import Task
from teachenv.tasks.columns import columns_of
from teachenv.tasks.labels import numbered, numbers_of, texts_of
from teachenv.tasks.measures import Measure
from teachenv.tasks.multi_label import MultiLabel
from teachenv.tasks.reading import pair_of
from teachenv.tasks.regression import Regression
from teachenv.tasks.soft_labels import SoftLabels
from teachenv.tasks.splits import checked_split, packing_of
from teachenv.tasks.targets import CHECKS, TargetKind
from teachenv.trial.losses import refuse_broadcasting

SampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) of a minibatch to the loss of each of its samples, (batch,)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnTraining:
    """A training run of your own, for `meta.attribute`: what a plain PyTorch loop over minibatches has.

        training = meta.OwnTraining(
            module=lambda: nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)),
            data=(x, y), optimizer=torch.optim.SGD, optimizer_kwargs={"lr": 0.1}, steps=300,
        )
        scores = meta.attribute(training, tests=(x_test, y_test))

    The module is built, and minibatches are drawn (samples reshuffled each epoch, an incomplete minibatch left out), by
    the seed. Dropout is a function of seed and step.

    Attributes:
        module: builds a fresh network: a function without arguments, called under the seed.
        data: (inputs, targets), tensors, arrays, lists or data frames, inputs also a dictionary of such, which the
            network gets by name; or a Dataset or a DataLoader of such pairs, read once. Targets are what the loss
            reads: labels, whole numbers from 0 on or texts; for regression numbers; class probabilities, or 0 and 1 of
            several classes (`teachenv.tasks.targets`). A loss that is a function gets integers as labels, and
            floating-point targets as they are.
        output: which part of what the network returns its outputs are, as in `teachenv.Settings`.
        loss: the loss of a sample: a name in `teachenv.losses.PLAIN_LOSSES`, or a function of (outputs, targets) to a
            loss for each sample of the minibatch, (batch,); a step takes their mean. A function is also what tests
            measure, unless `meta.attribute` is given another `objective`.
        optimizer: `torch.optim.SGD`, `Adam`, `AdamW` or `RMSprop`.
        optimizer_kwargs: its settings, by PyTorch's names and with PyTorch's defaults: `{"lr": 0.1, "momentum": 0.9}`.
        batch_size: samples in a minibatch.
        steps: steps of the training.
        seed: decides initialisation, minibatches and dropout.
        dtype: `"float32"` or `"float64"`, of the network.
        device: a torch device.

    Raises:
        ValueError: a setting of the optimiser, or data, that cannot be taken; says which.
        TypeError: an optimiser that is none of these classes, or data of another kind.
    """

    module: Callable[[], nn.Module]
    data: tuple[Any, Any] | Dataset[Any] = field(repr=False)
    output: Output | None = None
    loss: str | SampleLoss = "cross-entropy"
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    optimizer_kwargs: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    steps: int = 300
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        checks.choice("dtype", self.dtype, ("float32", "float64"))
        checks.device("device", self.device)
        object.__setattr__(self, "seed", checks.integer("seed", self.seed, least=0))  # frozen for everybody else
        object.__setattr__(self, "steps", checks.integer("steps", self.steps, least=1))
        object.__setattr__(self, "batch_size", checks.integer("batch_size", self.batch_size, least=1))
        _ = self._settings, self._task  # what cannot be taken is said now

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The texts that labels were given as, in the order of their numbers; None: labels were numbers."""
        return self._task.classes

    @property
    def objective(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
        """What tests measure unless asked otherwise: the mean of a loss of one's own; None: what is usual."""
        return None if isinstance(self.loss, str) else partial(_mean_of, self.loss)

    def environment(self) -> TeachEnv:
        """A teaching environment whose training under the zero action, `reset(seed=seed)`, is this one.

        Raises:
            ValueError: the network does not fit the data, or is no function of its tensors, inputs and seed.
        """
        inputs = self._task.pool[0]
        dtype, device = getattr(torch, self.dtype), torch.device(self.device)
        example, packing = inputs[: self.batch_size], self._task.packing
        example = example.to(device, dtype if example.is_floating_point() else None)
        call = Call(self.output, None if packing is None else packing.unpack)
        student = FunctionalStudent(self.module, example, dtype, device, call=call)
        if not student.output_shape:
            raise ValueError(
                "the network has outputs of shape (batch,), expected (batch, outputs): leave out squeeze or flatten"
            )
        targets, outputs = self._task.pool[1], student.output_shape[0]
        if not isinstance(self.loss, str):
            refuse_broadcasting("the loss", self.loss, student.output_shape, targets[: self.batch_size].to(device))
        if self._task.target_kind == "labels" and int(targets.max()) >= outputs:
            raise ValueError(
                f"labels of the data go from {int(targets.min())} to {int(targets.max())}, but the network has "
                f"{outputs} outputs, one for each class from 0 on: number the classes from 0, or give the network more "
                "outputs; for one output and a loss of your own give the targets as floating-point numbers"
            )
        return TeachEnv(
            task=replace(self._task, num_outputs=outputs),
            student=self.module,
            output=self.output,
            loss=self._family,
            horizon=self.steps,
            steps_per_action=self.steps,
            batch_size=self.batch_size,
            train_on="pool",
            dev_size=1,
            dtype=self.dtype,
            device=self.device,
            **self._settings,
        )

    def encoded(self, tests: Any) -> Any:
        """Tests, (inputs, targets), with texts as labels turned into the numbers that they have in the data.

        Raises:
            ValueError: a label that the data does not have.
        """
        if self.classes is None:
            return tests
        inputs, labels = pair_of(tests, "tests")
        texts = texts_of(labels, "tests")
        return inputs, labels if texts is None else numbers_of(texts, np.asarray(self.classes), "tests")

    @cached_property
    def _task(self) -> Task:
        """The data as a pool; one of its samples stands in the place of the test split."""
        pairs, classes = numbered({"pool": pair_of(self.data, "data")}, None, "data")
        packing = packing_of(pairs["pool"][0], "data")
        inputs, targets = checked_split(pairs["pool"], "data", packing)
        kind = self._kind(targets)
        targets = CHECKS[kind](targets, "data", None)
        if kind == "labels" and int(targets.min()) == int(targets.max()):
            raise ValueError(
                f"all {len(targets)} samples of the data have the label {int(targets[0])}, expected two classes or "
                'more; for regression use loss="squared-error"'
            )
        # The network says how many there are; see `environment`.
        outputs: dict[str, Any] = {"num_outputs": int(targets.max()) + 1} if kind == "labels" else {}
        return Task(
            "own training",
            "own data",
            (inputs, targets),
            (inputs[:1], targets[:1]),
            **outputs,
            measure=_MEASURES[kind](),
            classes=classes,
            packing=packing,
            columns=columns_of(*pairs["pool"]),
        )

    def _kind(self, targets: torch.Tensor) -> TargetKind:
        """What the targets are: what a named loss reads; of one's own labels if they are integers, else numbers."""
        if not isinstance(self.loss, str):
            return "numbers" if targets.is_floating_point() else "labels"
        if self.loss not in PLAIN_LOSSES:
            raise unknown_name("loss", self.loss, PLAIN_LOSSES)
        kinds = reads(self.loss)
        soft = targets.ndim == 2 and targets.shape[1] > 1 and targets.is_floating_point()
        return "distributions" if soft and "distributions" in kinds else kinds[0]

    @property
    def _family(self) -> LossFamily:
        return DataWeights(self.loss) if isinstance(self.loss, str) else OwnLoss(self.loss)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The optimiser, as a teaching environment is given it."""
        return optimizer_settings(self.optimizer, self.optimizer_kwargs)


class OwnLoss(DataWeights):
    """Weights of the pool's samples in a loss of one's own.

    Args:
        function: (outputs, targets) of a minibatch to the loss of each sample, (batch,).
    """

    def __init__(self, function: SampleLoss) -> None:
        if not callable(function):
            raise TypeError(
                f"loss must be a name or a function, found {checks.shown(function)}; expected one of "
                f"{', '.join(map(repr, PLAIN_LOSSES))}, or a function of (outputs, targets) to a loss for each sample"
            )
        super().__init__()
        self._sample_loss, self.reads = partial(_of_samples, function), ()

    def of_data(self) -> OwnLoss:
        """The family itself."""
        return self


def _of_samples(function: SampleLoss, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
    losses: Any = function(prediction.outputs, targets)
    if not isinstance(losses, torch.Tensor) or losses.shape != targets.shape[:1]:
        form = f"shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else checks.shown(losses)
        raise ValueError(
            f"the loss must give one number for each of {len(targets)} samples of a minibatch, found {form}; take no "
            'mean over them: reduction="none"'
        )
    return losses


def _mean_of(function: SampleLoss, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    # What the loss detaches is constant to a step, but not to what a test measures.
    with DifferentiableKernels(fused=False, opens=True):
        return _of_samples(function, Prediction(outputs), targets).mean()


_MEASURES: dict[TargetKind, Callable[[], Measure | None]] = {
    "labels": lambda: None,
    "numbers": Regression,
    "distributions": SoftLabels,
    "indicators": MultiLabel,
}
"""What the environment of each kind of targets is judged by; tests have an objective of their own."""
