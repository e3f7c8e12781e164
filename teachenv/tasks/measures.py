"""What a student is judged by: a real measure, and a smooth stand-in that a teacher can differentiate."""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from teachenv.tasks.targets import TargetKind


class Network(Protocol):
    """A student with its parameters, in evaluation mode."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """The student's outputs."""
        ...

    def module(self) -> AbstractContextManager[nn.Module]:
        """The student as a module that holds its parameters inside the block."""
        ...


_MADE_OF = {
    "assess": ("score", "features"),
    "objective_of": ("objective",),
    "judge": ("objective", "score", "features", "assess"),
    "report_of": ("report",),
}
"""Methods that give what several others do in one go, and those others."""


class Measure(ABC):
    """What a student is judged by: the real measure, and a smooth stand-in that a teacher can differentiate.

    Every method is a pure function of tensors whose shapes do not depend on values, so that it works under
    `torch.func.vmap` (many students at once) as well as under `torch.func.grad`. A measure of one's own is tried on a
    minibatch when an environment is made (`teachenv.trial`).

    A class may override `assess`, `judge`, `objective_of` or `report_of` to share work. A subclass that then overrides
    what these are made of, such as `score`, gets the general ones, which call it; what it calls in turn is what it
    inherits.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Drops an inherited `assess`, ... that does not call what this class overrides."""
        super().__init_subclass__(**options)
        for whole, parts in _MADE_OF.items():
            if any(_definer(cls, part) < _definer(cls, whole) for part in parts):
                setattr(cls, whole, _made_of_parts(whole, getattr(cls, whole)))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name per entry of `features`, used as names of observation fields."""
        return ()

    @abstractmethod
    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The smoothed J, larger is better: a scalar in the dtype of `outputs`, twice differentiable in them."""

    @abstractmethod
    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The real measure, larger is better: a scalar in [0, 1], in the dtype of `outputs`.

        One that says that a student is worse than knowing nothing may be negative (R²); observations show it as 0.
        """

    def features(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What else a teacher observes of the dev split: shape `(len(feature_names),)`, each entry in [0, 1]."""
        del targets
        return outputs.new_zeros(0)

    def assess(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score and features together; override it where they share work."""
        return self.score(outputs, targets), self.features(outputs, targets)

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of what `report` gives."""
        return ()

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Further measures for an evaluation; they may be slow, and need not be differentiable or batched."""
        del outputs, targets
        return {}

    # Of measures that ask more of a network than its outputs on the inputs.

    decodes: ClassVar[bool] = False
    """Whether the following need the network itself, which then is called outside of `torch.func.vmap`."""
    reports_in_parts: ClassVar[bool] = False
    """Whether `report_of` asks a network for its outputs on a part of the inputs at a time, since all take too much
    memory: each of many students is then reported of alone."""
    target_kind: ClassVar[TargetKind | None] = None
    """What the target of a sample is, see `teachenv.tasks.targets`, by which a task checks its data and an environment
    its loss; `"labels"` are counted, too. None: whatever the measure reads."""
    score_name: str = "accuracy"
    """What the score is called in observations, infos and evaluations: `train_accuracy`, `dev_accuracy`, ..."""

    def objective_of(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The objective of a network, differentiable in its parameters."""
        return self.objective(network(inputs), targets)

    def judge(
        self, network: Network, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Objective, score and features of a network, without gradients."""
        outputs = network(inputs)
        return self.objective(outputs, targets), *self.assess(outputs, targets)

    def report_of(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """The further measures of a network; by default `report` of its outputs."""
        return self.report(network(inputs), targets)


def _made_of_parts(whole: str, inherited: Callable[..., Any]) -> Callable[..., Any]:
    """A method that calls the parts, and for a part that calls it in turn the inherited one."""
    general, under_way = getattr(Measure, whole), threading.local()

    @functools.wraps(general)
    def method(self: Measure, *args: Any) -> Any:
        if id(self) in (active := vars(under_way).setdefault("measures", set())):
            return inherited(self, *args)
        active.add(id(self))
        try:
            return general(self, *args)
        finally:
            active.discard(id(self))

    return method


def _definer(kind: type, method: str) -> int:
    """Which of a class and its bases defines a method, by its place in the order in which they are searched."""
    return next(place for place, each in enumerate(kind.__mro__) if method in vars(each))


class ClassificationMeasure(Measure):
    """Accuracy, and its smooth relaxation by the softmax at a temperature τ.

    The objective is `J = mean_i softmax(z_i / τ)[y_i]`: the expected accuracy of a student that samples its answer
    at temperature τ. With τ = 1 it is L2T-DLF's relaxed measure M~ divided by the number of samples, which pays for
    confidence as well as for correctness; as τ → 0 it becomes the accuracy itself (ties aside), with gradients that
    live ever closer to the decision boundary.

    Args:
        num_classes: the number of classes C.
        temperature: temperature τ of the softmax, greater than 0.

    Raises:
        ValueError: an argument is outside its range.
    """

    target_kind = "labels"

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
        """`dev_precision_0` ... `dev_precision_{C-1}`, L2T-DLF's per-class features."""
        return tuple(f"dev_precision_{c}" for c in range(self.num_classes))

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean probability of the right class at temperature τ; logits `(n, C)`, class indices `(n,)`."""
        # Class-major: the CPU's softmax over a short last dimension is ten times slower than over the first.
        probabilities = torch.softmax(outputs.t().contiguous() / self.temperature, dim=0)
        return probabilities.gather(0, targets.unsqueeze(0)).mean()

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Fraction of samples whose largest logit is that of the right class."""
        return (outputs.argmax(dim=-1) == targets).to(outputs.dtype).mean()

    def features(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Precision per class, shape `(C,)`: of the samples predicted as c, the fraction that is c; 0 if none is."""
        return ClassificationMeasure.assess(self, outputs, targets)[1]

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
    """How often each class occurs, (num_classes,) int64; works under `torch.func.vmap`.

    Not in the dtype of a network's outputs: one by one, float32 counts to 2²⁴ and no further, bfloat16 to 256.

    Args:
        classes: class indices, `(n,)`, int64, from 0 on.
        num_classes: number of classes C.
        which: which of them count, `(n,)`, bool; None: all.
    """
    each = torch.ones_like(classes) if which is None else which.to(classes.dtype)
    return classes.new_zeros(num_classes).scatter_add(0, classes, each)
