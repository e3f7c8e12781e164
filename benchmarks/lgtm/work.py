"""One run: a student is distilled, measured on dev as it goes, and its best weights on test."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.lgtm.methods import Method
from meta import influence
from meta.distillation import LGTM, Batch, DistillationSettings, Distiller, FineTuning
from meta.distillation.losses import soft_cross_entropy
from meta.distillation.text import Pooling, TextClassifier, Tokenizer
from teachenv import checkpoints
from teachenv.data import GlueData, load_glue
from teachenv.experiment import loop
from teachenv.experiment.cases import Outcome
from teachenv.experiment.loop import Record
from teachenv.experiment.precision import matmuls
from teachenv.minibatches import minibatches
from teachenv.randomness import Purpose, generator, torch_seed

_EVALUATION_BATCH = 128

TEACHER = "teacher"
"""The file of a fine-tuned teacher: a list of its `state_dict`s on the way, the last of which is the finished one's."""

# What files hold, as `teachenv.checkpoints` has it.
_ROUTE, _TUNING = "a teacher of texts that was fine-tuned", "the fine-tuning of a teacher of texts"
_VERSIONS = {"matmul_precision": "medium"}


@dataclass(frozen=True)
class Setting:
    """What is shared by the methods that are compared.

    Attributes:
        task: the name of a task of GLUE.
        checkpoint: pre-trained encoder; a folder or a name on the hub.
        layers: how many the student has.
        epochs: how many every training has.
        batch_size: samples in a minibatch, of training and of feedback alike.
        max_length: tokens to which texts are cut.
        student_rate: learning rate of students.
        teacher_rate: learning rate of teachers, fine-tuned or learning beside the student.
        evaluations: how often a training is measured on dev.
        watched: training samples whose influence is followed, where there is any.
        pooling: how the networks pool; see `TextClassifier`.
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


@functools.lru_cache(maxsize=1)
def _tokens(task: str, checkpoint: str, max_length: int, data: tuple[tuple[str, Any], ...]) -> Tokens:
    about, tokenizer = load_glue(task, **dict(data)), Tokenizer(checkpoint, max_length)
    return Tokens(about, *(tokenizer(part) for part in (about.train, about.feedback, about.dev, about.test)))


def tokens(setting: Setting) -> Tokens:
    """The task's data as batches."""
    return _tokens(setting.task, setting.checkpoint, setting.max_length, tuple(sorted(setting.data.items())))


def network(setting: Setting, layers: int | None, classes: int) -> TextClassifier:
    """Makes a pre-trained network with a classifier for the task."""
    return TextClassifier(setting.checkpoint, classes, layers, pooling=setting.pooling)


def evaluate(model: nn.Module, batch: Batch, about: GlueData) -> dict[str, float]:
    """Measures the task's scores."""
    model.eval()
    with torch.no_grad():
        parts = [
            model(batch.at(slice(i, i + _EVALUATION_BATCH)).inputs).logits.argmax(-1)
            for i in range(0, len(batch.labels), _EVALUATION_BATCH)
        ]
    return about.scores(torch.cat(parts).numpy(), batch.labels.numpy())


