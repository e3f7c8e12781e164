"""One training run of a model, with students that imitate it or without."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.lot.methods import Method
from benchmarks.lot.problem import Batch, Problem, parameters_of
from meta import LoT
from meta.saving.generators import Generators
from teachenv.experiment import loop
from teachenv.experiment.cases import Outcome
from teachenv.experiment.loop import Record
from teachenv.experiment.precision import matmuls
from teachenv.randomness import Purpose, torch_seed
from teachenv.schedules import make_schedule

Compared = Literal["train", "valid"]
"""Where a student is compared with its model at the end of a training run."""


def train(problem: Problem, method: Method, seed: int, folder: Path, *, test: bool = True) -> Outcome:
    """Trains a model, and measures it and its first student.

    Args:
        problem: what is learned.
        method: how.
        seed: decides all randomness.
        folder: where the training is kept, and from where it goes on.
        test: whether the training is measured: on test, by model and student at their best epochs on valid, and by the
            model at the end; and how far the student is from the model at the end, on training and validation data, and
            the model from the uniform distribution.
    """
    start, guide, records = time.perf_counter(), None, []
    with matmuls("medium"):
        if method.self_distillation:
            first = Run(problem, Method(), seed)
            records.append(first.finish(folder / "first"))
            guide = first.at_best(records[0])
        run = Run(problem, method, seed, guide)
        records.append(record := run.finish(folder / "training"))
    metric = problem.metric
    values = {f"valid_{metric}": record.best["teacher"].value}
    if method.students:
        values["term_share"] = _share(record)
    if test:
        if run.imitators:
            for split in get_args(Compared):
                values[f"student_kl_{split}"] = problem.imitability(run.model, run.imitators[0], split)
            values["uniform_kl_valid"] = problem.imitability(run.model, None, "valid")
        values[f"last_test_{metric}"] = problem.evaluate(run.shown, "test")
        values |= problem.further(run.at_best(record))
        values[f"test_{metric}"] = problem.evaluate(run.model, "test")
        if run.imitators:
            run.imitators[0].load_state_dict(record.best["student"].weights)
            values[f"student_test_{metric}"] = problem.evaluate(run.imitators[0], "test")
    teacher_steps = sum(training.step for training in records)
    return Outcome(
        values=values,
        student_steps=teacher_steps + (0 if run.lot is None else run.lot.updates * method.students),
        seconds=sum(training.earlier for training in records) + time.perf_counter() - start,
        data={
            "curve": [
                (point.step // problem.steps, point.values["teacher"], point.values.get("student"))
                for point in record.curve
            ],
            "teacher_steps": teacher_steps,
            "parameters": [parameters_of(network) for network in (run.model, *run.imitators)],
        },
        versions={"matmul_precision": "medium", "precision": problem.precision},
    )


def _share(record: Record) -> float:
    """LoT's term as a part of the loss that it is added to: means over the whole training run."""
    term, loss = (sum(point.logged[name] for point in record.curve) for name in ("term", "loss"))
    return term / loss


