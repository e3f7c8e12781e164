"""GLUE's classification tasks (Wang et al. 2019), from the tab-separated files that it is distributed as.

A task lies in a folder of its own, `MRPC/train.tsv` and so on, directly in a data root or in its folder `glue`. GLUE
publishes no labels for its test files; results are reported on its dev files, except for MRPC, whose original corpus
has a labelled test set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from teachenv.data.reading import damaged, honest_name, text_lines
from teachenv.data.root import FileDataset, fetch, fetch_archive, find_dataset
from teachenv.errors import unknown_name
from teachenv.randomness import Purpose, generator

Protocol = Literal["three-way", "two-way"]

_ARCHIVES = "https://dl.fbaipublicfiles.com/glue/data"
_MRPC = "https://dl.fbaipublicfiles.com/senteval/senteval_data"


@dataclass(frozen=True)
class GlueTask:
    """A task's files: where they lie and how they are written.

    Attributes:
        folder: name of the task's folder.
        texts: columns of the one or two sentences.
        label: column of the label.
        labels: what stands there for class 0, 1, ...
        rows: number of rows of each official file, by split.
        files: names of the files, by split.
        archive: name of the archive that is downloaded; None: the files come from elsewhere, one by one.
        f1: whether it is scored by F1 beside the accuracy.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    rows: Mapping[str, int]
    files: Mapping[str, str] = field(default_factory=lambda: {"train": "train.tsv", "dev": "dev.tsv"})
    archive: str | None = None
    f1: bool = False


GLUE = {
    "mrpc": GlueTask(
        "MRPC",
        ("#1 String", "#2 String"),
        "Quality",
        ("0", "1"),
        {"train": 3_668, "dev": 408, "test": 1_725},
        {"train": "train.tsv", "dev": "dev.tsv", "test": "msr_paraphrase_test.txt"},
        f1=True,
    ),
    "rte": GlueTask(
        "RTE",
        ("sentence1", "sentence2"),
        "label",
        ("entailment", "not_entailment"),
        {"train": 2_490, "dev": 277},
        archive="RTE.zip",
    ),
    "sst-2": GlueTask("SST-2", ("sentence",), "label", ("0", "1"), {"train": 67_349, "dev": 872}, archive="SST-2.zip"),
    "mnli": GlueTask(
        "MNLI",
        ("sentence1", "sentence2"),
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        {"train": 392_702, "dev": 9_815},
        {"train": "train.tsv", "dev": "dev_matched.tsv"},
        archive="MNLI.zip",
    ),
    "qnli": GlueTask(
        "QNLI",
        ("question", "sentence"),
        "label",
        ("entailment", "not_entailment"),
        {"train": 104_743, "dev": 5_463},
        archive="QNLIv2.zip",
    ),
    # A few lines of its files lack their last columns; they are left out, as everybody does.
    "qqp": GlueTask(
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        ("0", "1"),
        {"train": 363_846, "dev": 40_430},
        archive="QQP-clean.zip",
        f1=True,
    ),
}


@dataclass(frozen=True)
class Texts:
    """Labelled sentences or pairs of sentences.

    Attributes:
        first: the sentences.
        second: the second one of each pair; None for a task of single sentences.
        labels: (n,) int64 classes.
    """

    first: list[str]
    second: list[str] | None
    labels: np.ndarray

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.labels)

    def at(self, indices: Sequence[int] | np.ndarray) -> Texts:
        """The samples at the indices, in their order."""
        second = None if self.second is None else [self.second[i] for i in indices]
        return Texts([self.first[i] for i in indices], second, self.labels[np.asarray(indices, dtype=int)])


@dataclass(frozen=True)
class GlueData:
    """A task's samples by what they are for.

    Attributes:
        name: the task's name.
        dataset: what the data really is: `"glue-<name>"`, or `"glue-<name>-subset-<training rows>"` if the files have
            other numbers of rows than GLUE's.
        num_classes: number of classes.
        f1: whether F1 is reported beside the accuracy.
        train: what is trained on.
        feedback: what a teacher learns from how well students do on it.
        dev: what checkpoints and hyperparameters are selected on.
        test: what is reported.
    """

    name: str
    dataset: str
    num_classes: int
    f1: bool
    train: Texts
    feedback: Texts
    dev: Texts
    test: Texts

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The task's metrics, fractions: `accuracy`, and `f1` of class 1 for MRPC and QQP."""
        metrics = {"accuracy": float(np.mean(predictions == labels))}
        if self.f1:
            positive, wanted = predictions == 1, labels == 1
            metrics["f1"] = float(2 * np.sum(positive & wanted) / max(np.sum(positive) + np.sum(wanted), 1))
        return metrics