def steps_of(setting: Setting, samples: int) -> int:
    """The number of minibatches in a training."""
    return max(1, round(setting.epochs * (samples // setting.batch_size)))


def fine_tune(setting: Setting, seed: int, stops: int, folder: Path) -> Outcome:
    """Fine-tunes the teacher of fixed-teacher methods, keeps so many of its states, and measures it on test."""
    start, data = time.perf_counter(), tokens(setting)
    teacher = network(setting, None, data.about.num_classes)
    total = steps_of(setting, len(data.train.labels))
    run = _Tuning(setting, FineTuning(teacher, DistillationSettings(total, setting.teacher_rate)), data, seed)
    half = folder / "half"
    record = loop.train(run, loop.evenly(total, stops), half, _TUNING)
    checkpoints.save(folder / TEACHER, run.route, _ROUTE)
    half.unlink()
    return Outcome(
        values=_named("test", evaluate(teacher, data.test, data.about)),
        student_steps=0,  # students spend none on it
        seconds=record.earlier + time.perf_counter() - start,
        versions=_VERSIONS,
    )


def distil(setting: Setting, method: Method, seed: int, folder: Path, teacher: Path | None = None) -> Outcome:
    """Distils a student, and measures the weights that are best on dev; `teacher`: folder of what `fine_tune` made.

    The data are the `curve` (step, score on dev, the teacher's), what was `logged` (step, means since the last
    evaluation), and the `influences` of the watched samples at each evaluation. Steps are of students, an assistant
    among them; the seconds leave out the fine-tuning.
    """
    start, data = time.perf_counter(), tokens(setting)
    make = functools.partial(network, setting, classes=data.about.num_classes)
    source, route = make(None), _route(teacher)
    if teacher is not None:
        with checkpoints.going_on_from(teacher / TEACHER):
            source.load_state_dict(route[-1])
    hops = [setting.layers]
    if method.distiller == "takd":
        # One assistant, of a depth between theirs.
        hops.insert(0, (setting.layers + source.layers + 1) // 2)
    total, records = steps_of(setting, len(data.train.labels)), []
    rates = {"student_rate": setting.student_rate, "teacher_rate": setting.teacher_rate}
    for hop, layers in enumerate(hops):
        student, hop_seed = make(layers), seed + 1000 * hop
        settings = DistillationSettings(total, **{**rates, **method.settings})
        with torch_seed(hop_seed, Purpose.INIT):  # of adapters
            distiller = method.build(source, student, settings, route)
        run = _Distilling(setting, distiller, data, hop_seed)
        stops = loop.evenly(total, setting.evaluations)
        records.append(loop.train(run, stops, folder / str(hop), "a distillation of texts"))
        source = student
    best, curve = records[-1].best["student"], records[-1].curve
    source.load_state_dict(best.weights)
    dev = next(point.values["dev"] for point in curve if point.step == best.step)
    test = evaluate(source, data.test, data.about)
    return Outcome(
        values=_named("dev", dev) | _named("test", test),
        student_steps=total * len(hops),
        seconds=sum(record.earlier for record in records) + time.perf_counter() - start,
        data={
            "curve": [(point.step, _selecting(point.values["dev"]), point.values["teacher"]) for point in curve],
            "logged": [(point.step, point.logged) for point in curve],
            "influences": [point.values["influences"] for point in curve if "influences" in point.values],
        },
        versions=_VERSIONS,
    )


class _Run:
    """A distiller that steps on minibatches of the training data, and of feedback if it needs that."""

    def __init__(self, setting: Setting, distiller: Distiller, data: Tokens, seed: int) -> None:
        self.setting, self.distiller, self.data, self.seed = setting, distiller, data, seed
        rng, size, total = generator(seed, Purpose.BATCHES), setting.batch_size, distiller.settings.steps
        self.order, self.feedback = (
            torch.from_numpy(minibatches(rng, np.arange(samples), min(size, samples), total))
            for samples in (len(data.train.labels), len(data.feedback.labels))
        )

    def step(self, number: int) -> dict[str, float]:
        """Takes the distiller's step on the next minibatch."""
        batch, feedback = self.data.train.at(self.order[number]), None
        if self.distiller.needs_feedback:
            feedback = self.data.feedback.at(self.feedback[number])
        with matmuls("medium"), torch_seed(self.seed, Purpose.DROPOUT, number):
            return self.distiller.step(batch, feedback)

    def state(self) -> dict[str, Any]:
        """All that changes in training."""
        return {"distiller": self.distiller.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.distiller.load(state["distiller"])


class _Tuning(_Run):
    """A teacher whose states at the stops are its route."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.route: list[dict[str, torch.Tensor]] = []

    def evaluate(self, record: Record) -> dict[str, Any]:
        """Keeps the teacher as it is, as one of the states on its route."""
        weights = self.distiller.student.network.state_dict()
        self.route.append({name: tensor.clone() for name, tensor in weights.items()})
        return {}

    def state(self) -> dict[str, Any]:
        """All that changes in training."""
        return {**super().state(), "route": self.route}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        super().load(state)
        self.route = state["route"]


class _Distilling(_Run):
    """A student that is measured on dev, beside its teacher."""

    def evaluate(self, record: Record) -> dict[str, Any]:
        """Measures the student on dev, and offers it to the record."""
        student, about = self.distiller.student.network, self.data.about
        values: dict[str, Any] = {"dev": evaluate(student, self.data.dev, about)}
        record.offer("student", _selecting(values["dev"]), student)
        if self.distiller.teacher_learns or not record.curve:
            values["teacher"] = _selecting(evaluate(self.distiller.teacher.network, self.data.dev, about))
        else:
            values["teacher"] = record.curve[-1].values["teacher"]
        if isinstance(self.distiller, LGTM):
            values["influences"] = _influences(self.distiller, self.data, self.setting)
        return values


def _route(teacher: Path | None) -> list[Mapping[str, Any]]:
    route: list[Mapping[str, Any]] = [] if teacher is None else checkpoints.load(teacher / TEACHER, _ROUTE)
    return route


def _named(split: str, scores: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}_{name}": value for name, value in scores.items()}


def _selecting(scores: Mapping[str, float]) -> float:
    """What checkpoints are selected by: F1 where the task has it, else accuracy, as the released code does."""
    return scores.get("f1", scores["accuracy"])


def _influences(distiller: LGTM, data: Tokens, setting: Setting) -> list[float]:
    """Distillation influence of the first training samples on the loss of all feedback, at the student as it is."""
    size = setting.batch_size
    watched = data.train.at(slice(0, setting.watched))
    held_out = data.feedback.at(slice(0, 4 * size))
    v = distiller.student.held_out_gradient(held_out, {})
    values = []
    for i in range(0, len(watched.labels), size):
        batch = watched.at(slice(i, i + size))
        with torch.no_grad():
            taught = distiller.teacher.outputs(batch.inputs, training=False).logits

        def losses(student: nn.Module, part: Any) -> torch.Tensor:
            inputs, logits = part
            return soft_cross_entropy(logits, student(inputs).logits, distiller.settings.temperature)

        values += influence(distiller.student.network, losses, (batch.inputs, taught), v).tolist()
    return [round(value, 6) for value in values]
