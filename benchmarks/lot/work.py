"""One training, with students or without, that goes on where it was stopped."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.checkpoints import ending, going_on_from
from benchmarks.lot.methods import Method
from meta import LoT
from meta.generators import Generators
from teachenv import checkpoints
from teachenv.experiment.precision import matmuls
from teachenv.randomness import Purpose, torch_seed
from teachenv.schedules import make_schedule

Role = Literal["teacher", "student"]
Batch = tuple[Any, torch.Tensor]
"""(inputs, targets)."""

# What the file of a training holds, as `teachenv.checkpoints` has it.
_KEPT = "a training of a model with students"


class Reading(NamedTuple):
    """What a network says.

    Attributes:
        logits: of any leading shape.
        penalty: to be added to the loss, or None.
    """

    logits: torch.Tensor
    penalty: torch.Tensor | None = None


class Reader:
    """How a network is called; readers of text remember what came before."""

    def __call__(self, network: nn.Module, inputs: Any) -> Reading:
        """A network's outputs."""
        return Reading(network(inputs))

    def state(self) -> Any:
        """What has to be kept, given the networks in the order of their first use."""
        return None

    def load(self, state: Any) -> None:
        """Goes on from a `state`."""


@dataclass(frozen=True, kw_only=True)
class Problem(ABC):
    """What is learned; handed to processes, each of which reads the data itself.

    Attributes:
        metric: of `evaluate`: `"perplexity"` or `"accuracy"`.
        higher_is_better: whether more of it is better.
        epochs: of the teacher.
        learning_rate: at first, of teacher and students.
        clip: of the norm of gradients; None: none.
        schedule: of learning rates, see `teachenv.schedules`.
        patience: epochs without progress after which weights are averaged (NT-ASGD); None: never.
        data_root: where the files are.
    """

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    epochs: int
    learning_rate: float
    clip: float | None = None
    schedule: str = "cosine"
    patience: int | None = None
    data_root: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """All options; where the data lies on this machine is not one of them."""
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
        """In which networks are called on this machine; not among the options, see `teachenv.experiment.precision`."""
        return "float32"

    @property
    @abstractmethod
    def sizes(self) -> dict[str, Problem]:
        """The same with a `"smaller"` and with a `"larger"` student, as far as there are any."""

    @abstractmethod
    def network(self, role: Role) -> nn.Module:
        """A network, initialised from torch's global generator."""

    @abstractmethod
    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Its optimiser."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Minibatches in an epoch."""

    @abstractmethod
    def batch(self, seed: int, step: int, *, own: bool) -> Batch:
        """A minibatch, a function of its arguments; `own`: of the students' own, which come in another order."""

    @abstractmethod
    def evaluate(self, network: nn.Module, split: Literal["valid", "test"]) -> float:
        """The metric; the network is left in any mode."""

    def reader(self) -> Reader:
        """See `Reader`."""
        return Reader()


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        test: the metric of the model that is kept, at its best epoch on valid.
        valid: the same on valid.
        student: the first student's on test, at its best epoch on valid; None without students.
        curve: (epoch, the model's on valid, the student's or None).
        teacher_steps: steps of the model that is kept; of self-distillation those of both.
        steps: of all networks.
        seconds: of it all.
    """

    test: float
    valid: float
    student: float | None
    curve: list[tuple[int, float, float | None]]
    teacher_steps: int
    steps: int
    seconds: float


def train(problem: Problem, method: Method, seed: int, checkpoint: Path) -> Trained:
    """Trains a model.

    Args:
        problem: what.
        method: how.
        seed: of initialisation, minibatches and dropout; the same for all methods.
        checkpoint: where an interrupted training is taken up again.
    """
    start, guide = time.perf_counter(), None
    with matmuls("medium"):
        if method.self_distillation:
            first = Run(problem, Method(), seed, ending(checkpoint, "first.pt"), None)
            first.finish()
            guide = first.best_network()
        run = Run(problem, method, seed, ending(checkpoint, "pt"), guide)
        run.finish()
    test = problem.evaluate(run.best_network(), "test")
    student = None
    if run.imitators:
        run.imitators[0].load_state_dict(run.best["student"][1])
        student = problem.evaluate(run.imitators[0], "test")
    generations = 2 if guide is not None else 1
    seconds = run.seconds_before + time.perf_counter() - start
    updates = 0 if run.lot is None else run.lot.updates * method.students
    own = generations * run.step
    return Trained(test, run.best["teacher"][0], student, run.curve, own, own + updates, seconds)


class _Own(Iterator[Batch]):
    """The students' own minibatches; its place is `step`."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem, self.seed, self.step = problem, seed, 0

    def __next__(self) -> Batch:
        self.step += 1
        return self.problem.batch(self.seed, self.step - 1, own=True)


