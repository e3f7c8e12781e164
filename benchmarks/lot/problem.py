"""What is learned, and by which networks: the base of the problems of language and of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn

Role = Literal["teacher", "student"]
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

    @property
    @abstractmethod
    def sizes(self) -> dict[str, Problem]:
        """The problem with a `"smaller"` and with a `"larger"` student, as far as there are any."""

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

    def reader(self) -> Reader:
        """Makes a `Reader`, which calls networks."""
        return Reader()
