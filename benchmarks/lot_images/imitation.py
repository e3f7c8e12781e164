"""Is what generalises easier to imitate? Teachers of one network and one number of steps, and a student of each.

The generalising teacher learns the data's labels. The spurious one learns labels that are shuffled among half of the
images, without augmentation, and memorises many of them in the end: correlations that hold nowhere else. What of
their difference is the augmentation's is told by a third, which learns the data's labels without it. Each then is
imitated by a fresh student, which sees its logits on the training images and no label. Whether the student comes
nearer, and how fast, on training and on test images is the paper's hypothesis.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.lot.methods import Method
from benchmarks.lot.work import Run
from benchmarks.lot_images.problem import ImageProblem
from meta import imitability
from teachenv.experiment import loop
from teachenv.experiment.cases import Case, Outcome
from teachenv.experiment.loop import Record
from teachenv.experiment.precision import matmuls
from teachenv.randomness import Purpose, torch_seed
from teachenv.schedules import make_schedule

Kind = Literal["generalising", "unaugmented", "spurious"]

# Of the training labels, how many are shuffled for the spurious teacher.
SHUFFLED = 0.5
# By kind of teacher, what is different in its training from that of the generalising one.
KINDS: Mapping[Kind, Mapping[str, Any]] = {
    "generalising": {},
    "unaugmented": {"augment": False},
    "spurious": {"augment": False, "shuffled": SHUFFLED},
}
# Points of the curve in an epoch, and training images that it is measured on.
_POINTS, _MEASURED = 2, 2000


def case(benchmark: str, problem: ImageProblem, kind: Kind, seed: int) -> Case:
    """The case of a teacher of a kind and its student; `problem` is what the generalising one learns."""
    return Case(
        benchmark=benchmark,
        task=problem.task,
        dataset=problem.dataset,
        student=problem.title,
        method=f"imitate:{kind}",
        seed=seed,
        config={"problem": problem.config, "shuffled": SHUFFLED},
        label=f"{problem.task}: imitating a {kind} teacher, seed {seed}",
        function=imitate,
        arguments={"problem": replace(problem, **KINDS[kind]), "seed": seed},
        last="imitation_kl_test",
    )


def imitate(problem: ImageProblem, seed: int, folder: Path) -> Outcome:
    """Trains a teacher, and then as long a student on it. The data: its (step, KL on training images, on test images).

    `teacher_learned_accuracy` is on the labels that the teacher was trained on.
    """
    start = time.perf_counter()
    with matmuls("medium"):
        run = Run(problem, Method(), seed)
        taught = run.finish(folder / "teacher")
        # At the end of its training, not at its best: what it has memorised it knows then.
        teacher = run.model
        images, labels = problem.data.train[0], problem.labels(seed)
        learned = float((problem.logits(teacher, images).argmax(-1) == labels).double().mean())
        test = problem.evaluate(teacher, "test")
        student = Imitator(replace(problem, augment=False), teacher, seed)
        record = student.finish(folder / "student")
    last = record.curve[-1]
    return Outcome(
        values={
            "teacher_learned_accuracy": learned,
            "teacher_test_accuracy": test,
            **{f"imitation_kl_{split}": value for split, value in last.values.items()},
        },
        student_steps=last.step,
        seconds=taught.earlier + record.earlier + time.perf_counter() - start,
        data=[(point.step, *point.values.values()) for point in record.curve],
        versions={"matmul_precision": "medium", "precision": problem.precision},
    )


class Imitator:
    """A student that learns from a teacher's logits alone; see `loop.Learner`."""

    def __init__(self, problem: ImageProblem, teacher: nn.Module, seed: int) -> None:
        self.problem, self.teacher, self.seed = problem, teacher, seed
        with torch_seed(seed, Purpose.INIT, 1):
            self.student = problem.network("student")
        self.optimizer, self.reader = problem.optimizer(self.student), problem.reader()
        self.steps = problem.epochs * problem.steps
        self.schedule = make_schedule(problem.schedule, self.steps)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        # Neither is augmented.
        shown = {"train": problem.data.train[0][:_MEASURED], "test": problem.data.test[0]}
        self.shown = {split: (images, problem.logits(teacher, images)) for split, images in shown.items()}

    def finish(self, file: Path) -> Record:
        """Trains to the end."""
        stops = [*range(0, self.steps, max(1, self.problem.steps // _POINTS)), self.steps]
        return loop.train(self, stops, file, "a student that imitates a classifier of images")

    def step(self, number: int) -> None:
        """Takes a step towards the teacher on a minibatch."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * float(self.schedule(number))
        inputs, _ = self.problem.batch(self.seed, number, for_students=True)
        with torch.no_grad():
            target = self.reader(self.teacher.eval(), inputs).logits
        with torch_seed(self.seed, Purpose.DROPOUT, number):
            loss = imitability(self.reader(self.student.train(), inputs).logits, target)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def evaluate(self, record: Record) -> dict[str, float]:
        """Measures how far the student is from the teacher."""
        return {
            split: float(imitability(self.problem.logits(self.student, images), logits))
            for split, (images, logits) in self.shown.items()
        }

    def state(self) -> dict[str, Any]:
        """All that changes in training."""
        return {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
