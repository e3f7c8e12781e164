"""Is what generalises easier to imitate? Teachers of one network and one number of steps, and a student of each.

The generalising teacher learns the data's labels. The spurious one learns labels that are shuffled among half of the
images, without augmentation, and knows many of them by heart in the end: correlations that hold nowhere else. What of
their difference is the augmentation's is told by a third, which learns the data's labels without it. Each then is
imitated by a fresh student, which sees its logits on the training images and no label. Whether the student comes
nearer, and how fast, on training and on test images is the paper's hypothesis.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.checkpoints import ending, going_on_from
from benchmarks.lot.methods import Method
from benchmarks.lot.work import Run
from benchmarks.lot_images.problem import ImageProblem
from meta import imitability
from teachenv import checkpoints
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
_KEPT = "a student that imitates a classifier of images"
# Points of the curve in an epoch, and training images that it is measured on.
_POINTS, _MEASURED = 2, 2000


@dataclass(frozen=True)
class Imitated:
    """What came of a teacher and its student.

    Attributes:
        learned: the teacher's accuracy on the labels that it was trained on.
        test: the teacher's accuracy on test.
        curve: (step of the student, KL to the teacher on training images, on test images), neither augmented.
        steps: of the student.
        seconds: of it all.
    """

    learned: float
    test: float
    curve: list[tuple[int, float, float]]
    steps: int
    seconds: float


def imitate(problem: ImageProblem, kind: Kind, seed: int, checkpoint: Path) -> Imitated:
    """Trains a teacher and then a student on it, for as many epochs.

    Args:
        problem: what the generalising teacher learns.
        kind: of the teacher.
        seed: of initialisation and minibatches.
        checkpoint: where the teacher's training is taken up again, and the student's.
    """
    start = time.perf_counter()
    problem = replace(problem, **KINDS[kind])
    with matmuls("medium"):
        run = Run(problem, Method(), seed, ending(checkpoint, "teacher.pt"), None)
        run.finish()
        # At the end of its training, not at its best: what it knows by heart it knows then.
        teacher = run.model
        images, labels = problem.data.train[0], problem.labels(seed)
        learned = float((problem.logits(teacher, images).argmax(-1) == labels).double().mean())
        test = problem.evaluate(teacher, "test")
        before = run.seconds_before + time.perf_counter() - start
        own = ending(checkpoint, "student.pt")
        curve, seconds = _followed(replace(problem, augment=False), teacher, seed, own)
        return Imitated(learned, test, curve, curve[-1][0], before + seconds)


def _followed(
    problem: ImageProblem, teacher: torch.nn.Module, seed: int, path: Path
) -> tuple[list[tuple[int, float, float]], float]:
    """The curve of a student's distance from its teacher, and the seconds that it took; kept at each point."""
    start, before, curve, begun = time.perf_counter(), 0.0, list[tuple[int, float, float]](), 0
    with torch_seed(seed, Purpose.INIT, 1):
        student = problem.network("student")
    optimizer, reader = problem.optimizer(student), problem.reader()
    total, every = problem.epochs * problem.steps, max(1, problem.steps // _POINTS)
    schedule, rates = make_schedule(problem.schedule, total), [group["lr"] for group in optimizer.param_groups]
    shown = [problem.data.train[0][:_MEASURED], problem.data.test[0]]
    taught = [problem.logits(teacher, images) for images in shown]
    if path.exists():
        with going_on_from(path):
            record = checkpoints.load(path, _KEPT)
            student.load_state_dict(record["student"])
            optimizer.load_state_dict(record["optimizer"])
            curve, before = record["curve"], record["seconds"]
            begun = curve[-1][0]
    for step in range(begun, total):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * float(schedule(step))
        inputs, _ = problem.batch(seed, step, own=True)
        with torch.no_grad():
            target = reader(teacher.eval(), inputs).logits
        with torch_seed(seed, Purpose.DROPOUT, step):
            loss = imitability(reader(student.train(), inputs).logits, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == total:
            pairs = zip(shown, taught, strict=True)
            train, test = (float(imitability(problem.logits(student, images), own)) for images, own in pairs)
            curve.append((step + 1, train, test))
            record = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "curve": curve}
            record["seconds"] = before + time.perf_counter() - start
            checkpoints.save(path, record, _KEPT)
    return curve, before + time.perf_counter() - start
