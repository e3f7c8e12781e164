"""What a student is trained on: the data of a task, and how students are judged on it.

A `Task` is plain data: a labelled pool, a disjoint test split, and a `Measure`. Episodes draw their train and dev
splits from the pool; the test split is for the final evaluation only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from teachenv import checks
from teachenv.tasks.decisions import Decisions
from teachenv.tasks.measures import Measure
from teachenv.tasks.noise import corrupt_labels
from teachenv.tasks.splits import Split, checked_split, checked_targets, labels_of

VOID = -1
"""The label of what has none, in tasks with many decisions a sample; it counts for nothing."""


class Augmentation(Protocol):
    """A random change of a minibatch's inputs that keeps its targets right."""

    def __call__(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Returns augmented inputs of the same shape, dtype and device, a function of the inputs and of `rng` alone."""
        ...


@dataclass(frozen=True, eq=False)  # tensors have no single truth value, so two tasks are equal only if identical
class Task:
    """A dataset cut into a labelled pool and a disjoint test split, ready for a student.

    NumPy arrays, and what converts to them (lists, data frames), are accepted in place of tensors; integer targets
    become int64. Labels of ordinary classification may stand in a column, (n, 1), and be whole floating-point numbers.

    Arrays are copied, so that what becomes of them later does not change the task; 100 MB take a quarter of a second
    and as much memory again. Tensors are not: `torch.from_numpy(array)` spares that where nobody changes the data.

    Attributes:
        name: the setting's name, e.g. `"digits"` or `"digits-noisy-40"`.
        dataset: what the data really is, e.g. `"cifar10"`, `"cifar10-subset-20000"`, `"synthetic"`.
        pool: labelled samples that episodes draw train and dev splits from: inputs `(n, ...)`, floating point (or
            int64 token indices), and targets `(n, ...)`, int64 class indices or floating point.
        test: samples for the final evaluation, disjoint from the pool, of the same trailing shapes and dtypes.
        num_outputs: number of classes (or of regression outputs).
        measure: what a student is judged by; None stands for that of `decisions` at the environment's temperature:
            `ClassificationMeasure` for ordinary classification.
        augment: augmentation of each training minibatch, used only when the environment asks for it.
        decisions: how a student's outputs are read as classifications; None: one for each sample. With them integer
            targets may be `VOID`, too.
        lengths: the length of each of the pool's samples, `(n,)`; a minibatch then has samples of about one length.
        trim: takes from a minibatch, or from a batch of them, what all of its samples only pad: (inputs, targets) to
            (inputs, targets) of all samples and the same dtypes. It draws nothing, and leading dimensions may be any:
            it counts them from the end.

    Raises:
        ValueError: the parts do not fit together, or a value is not finite or not a class index.
        TypeError: inputs or targets have a dtype that no student can read.
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
            forms = [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in (in_pool, in_test)]
            if forms[0] != forms[1]:
                raise ValueError(
                    f"task {self.name!r}: {part} of one sample are {forms[0][0]} {forms[0][1]} in the pool but "
                    f"{forms[1][0]} {forms[1][1]} in test; expected both splits to be prepared in the same way"
                )
        object.__setattr__(self, "pool", pool)  # the dataclass is frozen for everybody else
        object.__setattr__(self, "test", test)

    def _checked(self, split: Any, where: str) -> Split:
        """A split as tensors, its targets as the task needs them."""
        inputs, targets = checked_split(split, where)
        if self.decisions is None and (self.measure is None or self.measure.of_labels):
            targets = labels_of(targets, where)
        return inputs, checked_targets(targets, where, self.num_outputs, 0 if self.decisions is None else VOID)

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Task:
        """Returns the task with inputs and floating-point targets in `dtype`, and everything on `device`.

        Integers (class indices, tokens) keep their dtype.

        Raises:
            TypeError: `dtype` is not a floating-point dtype.
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
        """Returns the task with a part of the pool's labels made wrong; test stays clean.

        Args:
            rate: fraction of wrong labels in `[0, 1)`; 0 returns the task itself.
            kind: `"pair"` (named `<name>-noisy-<percent>`) or `"symmetric"` (`<name>-symmetric-<percent>`);
                see `teachenv.tasks.noise.corrupt_labels`.
            seed: decides which labels change; the same seed always gives the same pool.

        Raises:
            ValueError: `rate` or `kind` is not as above.
            TypeError: the targets are not class indices.
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
        """Returns the task with a random part of the pool, drawn without replacement; test stays whole.

        Raises:
            ValueError: the pool has fewer than `size` samples, or `size` is below 1.
        """
        inputs, targets = self.pool
        index = torch.from_numpy(subset_indices(len(inputs), size, seed)).to(inputs.device)
        lengths = None if self.lengths is None else self.lengths[index.cpu().numpy()]
        return dataclasses.replace(self, pool=(inputs[index], targets[index]), lengths=lengths)


def subset_indices(total: int, size: int, seed: int) -> npt.NDArray[np.int64]:
    """Draws `size` different indices in `[0, total)`, in random order.

    Loaders use it before they convert pixels to floats, which gives what `Task.subset_pool` gives for less memory.

    Raises:
        ValueError: `size` is not in `[1, total]`.
    """
    if not 1 <= size <= total:
        raise ValueError(f"pool size is {size}: expected 1 to {total}, the number of labelled samples there are")
    return np.random.default_rng(seed).permutation(total)[:size]
