"""Wrong labels found: `meta.label_issues` beside cleanlab's confident learning, on digits and MNIST.

Some labels are made wrong, and each method ranks the samples. Measured are the area under the curve of wrong labels
against right ones (`auc`), and the share of wrong labels among the first hundred and among as many as there are
(`precision_at_100`, `precision_at_wrong`).

Where there are trusted samples, all methods are trained on them too, and rank the others.

cleanlab makes the class probabilities by its own cross-validation of five folds, once of the network that
`meta.label_issues` trains, and once of the logistic regression that is its default and that its tutorials take for
tables; both on inputs of mean 0 and variance 1. Of its label qualities (the probability of the label as given; its
margin; the margin after confident learning's correction of the probabilities by each class's mean confidence) the best
by the area counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import meta
from benchmarks.attribution.measure import FAILURES, failed
from benchmarks.options import Preset
from meta.influence.held_out import DEFAULTS
from teachenv import Task, TeachEnv
from teachenv.experiment.cases import Outcome
from teachenv.tasks import make_task


class Noise(NamedTuple):
    """Which labels are wrong.

    Attributes:
        rate: fraction of wrong labels.
        kind: `"pair"` or `"symmetric"`.
        trusted: how many samples with right labels there are beside them.
    """

    rate: float
    kind: str
    trusted: int

    @property
    def name(self) -> str:
        """The end of the task's name."""
        return f"{self.kind}-{100 * self.rate:g}" + (f"-trusted-{self.trusted}" if self.trusted else "")


NOISES = (Noise(0.4, "pair", 100), Noise(0.4, "pair", 0), Noise(0.3, "symmetric", 0))


class Size(NamedTuple):
    """What a preset spends on a data set: samples, repetitions, and options of `meta.label_issues`."""

    samples: int
    seeds: int
    options: Mapping[str, int] = {}


SIZES: dict[Preset, dict[str, Size]] = {
    "smoke": {"digits": Size(100, 1, {"repeats": 1, "rounds": 1, "steps": 10})},
    "laptop": {"digits": Size(1000, 3), "mnist": Size(5000, 3, {"repeats": 2})},
    "paper": {"digits": Size(1000, 10), "mnist": Size(5000, 10)},
}
_FIRST_SEED = 100
"""Of data and trainings: the defaults of `meta.label_issues` were chosen on smaller ones."""


class Data(NamedTuple):
    """Labelled samples, as a task has them.

    Attributes:
        inputs: of the samples to be ranked, (n, features) or (n, channels, height, width).
        labels: theirs, some of them wrong.
        wrong: which of them.
        trusted: inputs and right labels of others, or None.
        options: options of `meta.label_issues`.
        seed: of all that is drawn.
    """

    inputs: np.ndarray
    labels: np.ndarray
    wrong: np.ndarray
    trusted: tuple[np.ndarray, np.ndarray] | None
    options: Mapping[str, int]
    seed: int