class Run:
    """A training with all that has come of it, which a checkpoint holds."""

    def __init__(self, problem: Problem, method: Method, seed: int, path: Path, guide: nn.Module | None) -> None:
        self.problem, self.method, self.seed, self.path = problem, method, seed, path
        self.step, self.seconds_before, self.start = 0, 0.0, time.perf_counter()
        self.curve: list[tuple[int, float, float | None]] = []
        self.best: dict[str, tuple[float, dict[str, torch.Tensor]]] = {}
        with torch_seed(seed, Purpose.INIT, 0 if guide is None else 1):
            self.model = problem.network("teacher")
        self.optimizers = [problem.optimizer(self.model)]
        self.average: AveragedModel | None = None
        self.reader, self.own, self.lot = problem.reader(), _Own(problem, seed), None
        self.imitators: list[nn.Module] = []
        if guide is not None:
            self.lot = self._regulariser([guide.eval()], [])
        elif method.students:
            own = self._students()
            self.lot = self._regulariser(self.imitators, own)
            self.optimizers += own
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]

    def _students(self) -> list[torch.optim.Optimizer]:
        """Makes them, and their optimisers."""
        own = []
        for number in range(self.method.students):
            with torch_seed(self.seed, Purpose.INIT, 2 + number):
                student = self.problem.network("student")
            self.imitators.append(student)
            own.append(self.problem.optimizer(student))
            own[-1].register_step_pre_hook(lambda *_, student=student: self._clip(student))
        return own

    def _regulariser(self, students: list[nn.Module], optimizers: list[torch.optim.Optimizer]) -> LoT:
        method = self.method
        metric: Any = method.metric
        return LoT(
            students,
            optimizers,
            alpha=method.alpha,
            temperature=method.temperature,
            student_steps=method.student_steps,
            data=self.own,
            metric=metric,
            labels=method.labels,
            forward=lambda network, inputs: self.reader(network, inputs).logits,
            seed=self.seed,
        )

    def _clip(self, network: nn.Module) -> None:
        if self.problem.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.problem.clip)

    def finish(self) -> None:
        """Trains to the end, from the checkpoint if there is one, which is written after each epoch."""
        self._resume()
        epochs = round(self.problem.epochs * self.method.longer)
        schedule = make_schedule(self.problem.schedule, epochs * self.problem.steps)
        for epoch in range(self.step // self.problem.steps, epochs):
            self.model.train()
            for student in self.imitators:
                student.train()
            while self.step < (epoch + 1) * self.problem.steps:
                self._step(float(schedule(self.step)))
            self._evaluate(epoch + 1)
            self._keep()

    def _step(self, factor: float) -> None:
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * factor
        inputs, targets = self.problem.batch(self.seed, self.step, own=False)
        with torch_seed(self.seed, Purpose.DROPOUT, self.step):
            logits, penalty = self.reader(self.model, inputs)
            loss = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
            if penalty is not None:
                loss = loss + penalty
            if self.lot is not None:
                loss = loss + self.lot(logits, inputs, targets)
            self.optimizers[0].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._clip(self.model)
            self.optimizers[0].step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        if self.lot is not None:
            self.lot.step(self.model)
        self.step += 1

    def _evaluate(self, epoch: int) -> None:
        problem = self.problem
        shown = {"teacher": self.model if self.average is None else self.average.module}
        if self.imitators:
            shown["student"] = self.imitators[0]
        found = {}
        for role, network in shown.items():
            with torch.no_grad():
                found[role] = problem.evaluate(network, "valid")
            if role not in self.best or self._better(found[role], self.best[role][0]):
                own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                self.best[role] = (found[role], own)
        self.curve.append((epoch, found["teacher"], found.get("student")))
        if problem.patience is not None and self.average is None and self._stalled(problem.patience):
            self.average = AveragedModel(self.model)

    def _better(self, value: float, than: float) -> bool:
        if math.isnan(than):
            return not math.isnan(value)
        return value > than if self.problem.higher_is_better else value < than

    def _stalled(self, patience: int) -> bool:
        """Whether the last value is worse than the best of those before the last few (Merity et al. 2018)."""
        values = [value for _, value, _ in self.curve]
        early = values[: -patience - 1]
        return bool(early) and any(self._better(value, values[-1]) for value in early)

    def best_network(self) -> nn.Module:
        """The model at its best epoch on valid."""
        self.model.load_state_dict(self.best["teacher"][1])
        return self.model

    def _keep(self) -> None:
        record = {name: getattr(self, name) for name in ("step", "curve", "best")}
        record["seconds"] = self.seconds_before + time.perf_counter() - self.start
        record["model"] = self.model.state_dict()
        record["optimizer"] = self.optimizers[0].state_dict()
        record["average"] = None if self.average is None else self.average.state_dict()
        record["lot"] = None if self.lot is None else self.lot.state_dict()
        record["own"], record["reader"] = self.own.step, self.reader.state()
        checkpoints.save(self.path, record, _KEPT, (Generators,))

    def _resume(self) -> None:
        if not self.path.exists():
            return
        with going_on_from(self.path):
            self._go_on(checkpoints.load(self.path, _KEPT, (Generators,)))

    def _go_on(self, record: dict[str, Any]) -> None:
        self.step, self.curve, self.best = record["step"], record["curve"], record["best"]
        self.seconds_before = record["seconds"]
        self.model.load_state_dict(record["model"])
        self.optimizers[0].load_state_dict(record["optimizer"])
        if record["average"] is not None:
            self.average = AveragedModel(self.model)
            self.average.load_state_dict(record["average"])
        if self.lot is not None:
            self.lot.load_state_dict(record["lot"])
        self.own.step = record["own"]
        self.reader.load(record["reader"])