def load_glue(
    name: str,
    *,
    data_root: str | os.PathLike[str] | None = None,
    protocol: Protocol = "three-way",
    train_size: int | None = None,
    feedback_size: float = 0.1,
    dev_size: float = 0.1,
    split_seed: int = 0,
) -> GlueData:
    """Loads the samples of a GLUE task.

    Args:
        name: `"mrpc"`, `"rte"`, `"sst-2"`, `"mnli"` (matched dev), `"qnli"` or `"qqp"`.
        data_root: where the files are; None: the usual places (see `teachenv.data.root`).
        protocol: `"three-way"`: feedback is drawn from GLUE's training data and trained on no more; GLUE's dev data is
            test, and dev is drawn from the training data as well (MRPC has labels for test: there dev is GLUE's own).
            `"two-way"`: feedback, dev and test are all GLUE's dev data, as in the code of Ren et al. 2023; its scores
            are of data that was taught with and selected on.
        train_size: samples to train on, drawn from what the protocol leaves; None: all.
        feedback_size: samples of feedback, or, below 1, their part of GLUE's training data; `"three-way"` only.
        dev_size: the same of dev, where it is drawn.
        split_seed: seed of these draws.

    Raises:
        DatasetUnavailable: the files cannot be had, or one is damaged.
        ValueError: an unknown name or protocol, or sizes beyond the data's.

    Warns:
        UserWarning: the files have other numbers of rows than GLUE's; `dataset` then says so.
    """
    if name not in GLUE:
        raise unknown_name("GLUE task", name, GLUE)
    if protocol not in ("three-way", "two-way"):
        raise unknown_name("protocol", protocol, ("three-way", "two-way"))
    task = GLUE[name]
    paths = {split: f"{task.folder}/{file}" for split, file in task.files.items()}
    files = FileDataset(f"GLUE's {task.folder}", "glue", dict.fromkeys(paths.values(), ""), partial(_download, task))
    directory = find_dataset(files, data_root)
    splits = {split: _read(directory / path, task) for split, path in paths.items()}
    sizes = {f"{split} rows": len(part) for split, part in splits.items()}
    official = {f"{split} rows": rows for split, rows in task.rows.items()}
    dataset = honest_name(f"glue-{name}", directory / task.folder, sizes, official)
    whole, left = splits["train"], generator(split_seed, Purpose.SPLIT).permutation(len(splits["train"]))
    drawn = partial(_drawn, whole, name)
    feedback = dev = test = splits["dev"]
    if protocol == "three-way":
        feedback, left = drawn("feedback_size", feedback_size, left)
        if "test" in splits:
            test = splits["test"]
        else:
            dev, left = drawn("dev_size", dev_size, left)
    train, _ = drawn("train_size", len(left) if train_size is None else train_size, left)
    return GlueData(name, dataset, len(task.labels), task.f1, train, feedback, dev, test)


def _drawn(whole: Texts, name: str, option: str, size: float, left: np.ndarray) -> tuple[Texts, np.ndarray]:
    """The first samples of those that are left, as an option asks for them, and the rows of the others."""
    count = round(size * len(whole)) if size < 1 else int(size)
    if not 0 < count <= len(left):
        raise ValueError(
            f"{option}={size} asks for {count} of the {len(left)} training samples of {name!r} that are left; "
            "expected at least one, and no more than that"
        )
    return whole.at(left[:count]), left[count:]


def _read(path: Path, task: GlueTask) -> Texts:
    """The rows of a file; quotation marks are text in it, and some files begin with a byte-order mark."""
    lines = [line.split("\t") for line in text_lines(path)]
    if not lines:
        raise damaged(path, "it is empty")
    header, *lines = lines
    missing = [column for column in (*task.texts, task.label) if column not in header]
    if missing:
        raise damaged(path, f"its header has no column {', '.join(map(repr, missing))}, but {header}")
    texts, label = [header.index(column) for column in task.texts], header.index(task.label)
    rows = [line for line in lines if len(line) > max(*texts, label)]
    if len(lines) - len(rows) > len(lines) // 1000 + 1:
        raise damaged(path, f"{len(lines) - len(rows)} of its {len(lines)} rows lack columns")
    if not rows:
        raise damaged(path, "it has no row")
    classes = {name: number for number, name in enumerate(task.labels)}
    if unknown := sorted({row[label] for row in rows} - classes.keys()):
        raise damaged(path, f"found the labels {unknown}, expected {', '.join(task.labels)}")
    columns = [[row[i] for row in rows] for i in texts]
    return Texts(columns[0], columns[1] if len(columns) > 1 else None, np.array([classes[r[label]] for r in rows]))


def _download(task: GlueTask, directory: Path) -> None:
    if task.archive is not None:
        fetch_archive(f"{_ARCHIVES}/{task.archive}", directory)
        return
    # MRPC's licence keeps GLUE from packing it: its corpus comes from elsewhere, and a list says which pairs are dev.
    folder = directory / task.folder
    for url in (
        f"{_MRPC}/msr_paraphrase_train.txt",
        f"{_MRPC}/msr_paraphrase_test.txt",
        f"{_ARCHIVES}/mrpc_dev_ids.tsv",
    ):
        fetch(url, folder)
    ids = {tuple(line.split("\t")) for line in text_lines(folder / "mrpc_dev_ids.tsv")}
    header, *rows = text_lines(folder / "msr_paraphrase_train.txt")
    for split, of_dev in (("train", False), ("dev", True)):
        chosen = [row for row in rows if (tuple(row.split("\t")[1:3]) in ids) == of_dev]
        (folder / task.files[split]).write_text("\n".join([header, *chosen]) + "\n", "utf-8")