class Student(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The network that `meta.label_issues` trains, with its options, as an estimator of scikit-learn.

    Args:
        steps: student steps; None: ten epochs, at most 1,000.
        seed: of the training.
    """

    def __init__(self, steps: int | None = None, seed: int = 0) -> None:
        self.steps, self.seed = steps, seed

    def fit(self, inputs: np.ndarray, labels: np.ndarray) -> Student:
        """Trains on samples, (n, features), and labels from 0 on."""
        self.classes_ = np.unique(labels)
        samples = torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels)
        batch = min(len(labels), 32 if len(labels) < 2500 else 64)
        steps = self.steps or min(1000, 10 * (len(labels) // batch))
        task = Task("samples", "samples", samples, (samples[0][:1], samples[1][:1]), len(self.classes_))
        plain = {"loss": "data-weights", "train_on": "pool", "dev_size": 1, "steps_per_action": steps}
        options: dict[str, Any] = {**DEFAULTS, **plain, "horizon": steps, "batch_size": batch}
        self.env_ = TeachEnv(task=task, **options)
        self.env_.reset(seed=self.seed)
        self.env_.step(np.zeros(len(labels), dtype=np.float32))
        return self

    def predict_proba(self, inputs: np.ndarray) -> np.ndarray:
        """The class probabilities, (n, classes)."""
        return torch.softmax(self.env_.predict(torch.from_numpy(inputs.astype(np.float32))), -1).numpy()

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """The most probable classes, (n,)."""
        most_probable: np.ndarray = self.classes_[self.predict_proba(inputs).argmax(1)]
        return most_probable


def _ours(data: Data) -> Sequence[np.ndarray]:
    pair = data.inputs, data.labels
    return [meta.label_issues(pair, trusted=data.trusted, seed=data.seed, **data.options).scores]


def _cleanlab(estimator: Callable[[Data], Any], data: Data) -> Sequence[np.ndarray]:
    from cleanlab.count import estimate_cv_predicted_probabilities
    from cleanlab.rank import get_label_quality_scores

    inputs, labels = data.inputs, data.labels
    if data.trusted is not None:
        inputs, labels = (np.concatenate(pair) for pair in zip((inputs, labels), data.trusted, strict=True))
    # As `meta.label_issues` does: the columns of a table each, images as a whole.
    axis = 0 if inputs.ndim == 2 else None
    varied = inputs.max(axis) > inputs.min(axis)
    scaled = ((inputs - inputs.mean(axis)) / np.where(varied, inputs.std(axis), 1)).reshape(len(labels), -1)
    probabilities = estimate_cv_predicted_probabilities(scaled, labels, estimator(data), cv_n_folds=5, seed=data.seed)
    qualities = [get_label_quality_scores(labels, probabilities, **options) for options in _QUALITIES]
    return [-quality[: len(data.labels)] for quality in qualities]


METHODS: dict[str, Callable[[Data], Sequence[np.ndarray]]] = {
    "label_issues": _ours,
    "cleanlab:same-network": lambda data: _cleanlab(lambda data: Student(data.options.get("steps"), data.seed), data),
    "cleanlab:logistic-regression": lambda data: _cleanlab(lambda data: LogisticRegression(max_iter=1000), data),
}
_QUALITIES: Sequence[Mapping[str, Any]] = (
    {"method": "self_confidence"},
    {"method": "normalized_margin"},
    {"method": "normalized_margin", "adjust_pred_probs": True},
)


def measured(
    method: str, task: str, noise: Noise, size: Size, seed: int, data_root: str | None, folder: Path
) -> Outcome:
    """How well a method finds wrong labels; or why it does not.

    Args:
        method: a name in `METHODS`.
        task: `"digits"` or `"mnist"`.
        noise: which labels are wrong.
        size: how many samples there are, and our options.
        seed: of samples, noise and training runs.
        data_root: the folder of the data sets.
        folder: is not used.
    """
    data = _data(task, noise, size, _FIRST_SEED + seed, data_root)
    begin = time.perf_counter()
    try:
        choices = METHODS[method](data)
    except FAILURES as failure:
        if method == "label_issues":
            raise
        return failed(failure)
    seconds = time.perf_counter() - begin
    scores = max(choices, key=lambda each: float(roc_auc_score(data.wrong, each)))
    ranked = data.wrong[np.argsort(-scores, kind="stable")]
    values = {"precision_at_100": ranked[:100].mean(), "precision_at_wrong": ranked[: data.wrong.sum()].mean()}
    return Outcome(values={**values, "auc": roc_auc_score(data.wrong, scores)}, student_steps=0, seconds=seconds)


def _data(name: str, noise: Noise, size: Size, seed: int, data_root: str | None) -> Data:
    clean = make_task(name, data_root=data_root, pool_size=size.samples, split_seed=seed)
    noisy = clean.with_label_noise(noise.rate, noise.kind, seed)
    (inputs, labels), (others, rights) = ([part.numpy() for part in split] for split in (noisy.pool, noisy.test))
    trusted = (others[: noise.trusted], rights[: noise.trusted]) if noise.trusted else None
    return Data(inputs, labels, labels != clean.pool[1].numpy(), trusted, size.options, seed)
