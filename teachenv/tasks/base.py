"""What a student is trained on, and what it is judged by.

A ``Task`` is plain data: a labelled pool, a disjoint test split, and a ``Measure``. Episodes draw their train and dev
splits from the pool; the test split is for the final evaluation only.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from teachenv import checks
from teachenv.tasks.noise import corrupt_labels

if TYPE_CHECKING:
    from teachenv.tasks.decisions import Decisions

Split = tuple[torch.Tensor, torch.Tensor]
"""Inputs ``(n, ...)`` and targets ``(n, ...)`` of the same samples."""

VOID = -1
"""The label of what has none, in tasks with many decisions a sample; it counts for nothing."""


class Augmentation(Protocol):
    """A random change of a minibatch's inputs that keeps its targets right."""

    def __call__(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return augmented inputs of the same shape, dtype and device; all randomness comes from ``rng``."""
        ...


class Network(Protocol):
    """A student with its parameters, in evaluation mode."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Its outputs."""
        ...

    def module(self) -> AbstractContextManager[nn.Module]:
        """The student as a module that holds its parameters inside the block."""
        ...


class Measure(ABC):
    """What a student is judged by: the real measure, and a smooth stand-in that a teacher can differentiate.

    Every method is a pure function of tensors whose shapes do not depend on values, so that it works under
    ``torch.func.vmap`` (many students at once) as well as under ``torch.func.grad``.
    """

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name per entry of ``features``, used as names of observation fields."""
        return ()

    @abstractmethod
    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The smoothed measure J: a scalar, larger is better, twice differentiable in ``outputs``."""

    @abstractmethod
    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The real measure: a scalar in [0, 1], larger is better, in the dtype of ``outputs``."""

    def features(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What else a teacher observes of the dev split: shape ``(len(feature_names),)``, each entry in [0, 1]."""
        del targets
        return outputs.new_zeros(0)

    def assess(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score and features together; override it where they share work."""
        return self.score(outputs, targets), self.features(outputs, targets)

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of what ``report`` gives."""
        return ()

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Further measures for an evaluation; they may be slow, and need not be differentiable or batched."""
        del outputs, targets
        return {}

    # Of measures that ask more of a network than its outputs on the inputs.

    decodes: ClassVar[bool] = False
    """Whether the following need the network itself, which then is called outside of ``torch.func.vmap``."""
    score_name: ClassVar[str] = "accuracy"
    """What the score is called where it is observed: ``train_accuracy`` and ``dev_accuracy``."""

    def objective_of(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """``objective`` of a network: differentiable in its parameters."""
        return self.objective(network(inputs), targets)

    def judge(
        self, network: Network, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Objective, score and features of a network, without gradients."""
        outputs = network(inputs)
        return self.objective(outputs, targets), *self.assess(outputs, targets)

    def report_of(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """``report`` of a network."""
        return self.report(network(inputs), targets)


class ClassificationMeasure(Measure):
    """Accuracy, and its smooth relaxation by the softmax at a temperature τ.

    The objective is ``J = mean_i softmax(z_i / τ)[y_i]``: the expected accuracy of a student that samples its answer
    at temperature τ. With τ = 1 it is L2T-DLF's relaxed measure M~ divided by the number of samples, which pays for
    confidence as well as for correctness; as τ → 0 it becomes the accuracy itself (ties aside), with gradients that
    live ever closer to the decision boundary.

    Args:
        num_classes: The number of classes C.
        temperature: τ, greater than 0.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(self, num_classes: int, temperature: float = 0.2) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: classification needs at least 2 classes")
        if not 0.0 < temperature < float("inf"):
            raise ValueError(
                f"temperature is {temperature!r}: expected a finite number above 0, e.g. 0.2 (1 = L2T-DLF)"
            )
        self.num_classes = num_classes
        self.temperature = temperature

    def __repr__(self) -> str:
        return f"ClassificationMeasure(num_classes={self.num_classes}, temperature={self.temperature})"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """``dev_precision_0`` ... ``dev_precision_{C-1}``, L2T-DLF's per-class features."""
        return tuple(f"dev_precision_{c}" for c in range(self.num_classes))

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean probability of the right class at temperature τ; logits ``(n, C)``, class indices ``(n,)``."""
        # Class-major: the CPU's softmax over a short last dimension is ten times slower than over the first.
        probabilities = torch.softmax(outputs.t().contiguous() / self.temperature, dim=0)
        return probabilities.gather(0, targets.unsqueeze(0)).mean()

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Fraction of samples whose largest logit is that of the right class."""
        return (outputs.argmax(dim=-1) == targets).to(outputs.dtype).mean()

    def features(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Precision per class, shape ``(C,)``: of the samples predicted as c, the fraction that is c; 0 if none is."""
        return self.assess(outputs, targets)[1]

    def assess(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score and features from one look at the predictions."""
        # Not argmax: of a short row the CPU finds the largest with its index faster than the index alone.
        predictions = outputs.max(dim=-1).indices
        right = predictions == targets
        counts = class_counts(predictions, self.num_classes)
        hits = class_counts(predictions, self.num_classes, right).to(outputs.dtype)
        # a class that is never predicted: 0 right of 1, not 0 / 0
        return right.to(outputs.dtype).mean(), hits / counts.clamp(min=1)


def class_counts(classes: torch.Tensor, num_classes: int, which: torch.Tensor | None = None) -> torch.Tensor:
    """How often each class occurs, (num_classes,) int64; works under ``torch.func.vmap``.

    Not in the dtype of a network's outputs: one by one, float32 counts to 2²⁴ and no further, bfloat16 to 256.

    Args:
        classes: ``(n,)``, int64, from 0 on.
        num_classes: C.
        which: ``(n,)``, bool, which of them count; None: all.
    """
    each = torch.ones_like(classes) if which is None else which.to(classes.dtype)
    return classes.new_zeros(num_classes).scatter_add(0, classes, each)


@dataclass(frozen=True, eq=False)  # tensors have no single truth value, so two tasks are equal only if identical
class Task:
    """A dataset cut into a labelled pool and a disjoint test split, ready for a student.

    NumPy arrays, and what converts to them (lists, data frames), are accepted in place of tensors; integer targets
    become int64. Labels of ordinary classification may stand in a column, (n, 1), and be whole floating-point numbers.

    Attributes:
        name: The setting's name, e.g. ``"digits"`` or ``"digits-noisy-40"``.
        dataset: What the data really is, e.g. ``"cifar10"``, ``"cifar10-subset-20000"``, ``"synthetic"``.
        pool: Labelled samples that episodes draw train and dev splits from: inputs ``(n, ...)``, floating point (or
            int64 token indices), and targets ``(n, ...)``, int64 class indices or floating point.
        test: Samples for the final evaluation, disjoint from the pool, of the same trailing shapes and dtypes.
        num_outputs: Number of classes (or of regression outputs).
        measure: What a student is judged by; None stands for that of ``decisions`` at the environment's temperature:
            ``ClassificationMeasure`` for ordinary classification.
        augment: Augmentation of each training minibatch, used only when the environment asks for it.
        decisions: How a student's outputs are read as classifications; None: one for each sample. With them integer
            targets may be ``VOID``, too.
        lengths: Of the pool's samples, ``(n,)``: minibatches are then of samples of about one length.
        trim: Takes from a minibatch, or from a batch of them, what all of its samples only pad; leading dimensions may
            be any.

    Raises:
        ValueError: If the parts do not fit together, or a value is not finite or not a class index.
        TypeError: If inputs or targets have a dtype that no student can read.
    """

    name: str
    dataset: str
    pool: Split
    test: Split
    num_outputs: int
    measure: Measure | None = None
    augment: Augmentation | None = None
    decisions: Decisions | None = None
    lengths: npt.NDArray[np.int64] | None = None
    trim: Callable[[torch.Tensor, torch.Tensor], Split] | None = None

    def __post_init__(self) -> None:
        for part in ("name", "dataset"):
            if not isinstance(getattr(self, part), str) or not getattr(self, part):
                raise ValueError(f"a task's {part} must be a text, found {checks.shown(getattr(self, part))}")
        where = f"task {self.name!r}"
        object.__setattr__(self, "num_outputs", checks.integer(f"{where}: num_outputs", self.num_outputs, least=1))
        if self.measure is not None and not isinstance(self.measure, Measure):
            raise TypeError(
                f"{where}: measure must be None or an instance of teachenv.Measure, found {checks.shown(self.measure)}"
            )
        pool, test = (self._checked(getattr(self, part), f"{where}, {part}") for part in ("pool", "test"))
        if self.lengths is not None and np.shape(self.lengths) != (len(pool[0]),):
            raise ValueError(
                f"{where}: lengths must be one number for each of the {len(pool[0])} samples of the pool, found shape "
                f"{np.shape(self.lengths)}"
            )
        for part, in_pool, in_test in zip(("inputs", "targets"), pool, test, strict=True):
            found = [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in (in_pool, in_test)]
            if found[0] != found[1]:
                raise ValueError(
                    f"task {self.name!r}: {part} of one sample are {found[0][0]} {found[0][1]} in the pool but "
                    f"{found[1][0]} {found[1][1]} in test; expected both splits to be prepared in the same way"
                )
        object.__setattr__(self, "pool", pool)  # the dataclass is frozen for everybody else
        object.__setattr__(self, "test", test)

    def _checked(self, split: Any, where: str) -> Split:
        """A split as tensors, its targets as the task needs them."""
        inputs, targets = _checked_split(split, where)
        judged = self.measure is None or isinstance(self.measure, ClassificationMeasure)
        if self.decisions is None and judged:
            targets = _labels(targets, where)
        return inputs, _checked_targets(targets, where, self.num_outputs, 0 if self.decisions is None else VOID)

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Task:
        """Return the task with inputs and floating-point targets in ``dtype``, and everything on ``device``.

        Integers (class indices, tokens) keep their dtype.

        Raises:
            TypeError: If ``dtype`` is not a floating-point dtype.
        """
        if not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}: expected a floating-point dtype such as torch.float32")

        def cast(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        (pool_inputs, pool_targets), (test_inputs, test_targets) = self.pool, self.test
        return dataclasses.replace(
            self, pool=(cast(pool_inputs), cast(pool_targets)), test=(cast(test_inputs), cast(test_targets))
        )

    def with_label_noise(self, rate: float, kind: str, seed: int) -> Task:
        """Return the task with a part of the pool's labels made wrong; test stays clean.

        Args:
            rate: Fraction of wrong labels in ``[0, 1)``; 0 returns the task itself.
            kind: ``"pair"`` (named ``<name>-noisy-<percent>``) or ``"symmetric"`` (``<name>-symmetric-<percent>``);
                see ``teachenv.tasks.noise.corrupt_labels``.
            seed: Decides which labels change; the same seed always gives the same pool.

        Raises:
            ValueError: If ``rate`` or ``kind`` is not as above.
            TypeError: If the targets are not class indices.
        """
        if self.decisions is not None and rate != 0.0:
            raise ValueError(
                f"label noise changes the one label of a sample, but samples of task {self.name!r} have many; leave it "
                f"at 0, found {rate}"
            )
        inputs, targets = self.pool
        corrupted = corrupt_labels(targets, rate, kind, self.num_outputs, seed)
        if rate == 0.0:
            return self
        suffix = {"pair": "noisy", "symmetric": "symmetric"}[kind]
        return dataclasses.replace(self, name=f"{self.name}-{suffix}-{100 * rate:g}", pool=(inputs, corrupted))

    def subset_pool(self, size: int, seed: int) -> Task:
        """Return the task with a random part of the pool, drawn without replacement; test stays whole.

        Raises:
            ValueError: If the pool has fewer than ``size`` samples, or ``size`` is below 1.
        """
        inputs, targets = self.pool
        index = torch.from_numpy(subset_indices(len(inputs), size, seed)).to(inputs.device)
        lengths = None if self.lengths is None else self.lengths[index.cpu().numpy()]
        return dataclasses.replace(self, pool=(inputs[index], targets[index]), lengths=lengths)


def subset_indices(total: int, size: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw ``size`` different indices in ``[0, total)``, in random order.

    Loaders use it before they convert pixels to floats, which gives what ``Task.subset_pool`` gives for less memory.

    Raises:
        ValueError: If ``size`` is not in ``[1, total]``.
    """
    if not 1 <= size <= total:
        raise ValueError(f"pool size is {size}: expected 1 to {total}, the number of labelled samples there are")
    return np.random.default_rng(seed).permutation(total)[:size]


def _checked_split(split: Any, where: str) -> Split:
    """Return the split as tensors, or raise an error that names ``where`` and what is wrong with it."""
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise TypeError(f"{where}: expected a pair (inputs, targets), found {type(split).__name__}")
    inputs, targets = (
        _tensor(part, f"{where}: {name}") for part, name in zip(split, ("inputs", "targets"), strict=True)
    )
    if inputs.ndim < 1 or targets.ndim < 1 or len(inputs) != len(targets):
        raise ValueError(
            f"{where}: inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} must have the same number of "
            f"samples as their first dimension"
        )
    if len(inputs) == 0:
        raise ValueError(f"{where}: no samples; expected at least one")
    if not inputs.is_floating_point() and inputs.dtype != torch.int64:
        raise TypeError(
            f"{where}: inputs are {inputs.dtype}; expected a floating-point dtype (int64 for token indices): scale "
            f"pixels to floats first"
        )
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        sample = int((~torch.isfinite(inputs)).reshape(len(inputs), -1).any(1).nonzero()[0])
        raise ValueError(
            f"{where}: inputs contain NaN or infinity, first in sample {sample}; expected finite numbers: clean "
            f"the data, and do not divide by the deviation of a channel that is constant"
        )
    return inputs, targets


def _tensor(part: Any, where: str) -> torch.Tensor:
    """What can be read as an array, as a tensor without a graph; of NumPy's arrays whatever their order and bytes."""
    if isinstance(part, torch.Tensor):
        if part.layout != torch.strided:
            raise TypeError(f"{where} are a sparse tensor; expected a dense one: call to_dense() first")
        return part.detach()
    try:
        array = np.asarray(part)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{where} make no array ({error}); expected rows of one length") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{where} are of dtype {array.dtype}; expected numbers: np.asarray(data, dtype=np.float32)")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # PyTorch has none so long
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    return torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array)


def _labels(targets: torch.Tensor, where: str) -> torch.Tensor:
    """Labels of ordinary classification: a column of them as a row, and whole floating-point numbers as integers."""
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        raise ValueError(
            f"{where}: targets have shape {tuple(targets.shape)}; expected one class index a sample, (n,): "
            "targets.argmax(1) makes them of one-hot rows; other targets need a measure of the task's own"
        )
    if not targets.is_floating_point():
        return targets
    broken = targets[~((targets == targets.round()) & (targets.abs() < 2**53))]  # NaN and infinity among them
    if len(broken):
        raise ValueError(
            f"{where}: targets such as {float(broken[0]):g} are no class indices; number them from 0, or give the "
            "task a measure of its own"
        )
    return targets.to(torch.int64)


def _checked_targets(targets: torch.Tensor, where: str, num_outputs: int, least: int) -> torch.Tensor:
    """Return class indices as int64, or floating-point targets as they are, or raise."""
    if targets.is_floating_point():
        if not bool(torch.isfinite(targets).all()):
            raise ValueError(f"{where}: targets contain NaN or infinity; expected finite numbers, clean the data first")
        return targets
    if targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(
            f"{where}: targets are {targets.dtype}; expected int64 class indices or floating point: convert them"
        )
    targets = targets.to(torch.int64)
    low, high = int(targets.min()), int(targets.max())
    if low < least or high >= num_outputs:
        raise ValueError(
            f"{where}: class indices lie in [{low}, {high}], expected [{least}, {num_outputs}); number the classes "
            f"from 0 or correct num_outputs"
        )
    return targets
