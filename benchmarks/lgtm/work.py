"""One run: a student is distilled, measured on dev as it goes, and its best checkpoint on test."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.checkpoints import ending, going_on_from
from benchmarks.lgtm.methods import METHODS
from meta import influence
from meta.distillation import LGTM, Batch, DistillationSettings, Distiller, FineTuning
from meta.distillation.losses import soft_cross_entropy
from meta.distillation.text import Pooling, TextClassifier, Tokenizer
from teachenv import checkpoints
from teachenv.data import GlueData, load_glue
from teachenv.experiment.precision import matmuls
from teachenv.minibatches import minibatches
from teachenv.randomness import Purpose, generator, torch_seed

_EVALUATION_BATCH = 128

# What files hold, as `teachenv.checkpoints` has it.
_ROUTE, _RUN = "a teacher of texts that was fine-tuned", "a distillation of texts"


@dataclass(frozen=True)
class Setting:
    """What is shared by the methods that are compared.

    Attributes:
        task: of GLUE.
        checkpoint: pre-trained encoder; a folder or a name on the hub.
        layers: of the student.
        epochs: of every training.
        batch_size: of training and of feedback.
        max_length: tokens.
        student_rate: learning rate of students.
        teacher_rate: of teachers, fine-tuned or learning beside the student.
        evaluations: on dev, in a training.
        watched: training samples whose influence is followed, where there is any.
        pooling: of the networks; see `TextClassifier`.
        data: options of `load_glue`.
    """

    task: str
    checkpoint: str
    layers: int
    epochs: float
    batch_size: int = 32
    max_length: int = 64
    student_rate: float = 1e-4
    teacher_rate: float = 5e-5
    evaluations: int = 4
    watched: int = 64
    pooling: Pooling = "mean"
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tokens:
    """A task's data as batches; the parts are those of `GlueData`."""

    about: GlueData
    train: Batch
    feedback: Batch
    dev: Batch
    test: Batch


@dataclass(frozen=True)
class Distilled:
    """What a run gave.

    Attributes:
        test: scores of the checkpoint that is best on dev.
        dev: its scores there.
        curve: (step, score on dev, score of the teacher on dev) at each evaluation.
        logged: (step, {name: mean since the last}) at each evaluation.
        influences: at each evaluation, I_i of the watched samples.
        steps: of the student, those of assistants included.
        seconds: of it all, fine-tuning of shared teachers left out.
    """

    test: dict[str, float]
    dev: dict[str, float]
    curve: list[tuple[int, float, float]]
    logged: list[tuple[int, dict[str, float]]]
    influences: list[list[float]]
    steps: int
    seconds: float


@functools.lru_cache(maxsize=1)
def _tokens(task: str, checkpoint: str, max_length: int, data: tuple[tuple[str, Any], ...]) -> Tokens:
    about, tokenizer = load_glue(task, **dict(data)), Tokenizer(checkpoint, max_length)
    return Tokens(about, *(tokenizer(part) for part in (about.train, about.feedback, about.dev, about.test)))


def tokens(setting: Setting) -> Tokens:
    """The task's data."""
    return _tokens(setting.task, setting.checkpoint, setting.max_length, tuple(sorted(setting.data.items())))


def network(setting: Setting, layers: int | None, classes: int) -> TextClassifier:
    """A pre-trained network."""
    return TextClassifier(setting.checkpoint, classes, layers, pooling=setting.pooling)


def evaluate(model: nn.Module, batch: Batch, about: GlueData) -> dict[str, float]:
    """The task's scores."""
    model.eval()
    with torch.no_grad():
        parts = [
            model(batch.at(slice(i, i + _EVALUATION_BATCH)).inputs).logits.argmax(-1)
            for i in range(0, len(batch.labels), _EVALUATION_BATCH)
        ]
    return about.scores(torch.cat(parts).numpy(), batch.labels.numpy())


