"""What a student is trained on: the data of a task, and how students are judged on it.

A `Task` is plain data: a labelled pool, a disjoint test split, and a `Measure`. Episodes draw their train and dev
splits from the pool, or have a trusted dev set beside it; the test split is for the final evaluation only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from teachenv import checks
from teachenv.frozen import with_values
from teachenv.randomness import Purpose, generator
from teachenv.tasks.columns import Columns, columns_of
from teachenv.tasks.decisions import Decisions
from teachenv.tasks.domains import Domains
from teachenv.tasks.imbalance import imbalanced_indices
from teachenv.tasks.labels import numbered
from teachenv.tasks.measures import Measure
from teachenv.tasks.noise import corrupt_labels
from teachenv.tasks.packing import Packing
from teachenv.tasks.reading import pair_of
from teachenv.tasks.regression import Regression
from teachenv.tasks.splits import Split, as_bytes, checked_split, packing_of, shared_samples
from teachenv.tasks.targets import CHECKS, TargetKind, indices, likely_kind, outputs_of

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

    NumPy arrays, and what converts to them (lists, data frames), are accepted in place of tensors, and a Dataset or a
    DataLoader in place of a pair, which is then read once. Integer targets become int64. Labels of ordinary
    classification may stand in a column, (n, 1), be whole floating-point numbers, or texts, which are numbered in the
    order of `classes`. `docs/own_data.md` has an example of each.

    Arrays are copied, so that what becomes of them later does not change the task; 100 MB take a quarter of a second
    and as much memory again. Tensors are not: `torch.from_numpy(array)` spares that where nobody changes the data.

    Attributes:
        name: the setting's name, e.g. `"digits"` or `"digits-noisy-40"`.
        dataset: what the data really is, e.g. `"cifar10"`, `"cifar10-subset-20000"`, `"synthetic"`.
        pool: labelled samples that episodes draw train and dev splits from, or a Dataset or DataLoader of such. Inputs
            `(n, ...)` are floating point, integers for token indices, or uint8 for pixels, which stay so in memory and
            come to a student as x / 255, or a dictionary of such, of which a network gets each by its name; targets
            `(n, ...)` are class indices or floating point.
        test: samples for the final evaluation, disjoint from the pool, of the same trailing shapes and dtypes.
        num_outputs: number of classes (or of regression outputs); None: as many classes as there are names, or one more
            than the largest label if each smaller one occurs, or as many outputs as a sample's target has numbers.
        measure: what a student is judged by; None stands for that of `decisions` at the environment's temperature:
            `ClassificationMeasure` for ordinary classification. Where targets are floating-point numbers it is
            `Regression()` if they can be no labels or `num_outputs` is 1. `SoftLabels()` and `MultiLabel()` are for
            class probabilities and for multi-label targets.
        augment: augmentation of each training minibatch, used only when the environment asks for it. Inputs that are a
            dictionary come to it as one.
        decisions: how a student's outputs are read as classifications; None: one for each sample. With them integer
            targets may be `VOID`, too.
        lengths: the length of each of the pool's samples, and then of dev's, `(n,)`; a minibatch then has samples of
            about one length.
        trim: takes from a minibatch, or from a batch of them, what all of its samples only pad: (inputs, targets) to
            (inputs, targets) of all samples and the same dtypes. It draws nothing, and leading dimensions may be any:
            it counts them from the end.
        dev: a trusted dev set: labelled samples that are not in the pool, of the same trailing shapes and dtypes, on
            which J is measured. Label noise leaves them as they are. None: episodes draw dev from the pool.
        classes: names of the classes, texts, by the classes' numbers. None: if labels are texts, those of the pool in
            alphabetical order, else none.
        packing: how inputs that are a dictionary lie in one tensor, which they are in `pool`, `test` and `dev` then:
            `packing.unpack(task.test[0])` has them by name. It follows from the pool, and need not be given.
        domains: which domain each of the pool's samples is of, and then each of dev's, for losses that weigh domains
            (`"domain-weights"`), and which of them were corrupted; None: samples have no domains.
        columns: the names of the columns of the pool's inputs and targets, where these are tables; other tables need
            the same. They follow from the pool, and need not be given; `pool_columns` has them then. Tasks are not
            compared by them: the same numbers are the same task.

    Raises:
        ValueError: the parts do not fit together, tables have other columns than the pool's, dev has samples of the
            pool, a value is not finite or not a class index, a label is none of the classes, or a Dataset answers
            differently each time.
        TypeError: inputs or targets have a dtype that no student can read.
    """

    name: str
    dataset: str
    pool: Split
    test: Split
    num_outputs: int = None  # type: ignore[assignment] # a number, once the data has been looked at
    measure: Measure | None = None
    augment: Augmentation | None = None
    decisions: Decisions | None = None
    lengths: npt.NDArray[np.int64] | None = None
    trim: Callable[[torch.Tensor, torch.Tensor], Split] | None = None
    dev: Split | None = None
    classes: tuple[str, ...] | None = None
    packing: Packing | None = None
    domains: Domains | None = None
    columns: InitVar[Columns | None] = None  # no field, which would be a part of fingerprints

    def __post_init__(self, columns: Columns | None) -> None:
        for part in ("name", "dataset"):
            if not isinstance(getattr(self, part), str) or not getattr(self, part):
                raise ValueError(f"a task's {part} must be a text, found {checks.shown(getattr(self, part))}")
        where = f"task {self.name!r}"
        if self.num_outputs is not None:
            self._set("num_outputs", checks.integer(f"{where}: num_outputs", self.num_outputs, least=1))
        if self.measure is not None and not isinstance(self.measure, Measure):
            raise TypeError(
                f"{where}: measure must be None or an instance of teachenv.Measure, found {checks.shown(self.measure)}"
            )
        parts = ("pool", "test") if self.dev is None else ("pool", "test", "dev")
        pairs = {part: pair_of(getattr(self, part), f"{where}, {part}") for part in parts}
        of_pool = columns_of(*pairs["pool"]) or columns or {}
        self._set("columns", of_pool)
        pairs, classes = numbered(pairs, self.classes, where)
        self._set("classes", classes)
        if self.packing is None:
            self._set("packing", packing_of(pairs["pool"][0], f"{where}, pool"))
        if self.packing is not None and self.trim is not None:
            raise ValueError(
                f"{where}: trim takes samples of one input, found {self.packing.names}; leave it out, and pad less"
            )
        for part, pair in pairs.items():
            self._set(part, checked_split(pair, f"{where}, {part}", self.packing, of_pool))
        targets = self.pool[1]
        if self.measure is None and self.decisions is None and likely_kind(targets, self.num_outputs) == "numbers":
            self._set("measure", Regression())
        for part in parts:
            inputs, targets = getattr(self, part)
            self._set(part, (inputs, self._checked(targets, f"{where}, {part}")))
            self._check_form(part, getattr(self, part))
        given: int | None = self.num_outputs
        if given is None:
            splits = [getattr(self, part)[1] for part in parts]
            if self.classes is not None and not splits[0].is_floating_point():
                splits.append(torch.arange(len(self.classes)))  # of which some may have no sample
            self._set("num_outputs", outputs_of(splits, self.target_kind, where))
        self._check_classes(where)
        self._check_known(where)
        if self.dev is not None and (shared := shared_samples(self.dev[0], self.pool[0])):
            raise ValueError(
                f"{where}: {len(shared)} of the {len(self.dev[0])} samples of dev are in the pool too, the first is "
                f"dev's sample {shared[0]}; expected none: take them out of one of the two"
            )

    def _check_form(self, part: str, split: Split) -> None:
        """Refuses a split whose samples have another form than the pool's."""
        for what, in_pool, here in zip(("inputs", "targets"), self.pool, split, strict=True):
            forms = [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in (in_pool, here)]
            if forms[0] != forms[1]:
                raise ValueError(
                    f"task {self.name!r}: {what} of one sample are {forms[0][0]} {forms[0][1]} in the pool but "
                    f"{forms[1][0]} {forms[1][1]} in {part}; expected both splits to be prepared in the same way"
                )

    @property
    def target_kind(self) -> TargetKind | None:
        """What a sample's target is; None: there are many decisions a sample, or what a measure of one's own reads."""
        if self.decisions is not None:
            return None
        return "labels" if self.measure is None else self.measure.target_kind

    @property
    def pool_columns(self) -> Columns:
        """The names of the columns of the pool's tables, by `"inputs"`, `"targets"` or an input's name; else none."""
        columns: Columns = vars(self)["columns"]
        return columns

    def named(self, outputs: Any) -> npt.NDArray[Any]:
        """The class of each sample's largest output, by its name; by its number where classes have no names.

        Args:
            outputs: what `env.unwrapped.predict` returns, (n, classes).
        """
        numbers = torch.as_tensor(outputs).argmax(-1).cpu().numpy()
        return numbers if self.classes is None else np.asarray(self.classes)[numbers]

    def _set(self, part: str, value: Any) -> None:
        object.__setattr__(self, part, value)  # the dataclass is frozen for everybody else

    def _check_classes(self, where: str) -> None:
        """Refuses names of classes that there are not."""
        if self.classes is None:
            return
        if self.target_kind == "numbers" or len(self.classes) != self.num_outputs:
            problem = "targets are for regression" if self.target_kind == "numbers" else f"found {self.num_outputs}"
            raise ValueError(
                f"{where}: classes has {len(self.classes)} names, expected one for each of num_outputs classes, "
                f"{problem}; correct one of the two"
            )

    def _check_known(self, where: str) -> None:
        """Refuses lengths and domains of other samples than the pool's and dev's."""
        if not isinstance(self.domains, Domains | None):
            raise TypeError(f"{where}: domains must be a Domains or None, found {checks.shown(self.domains)}")
        samples = len(self.pool[0]) + (0 if self.dev is None else len(self.dev[0]))
        of_samples = None if self.domains is None else self.domains.of_samples
        for part, known in (("lengths", self.lengths), ("domains", of_samples)):
            if known is not None and np.shape(known) != (samples,):
                raise ValueError(
                    f"{where}: {part} must be one number for each of the {samples} samples of the pool"
                    f"{'' if self.dev is None else ' and of dev'}, found shape {np.shape(known)}"
                )

    def _checked(self, targets: torch.Tensor, where: str) -> torch.Tensor:
        """Targets in the form that the task needs."""
        if self.target_kind is not None:
            return CHECKS[self.target_kind](targets, where, self.num_outputs)
        return indices(targets, where, self.num_outputs, 0 if self.decisions is None else VOID)

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Task:
        """Returns the task with inputs and floating-point targets in `dtype`, and everything on `device`.

        Integers (class indices, tokens) keep their dtype.

        Raises:
            TypeError: `dtype` is not a floating-point dtype.
            ValueError: a number is too large for it.
        """
        if not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}: expected a floating-point dtype such as torch.float32")
        if self.packing is not None:
            self.packing.check_dtype(dtype)

        parts = {"pool": self.pool, "test": self.test} | ({} if self.dev is None else {"dev": self.dev})
        cast = {}
        for part, split in parts.items():
            tensors = tuple(t.to(device=device, dtype=dtype if t.is_floating_point() else None) for t in split)
            where = f"task {self.name!r} in {dtype}, {part}"
            inputs, targets = checked_split(tensors, where, self.packing)  # a number may be too large for the dtype
            cast[part] = inputs, self._checked(targets, where)
        return self.derived(**cast)

    def derived(self, **parts: Any) -> Task:
        """Returns the task with other parts, which are made of its own ones and are not checked again.

        Args:
            **parts: values of attributes by name.
        """
        return with_values(self, **parts)

    def with_label_noise(self, rate: float, kind: str, seed: int) -> Task:
        """Returns the task with a part of the pool's labels made wrong; test and a trusted dev set stay clean.

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
        return self.derived(name=f"{self.name}-{suffix}-{100 * rate:g}", pool=(inputs, corrupted))

    def subset_pool(self, size: int, seed: int) -> Task:
        """Returns the task with a random part of the pool, drawn without replacement; dev and test stay whole.

        Raises:
            ValueError: the pool has fewer than `size` samples, or `size` is below 1.
        """
        return self._with_pool_of(subset_indices(len(self.pool[0]), size, seed))

    def _with_pool_of(self, kept: npt.NDArray[np.int64], **parts: Any) -> Task:
        """The task with some of the pool's samples, what is known of them, and other parts."""
        total = len(self.pool[0])
        order = np.concatenate([kept, np.arange(total, total + (0 if self.dev is None else len(self.dev[0])))])
        return self.derived(pool=_samples(self.pool, kept), **self._known_of(order), **parts)

    def _known_of(self, order: npt.NDArray[np.int64]) -> dict[str, Any]:
        """What is known of each labelled sample, for samples of the pool and of dev in another order."""
        return {
            "lengths": None if self.lengths is None else self.lengths[order],
            "domains": None if self.domains is None else self.domains.at(order),
        }

    def with_dev(self, size: int, seed: int) -> Task:
        """Returns the task, named `<name>-dev-<size>`, with a random part of the pool as its trusted dev set.

        Label noise that comes afterwards leaves dev's labels right. Samples whose inputs the pool has twice stay there.
        The draw is uniform; a dev set with as many samples of each class is given as `Task(dev=...)`.

        Raises:
            ValueError: the task has a trusted dev set, or `size` is below 1 or leaves no sample in the pool.
        """
        if self.dev is not None:
            raise ValueError(f"task {self.name!r} has a trusted dev set already; leave trusted_dev out")
        samples = [hash(sample) for sample in as_bytes(self.pool[0])]
        count = Counter(samples)
        single = np.array([number for number, sample in enumerate(samples) if count[sample] == 1], dtype=np.int64)
        most = min(len(single), len(samples) - 1)
        if not 1 <= size <= most:
            raise ValueError(
                f"trusted_dev is {size}: expected 1 to {most}, since the pool of task {self.name!r} has {len(samples)} "
                f"samples, {len(single)} of them once, and keeps at least one"
            )
        chosen = generator(seed, Purpose.TRUSTED_DEV).permutation(single)[:size]
        kept = np.setdiff1d(np.arange(len(samples)), chosen)
        return self.derived(
            name=f"{self.name}-dev-{size}",
            pool=_samples(self.pool, kept),
            dev=_samples(self.pool, chosen),
            **self._known_of(np.concatenate([kept, chosen])),
        )

    def with_imbalance(self, factor: float, seed: int) -> Task:
        """Returns the task, named `<name>-imbalanced-<factor>`, with a pool whose classes are ever rarer.

        Class c of C keeps round(n · factor^(−c / (C − 1))) samples and at least one, drawn at random: as in long-tailed
        CIFAR (Cui et al. 2019), where n is the size of every class. Here n is the largest for which each class has as
        many as it is to keep. Test and a trusted dev set stay as they are.

        Args:
            factor: how many times as frequent the first class is as the last, at least 1; 1 returns the task itself.
            seed: decides which samples are kept.

        Raises:
            ValueError: the factor is below 1, a class has no sample in the pool, there is only one class, or samples
                have many labels.
            TypeError: the targets are not class indices.
        """
        if factor == 1.0:
            return self
        if self.decisions is not None:
            raise ValueError(
                f"imbalance makes some classes of samples rare, but samples of task {self.name!r} have many labels; "
                f"leave it at 1, found {factor}"
            )
        kept = imbalanced_indices(self.pool[1], self.num_outputs, factor, seed)
        return self._with_pool_of(kept, name=f"{self.name}-imbalanced-{factor:g}")


def _samples(split: Split, indices: npt.NDArray[np.int64]) -> Split:
    inputs, targets = split
    index = torch.from_numpy(indices).to(inputs.device)
    return inputs[index], targets[index]


def subset_indices(total: int, size: int, seed: int) -> npt.NDArray[np.int64]:
    """Draws `size` different indices in `[0, total)`, in random order.

    Loaders use it before they convert pixels to floats, which gives what `Task.subset_pool` gives for less memory.

    Raises:
        ValueError: `size` is not in `[1, total]`.
    """
    if not 1 <= size <= total:
        raise ValueError(f"pool size is {size}: expected 1 to {total}, the number of labelled samples there are")
    return np.random.default_rng(seed).permutation(total)[:size]
