"""What is learned, and by which networks: the base of the problems of language and of images."""

from __future__ import annotations

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn

from meta import imitability

Role = Literal["teacher", "student"]
Split = Literal["train", "valid", "test"]
Batch = tuple[Any, torch.Tensor]
"""(inputs, targets)."""


class Reading(NamedTuple):
    """A network's outputs on a batch.

    Attributes:
        logits: (..., classes), of any leading shape.
        penalty: to be added to the loss, or None.
    """

    logits: torch.Tensor
    penalty: torch.Tensor | None = None


class Reader:
    """How a network is called; readers of text remember what came before."""

    def __call__(self, network: nn.Module, inputs: Any) -> Reading:
        """Calls a network."""
        return Reading(network(inputs))

    def state(self) -> Any:
        """What the reader remembers, given the networks in the order of their first use."""
        return None

    def load(self, state: Any) -> None:
        """Goes on from a `state`."""


@dataclass(frozen=True, kw_only=True)
class Problem(ABC):
    """A data set and how models learn it; processes to which it is handed read the data themselves.

    Attributes:
        metric: what `evaluate` gives: `"perplexity"` or `"accuracy"`.
        higher_is_better: whether more of it is better.
        epochs: how many the teacher has.
        learning_rate: the first one of teacher and students.
        optimizer_name: `"sgd"`, or `"adam"` (with the weight decay of AdamW).
        momentum: momentum of `"sgd"`.
        weight_decay: weight decay of either optimiser.
        clip: the largest norm of a gradient; None: any.
        schedule: how learning rates change; see `teachenv.schedules`.
        patience: epochs without progress after which weights are averaged (NT-ASGD); None: never.
        data_root: where the files are.
    """

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    nesterov: ClassVar[bool]
    """Whether the momentum has Nesterov's form."""
    epochs: int
    learning_rate: float
    optimizer_name: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float | None = None
    schedule: str = "cosine"
    patience: int | None = None
    data_root: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The options by name, without where the data lies on this machine."""
        return {key: value for key, value in asdict(self).items() if key != "data_root"}

    @property
    @abstractmethod
    def dataset(self) -> str:
        """What the data really is."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The teacher's network in words."""

    @property
    def precision(self) -> str:
        """The precision of networks on this machine; it is no option, see `teachenv.experiment.precision`."""
        return "float32"

    @abstractmethod
    def with_students(self, share: float) -> Problem:
        """The problem with students of the model's kind, whose width is such that they have a share of its parameters.

        Args:
            share: the share that is wanted; the students' is the nearest one that a whole width has.

        Raises:
            ValueError: networks of this kind have no width to choose.
        """

    def changed(self, options: Mapping[str, Any]) -> Problem:
        """The problem with other options: attributes of the problem, and two more.

        - `dropout`: the share of units that its networks drop;
        - `decay`: the share by which weight decay shrinks the weights in a step at the first learning rate.
        """
        options = dict(options)
        decay = options.pop("decay", None)
        other = replace(self, **options)
        if decay is None:
            return other
        # Each step's decay goes on in the steps after it where there is momentum.
        steps = 1 - other.momentum if other.optimizer_name == "sgd" else 1.0
        return replace(other, weight_decay=decay * steps / other.learning_rate)

    @abstractmethod
    def network(self, role: Role) -> nn.Module:
        """Makes a network, initialised from torch's global generator."""

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Makes a network's optimiser."""
        chosen: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimizer_name == "adam":
            return torch.optim.AdamW(network.parameters(), **chosen)
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(network.parameters(), momentum=self.momentum, nesterov=nesterov, **chosen)

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of minibatches in an epoch."""

    @abstractmethod
    def batch(self, seed: int, step: int, *, for_students: bool) -> Batch:
        """A minibatch, by its arguments alone; `for_students`: one of the students' own, in an order of theirs."""

    @abstractmethod
    def evaluate(self, network: nn.Module, split: Literal["valid", "test"]) -> float:
        """Measures the metric; the network is left in any mode."""

    @abstractmethod
    def read(self, network: nn.Module, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Gives the logits of a network in evaluation mode, in which it is left, and the targets, part by part."""

    def imitability(self, model: nn.Module, student: nn.Module | None, split: Split) -> float:
        """Measures KL(model ‖ student) at temperature 1 in nats: the mean over all decisions of a split.

        Without a student it is the distance from the uniform distribution: what there is to imitate.
        """
        total, count = 0.0, 0
        with torch.no_grad():
            given: Iterator[Any] = itertools.repeat((None, None)) if student is None else self.read(student, split)
            for (taught, targets), (logits, _) in zip(self.read(model, split), given, strict=student is not None):
                distance = float(imitability(torch.zeros_like(taught) if logits is None else logits, taught))
                total, count = total + distance * targets.numel(), count + targets.numel()
        return total / count

    def further(self, network: nn.Module) -> dict[str, float]:
        """Measures on test what there is beside the metric, by name; the network is left in any mode."""
        return {}

    def reader(self) -> Reader:
        """Makes a `Reader`, which calls networks."""
        return Reader()


def nearest_width(parameters: Callable[[int], int], width: int, share: float) -> int:
    """The width at which a network has the share of another one's parameters as nearly as a whole width can.

    Args:
        parameters: the number of parameters by width; it grows with it.
        width: the other one's.
        share: of its parameters.
    """
    wanted = share * parameters(width)
    widths = range(1, math.ceil(width * max(share, 1.0)) + 1)
    place = bisect.bisect_left(widths, wanted, key=parameters)
    return min(widths[max(place - 1, 0) : place + 1], key=lambda w: abs(parameters(w) - wanted))


def parameters_of(network: nn.Module) -> int:
    """The number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