def steps_of(setting: Setting, samples: int) -> int:
    """Minibatches in a training."""
    return max(1, round(setting.epochs * (samples // setting.batch_size)))


def fine_tune(setting: Setting, seed: int, stops: int, path: Path) -> dict[str, float]:
    """Fine-tunes the teacher of fixed-teacher methods; keeps it with its checkpoints on the way.

    Args:
        setting: see there.
        seed: of minibatches and dropout.
        stops: how many checkpoints, the last of which is the finished teacher.
        path: where they are kept: a list of `state_dict`s.

    Returns:
        Its scores on test, and its score on dev as `dev`.
    """
    given = tokens(setting)
    teacher = network(setting, None, given.about.num_classes)
    total = steps_of(setting, len(given.train.labels))
    run = _Run(setting, FineTuning(teacher, DistillationSettings(total, setting.teacher_rate)), given, seed)
    route: list[dict[str, torch.Tensor]] = []
    stops = min(stops, total)
    with matmuls("medium"):
        for turn in range(stops):
            run.train(total * (turn + 1) // stops - run.step)
            route.append({name: tensor.clone() for name, tensor in teacher.state_dict().items()})
    checkpoints.save(path, route, _ROUTE)
    dev = evaluate(teacher, given.dev, given.about)
    return {**evaluate(teacher, given.test, given.about), "dev": _selecting(dev)}


def distil(setting: Setting, method: str, seed: int, teacher: Path | None, checkpoint: Path) -> Distilled:
    """Distils a student.

    Args:
        setting: see there.
        method: a name in `METHODS`.
        seed: of minibatches and dropout.
        teacher: what `fine_tune` kept; for methods that want it.
        checkpoint: where an interrupted run is taken up again.
    """
    start, given, chosen = time.perf_counter(), tokens(setting), METHODS[method]
    route = [] if teacher is None else checkpoints.load(teacher, _ROUTE)
    make = functools.partial(network, setting, classes=given.about.num_classes)
    source = make(None)
    if teacher is not None:
        with going_on_from(teacher):
            source.load_state_dict(route[-1])
    hops = [setting.layers]
    if chosen.distiller == "takd":
        # One assistant, of a depth between theirs.
        hops.insert(0, (setting.layers + source.layers + 1) // 2)
    total, spent, run = steps_of(setting, len(given.train.labels)), 0, None
    for hop, layers in enumerate(hops):
        settings = DistillationSettings(
            total, **{"student_rate": setting.student_rate, "teacher_rate": setting.teacher_rate, **chosen.settings}
        )
        student = make(layers)
        distiller = chosen.build(source, student, settings, route)
        path = ending(checkpoint, f"{hop}.pt")
        run = _Run(replace(setting, layers=layers), distiller, given, seed + 1000 * hop, path)
        run.finish(total)
        spent += total
        source = student
    assert run is not None
    best = run.best
    source.load_state_dict(best["network"])
    seconds = run.seconds_before + time.perf_counter() - start
    test = evaluate(source, given.test, given.about)
    return Distilled(test, best["dev"], run.curve, run.logged, run.influences, spent, seconds)


class _Run:
    """A training with all that has come of it, which a checkpoint holds."""

    _RESULTS = ("step", "curve", "logged", "influences", "best")

    def __init__(
        self, setting: Setting, distiller: Distiller, given: Tokens, seed: int, path: Path | None = None
    ) -> None:
        self.setting, self.distiller, self.given, self.seed, self.path = setting, distiller, given, seed, path
        self.step, self.seconds_before, self.start = 0, 0.0, time.perf_counter()
        self.curve: list[tuple[int, float, float]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.influences: list[list[float]] = []
        self.best: dict[str, Any] = {}
        total = distiller.settings.steps
        rng = generator(seed, Purpose.BATCHES)
        size, own = setting.batch_size, len(given.train.labels)
        self.order = torch.from_numpy(minibatches(rng, np.arange(own), size, total))
        held_out = len(given.feedback.labels)
        self.feedback = torch.from_numpy(minibatches(rng, np.arange(held_out), min(size, held_out), total))

    def train(self, steps: int) -> list[dict[str, float]]:
        """Some more steps; what they logged."""
        found = []
        for _ in range(steps):
            batch, feedback = self.given.train.at(self.order[self.step]), None
            if self.distiller.needs_feedback:
                feedback = self.given.feedback.at(self.feedback[self.step])
            with torch_seed(self.seed, Purpose.DROPOUT, self.step):
                found.append(self.distiller.step(batch, feedback))
            self.step += 1
        return found

    def finish(self, total: int) -> None:
        """Trains to the end, from the checkpoint if there is one, with evaluations at even distances."""
        self._resume()
        for stop in (total * (i + 1) // self.setting.evaluations for i in range(self.setting.evaluations)):
            if stop <= self.step:
                continue
            with matmuls("medium"):
                found = self.train(stop - self.step)
            self.logged.append((self.step, {k: float(np.mean([f[k] for f in found if k in f])) for k in found[-1]}))
            self._evaluate()
            self._keep()

    def _evaluate(self) -> None:
        student, about = self.distiller.student.network, self.given.about
        dev = evaluate(student, self.given.dev, about)
        if self.distiller.teacher_learns or not self.curve:
            teacher = _selecting(evaluate(self.distiller.teacher.network, self.given.dev, about))
        else:
            teacher = self.curve[-1][-1]
        self.curve.append((self.step, _selecting(dev), teacher))
        if not self.best or _selecting(dev) > _selecting(self.best["dev"]):
            own = {name: tensor.clone() for name, tensor in student.state_dict().items()}
            self.best = {"dev": dev, "network": own}
        if isinstance(self.distiller, LGTM):
            self.influences.append(_influences(self.distiller, self.given, self.setting))

    def _keep(self) -> None:
        if self.path is None:
            return
        record = {name: getattr(self, name) for name in self._RESULTS}
        record["seconds"] = self.seconds_before + time.perf_counter() - self.start
        checkpoints.save(self.path, {**record, "distiller": self.distiller.state()}, _RUN)

    def _resume(self) -> None:
        if self.path is None or not self.path.exists():
            return
        with going_on_from(self.path):
            record = checkpoints.load(self.path, _RUN)
            self.distiller.load(record["distiller"])
            self.seconds_before = record["seconds"]
            for name in self._RESULTS:
                setattr(self, name, record[name])


def _selecting(scores: Mapping[str, float]) -> float:
    """What checkpoints are selected by: F1 where the task has it, else accuracy, as the released code does."""
    return scores.get("f1", scores["accuracy"])


def _influences(distiller: LGTM, given: Tokens, setting: Setting) -> list[float]:
    """Distillation influence of the first training samples on the loss of all feedback, at the student as it is."""
    size = setting.batch_size
    watched = given.train.at(slice(0, setting.watched))
    held_out = given.feedback.at(slice(0, 4 * size))
    v = distiller.student.held_out_gradient(held_out, {})
    found = []
    for i in range(0, len(watched.labels), size):
        batch = watched.at(slice(i, i + size))
        with torch.no_grad():
            taught = distiller.teacher.outputs(batch.inputs, training=False).logits

        def losses(student: nn.Module, part: Any) -> torch.Tensor:
            inputs, logits = part
            return soft_cross_entropy(logits, student(inputs).logits, distiller.settings.temperature)

        found += influence(distiller.student.network, losses, (batch.inputs, taught), v).tolist()
    return [round(value, 6) for value in found]
