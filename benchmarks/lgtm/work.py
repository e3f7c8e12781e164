"""One run: a student is distilled, measured on dev as it goes, and its best weights on test."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.lgtm.methods import ALONE, Method
from benchmarks.lgtm.setting import Parts, Setting
from meta import influence
from meta.distillation import LGTM, Batch, DistillationSettings, Distiller, FineTuning
from meta.distillation.learner import outputs_of
from meta.distillation.losses import soft_cross_entropy
from teachenv import checkpoints
from teachenv.experiment import loop
from teachenv.experiment.cases import Outcome
from teachenv.experiment.loop import Record
from teachenv.experiment.precision import matmuls
from teachenv.minibatches import minibatches
from teachenv.randomness import Purpose, generator, torch_seed
from teachenv.trees import mapped

TEACHER = "teacher"
"""The file of a fine-tuned teacher: a list of its `state_dict`s on the way, the last of which is the finished one's."""

# What files hold, as `teachenv.checkpoints` has it.
_ROUTE, _TUNING = "a teacher that was fine-tuned", "the fine-tuning of a teacher"


def steps_of(setting: Setting, epochs: float, samples: int) -> int:
    """The number of minibatches in a training run."""
    return max(1, round(epochs * (samples // setting.batch_size)))


def fine_tune(
    setting: Setting, seed: int, stops: int, folder: Path, method: Method | None = None, test: bool = True
) -> Outcome | None:
    """Fine-tunes the teacher of fixed-teacher methods, and keeps so many of its states.

    Args:
        setting: data and networks.
        seed: decides all randomness.
        stops: states on the way, the finished one among them.
        folder: where they are kept.
        method: which data the teacher learns: see `Method.mixed` and `Method.tuned_on_feedback`; None: training data.
        test: whether it is measured on test; if not, no rows come of it.
    """
    start, parts = time.perf_counter(), setting.parts(seed)
    with torch_seed(seed, Purpose.INIT):
        teacher = setting.network(None, parts.classes)
    total = steps_of(setting, setting.fine_tuning_epochs, len(parts.train.labels))
    distiller = FineTuning(teacher, DistillationSettings(total, setting.teacher_rate))
    run = _Tuning(setting, method or Method(ALONE), distiller, parts, seed)
    half = folder / "half"
    record = loop.train(run, loop.evenly(total, stops), half, _TUNING)
    checkpoints.save(folder / TEACHER, run.route, _ROUTE)
    half.unlink()
    if not test:
        return None
    return Outcome(
        values=_named("test", setting.evaluate(teacher, parts.test, parts.test.labels, parts).scores),
        student_steps=0,  # students spend none on it
        seconds=record.earlier + time.perf_counter() - start,
        versions=setting.versions,
    )


def distil(
    setting: Setting, method: Method, seed: int, folder: Path, teacher: Path | None = None, test: bool = True
) -> Outcome:
    """Distils a student, and measures the weights that are best on dev.

    Args:
        setting: data and networks.
        method: how.
        seed: decides all randomness.
        folder: where training runs are kept, and from where they go on.
        teacher: folder of what `fine_tune` made.
        test: whether test is touched, and what figures need is kept; a training run that tunes does neither.

    Returns:
        Scores and data: the `curve` (step, score on dev, the teacher's), what was `logged` (step, means since the last
        evaluation), `measured` (step, loss on dev's right labels, entropy, the teacher's two), `predictions` of the
        first samples of dev, and the `influences` of the watched samples at each evaluation. Steps are of students, an
        assistant among them; the seconds leave out the fine-tuning.
    """
    start, parts = time.perf_counter(), setting.parts(seed)
    make = functools.partial(setting.network, classes=parts.classes)
    with torch_seed(seed, Purpose.INIT, 1):
        source, route = make(None), _route(teacher)
    if teacher is not None:
        with checkpoints.going_on_from(teacher / TEACHER):
            source.load_state_dict(route[-1])
    hops = [setting.size]
    if method.distiller == "takd":
        # One assistant, of a size between theirs.
        hops.insert(0, setting.between(source))
    total, records = steps_of(setting, setting.epochs, len(parts.train.labels)), []
    rates = {"student_rate": setting.student_rate, "teacher_rate": setting.teacher_rate}
    for hop, size in enumerate(hops):
        hop_seed = seed + 1000 * hop
        with torch_seed(hop_seed, Purpose.INIT, 2):
            student = make(size)
        settings = DistillationSettings(total, **{**rates, **method.settings})
        with torch_seed(hop_seed, Purpose.INIT):  # of adapters
            distiller = method.build(source, student, settings, route)
        run = _Distilling(setting, method, distiller, parts, hop_seed)
        stops = loop.evenly(total, setting.evaluations)
        records.append(loop.train(run, stops, folder / str(hop), "a distillation"))
        source = student
    best, curve = records[-1].best["student"], records[-1].curve
    values = _named("dev", next(point.values["dev"] for point in curve if point.step == best.step))
    if test:
        source.load_state_dict(best.weights)
        values |= _named("test", setting.evaluate(source, parts.test, parts.test.labels, parts).scores)
    return Outcome(
        values=values,
        student_steps=total * len(hops),
        seconds=sum(record.earlier for record in records) + time.perf_counter() - start,
        data=_data(setting, curve) if test else None,
        versions=setting.versions,
    )


def _data(setting: Setting, curve: list[loop.Point]) -> dict[str, Any]:
    """What figures need of a training run."""
    return {
        "curve": [(point.step, setting.selecting(point.values["dev"]), point.values["teacher"]) for point in curve],
        "logged": [(point.step, {key: _short(value) for key, value in point.logged.items()}) for point in curve],
        "measured": [(point.step, *map(_short, point.values["measured"])) for point in curve],
        "predictions": [point.values["predictions"] for point in curve],
        "influences": [point.values["influences"] for point in curve if "influences" in point.values],
    }


def _short(value: float | None) -> float | None:
    """A number of a figure, in six digits."""
    return None if value is None else float(f"{value:.6g}")


class _Run:
    """A distiller that steps on minibatches of the training data, and of feedback if it needs that."""

    def __init__(self, setting: Setting, method: Method, distiller: Distiller, parts: Parts, seed: int) -> None:
        self.setting, self.distiller, self.parts, self.seed = setting, distiller, parts, seed
        self.train = parts.train
        rng, size, total = generator(seed, Purpose.BATCHES), setting.batch_size, distiller.settings.steps
        mixed = round(method.mixed * size)

        def order(batch: Batch, size: int) -> torch.Tensor:
            samples = len(batch.labels)
            lengths = setting.lengths(batch)
            return torch.from_numpy(minibatches(rng, np.arange(samples), min(size, samples), total, lengths))

        self.order, self.feedback = order(self.train, size - mixed), order(parts.feedback, size)
        self.mixed = order(parts.feedback, mixed) if mixed else None
        distiller.prepare(self.train)

    def step(self, number: int) -> dict[str, float]:
        """Takes the distiller's step on the next minibatch."""
        setting, batch, feedback = self.setting, self.train.at(self.order[number]), None
        if self.mixed is not None:
            batch = mapped(lambda *both: torch.cat(both), batch, self.parts.feedback.at(self.mixed[number]))
        if self.distiller.needs_feedback:
            feedback = setting.trimmed(self.parts.feedback.at(self.feedback[number]))
        with matmuls(setting.precision), torch_seed(self.seed, Purpose.DROPOUT, number):
            return self.distiller.step(setting.trimmed(batch), feedback)

    def state(self) -> dict[str, Any]:
        """All that changes in training."""
        return {"distiller": self.distiller.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.distiller.load(state["distiller"])


class _Tuning(_Run):
    """A teacher whose states at the stops are its route."""

    def __init__(self, setting: Setting, method: Method, distiller: Distiller, parts: Parts, seed: int) -> None:
        if method.tuned_on_feedback:
            parts = replace(parts, train=parts.feedback)
        super().__init__(setting, method, distiller, parts, seed)
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
    """A student that is measured on dev, beside its teacher if it has one."""

    def evaluate(self, record: Record) -> dict[str, Any]:
        """Measures the student on dev, and offers it to the record."""
        student, parts, setting = self.distiller.student.network, self.parts, self.setting
        right = parts.true_dev.labels
        quality = setting.evaluate(student, parts.dev, right, parts)
        record.offer("student", setting.selecting(quality.scores), student)
        values: dict[str, Any] = {"dev": quality.scores, "predictions": quality.predictions}
        if isinstance(self.distiller, FineTuning):
            taught: tuple[float | None, ...] = (None, None, None)
        elif self.distiller.teacher_learns or not record.curve:
            whole = setting.evaluate(self.distiller.teacher.network, parts.dev, right, parts)
            taught = setting.selecting(whole.scores), whole.loss, whole.entropy
        else:
            before = record.curve[-1].values
            taught = (before["teacher"], *before["measured"][2:])
        values |= {"teacher": taught[0], "measured": (quality.loss, quality.entropy, *taught[1:])}
        if isinstance(self.distiller, LGTM) and setting.watched:
            values["influences"] = _influences(self.distiller, parts, setting)
        return values


def _route(teacher: Path | None) -> list[Mapping[str, Any]]:
    route: list[Mapping[str, Any]] = [] if teacher is None else checkpoints.load(teacher / TEACHER, _ROUTE)
    return route


def _named(split: str, scores: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}_{name}": value for name, value in scores.items()}


def _influences(distiller: LGTM, data: Parts, setting: Setting) -> list[float]:
    """Distillation influence of the first training samples on the loss of all feedback, at the student as it is."""
    size = setting.batch_size
    watched = data.train.at(slice(0, setting.watched))
    held_out = data.feedback.at(slice(0, 4 * size))
    v = distiller.student.held_out_gradient(held_out, {})
    values = []
    for i in range(0, len(watched.labels), size):
        batch = watched.at(slice(i, i + size))
        with torch.no_grad():
            taught = distiller.teacher.outputs(batch, training=False).logits

        def losses(student: nn.Module, part: Any) -> torch.Tensor:
            batch, logits = part
            each = soft_cross_entropy(logits, outputs_of(student, batch).logits, distiller.settings.temperature)
            per_sample: torch.Tensor = batch.of_samples(each)
            return per_sample

        values += influence(distiller.student.network, losses, (batch, taught), v).tolist()
    return [round(value, 6) for value in values]