class _StudentBatches(Iterator[Batch]):
    """The students' own minibatches; its place is `step`."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem, self.seed, self.step = problem, seed, 0

    def __next__(self) -> Batch:
        self.step += 1
        return self.problem.batch(self.seed, self.step - 1, for_students=True)


class Run:
    """A model in training (a `loop.Learner`), with its students if any; in self-distillation a guide teaches it."""

    def __init__(self, problem: Problem, method: Method, seed: int, guide: nn.Module | None = None) -> None:
        self.problem, self.method, self.seed = problem, method, seed
        self.steps = round(problem.epochs * method.longer) * problem.steps
        self.schedule = make_schedule(problem.schedule, self.steps)
        with torch_seed(seed, Purpose.INIT, 0 if guide is None else 1):
            self.model = problem.network("teacher")
        self.optimizers = [problem.optimizer(self.model)]
        self.average = self._averaged() if method.average else None
        self.reader, self.lot = problem.reader(), None
        self.student_batches = _StudentBatches(problem, seed)
        self.imitators: list[nn.Module] = []
        if guide is not None:
            self.lot = self._regulariser([guide.eval()], [])
        elif method.students:
            students_optimizers = self._students()
            self.lot = self._regulariser(self.imitators, students_optimizers)
            self.optimizers += students_optimizers
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]

    def _students(self) -> list[torch.optim.Optimizer]:
        """Makes the students and their optimisers."""
        optimizers = []
        for number in range(self.method.students):
            with torch_seed(self.seed, Purpose.INIT, 2 + number):
                student = self.problem.network("student")
            self.imitators.append(student)
            optimizers.append(self.problem.optimizer(student))
            optimizers[-1].register_step_pre_hook(lambda *_, student=student: self._clip(student))
        return optimizers

    def _regulariser(self, students: list[nn.Module], optimizers: list[torch.optim.Optimizer]) -> LoT:
        method = self.method
        metric: Any = method.metric
        return LoT(
            students,
            optimizers,
            alpha=method.alpha,
            temperature=method.temperature,
            student_steps=method.student_steps,
            data=self.student_batches,
            metric=metric,
            labels=method.labels,
            forward=lambda network, inputs: self.reader(network, inputs).logits,
            seed=self.seed,
        )

    def _clip(self, network: nn.Module) -> None:
        if self.problem.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.problem.clip)

    def _averaged(self) -> AveragedModel:
        """An average of the model's weights that begins now."""
        if not self.method.average:
            return AveragedModel(self.model)
        update = get_ema_multi_avg_fn(self.method.average)  # type: ignore[no-untyped-call]
        return AveragedModel(self.model, multi_avg_fn=update, use_buffers=True)

    @property
    def shown(self) -> nn.Module:
        """The network that is measured: the model, or the average of its weights."""
        return self.model if self.average is None else self.average.module

    def finish(self, file: Path) -> Record:
        """Trains to the end; goes on from the file, which is written after each epoch."""
        stops = range(self.problem.steps, self.steps + 1, self.problem.steps)
        return loop.train(self, stops, file, "a training of a model with students", (Generators,))

    def at_best(self, record: Record) -> nn.Module:
        """The model at its best epoch on valid."""
        self.model.load_state_dict(record.best["teacher"].weights)
        return self.model

    def step(self, number: int) -> dict[str, float]:
        """Takes a step of the model, and those of its students that go with it; gives its loss and LoT's term."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * float(self.schedule(number))
        inputs, targets = self.problem.batch(self.seed, number, for_students=False)
        with torch_seed(self.seed, Purpose.DROPOUT, number):
            logits, penalty = self.reader(self.model, inputs)
            smoothing = self.method.label_smoothing
            loss = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), label_smoothing=smoothing)
            if penalty is not None:
                loss = loss + penalty
            logged = {"loss": float(loss.detach())}
            if self.lot is not None:
                term = self.lot(logits, inputs, targets)
                loss, logged["term"] = loss + term, float(term.detach())
            self.optimizers[0].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._clip(self.model)
            self.optimizers[0].step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        if self.lot is not None:
            self.lot.step(self.model)
        return logged

    def evaluate(self, record: Record) -> dict[str, float]:
        """Measures on valid the model, or the average of its weights, and the first student."""
        problem = self.problem
        shown: dict[str, nn.Module] = {"teacher": self.shown}
        if self.imitators:
            shown["student"] = self.imitators[0]
        values = {}
        for role, network in shown.items():
            with torch.no_grad():
                values[role] = problem.evaluate(network, "valid")
            record.offer(role, values[role], network, problem.higher_is_better)
        if problem.patience is not None and self.average is None:
            earlier = [point.values["teacher"] for point in record.curve][: -problem.patience or None]
            # Worse than the best of those before the last few (Merity et al. 2018).
            if any(loop.better(value, values["teacher"], problem.higher_is_better) for value in earlier):
                self.average = self._averaged()
        for network in (self.model, *self.imitators):
            network.train()
        return values

    def state(self) -> dict[str, Any]:
        """All that changes in training."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizers[0].state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "lot": None if self.lot is None else self.lot.state_dict(),
            "own": self.student_batches.step,
            "reader": self.reader.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizers[0].load_state_dict(state["optimizer"])
        if state["average"] is not None:
            self.average = self._averaged()
            self.average.load_state_dict(state["average"])
        if self.lot is not None:
            self.lot.load_state_dict(state["lot"])
        self.student_batches.step = state["own"]
        self.reader.load(state["reader"])
