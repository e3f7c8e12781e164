"""Learning from teaching on image–text matching: captions, the contrastive loss, and what is measured."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.__main__ import main as command_line
from benchmarks.lot.methods import LOT
from benchmarks.lot.problem import parameters_of
from benchmarks.lot.work import Run
from benchmarks.lot_multimodal import main
from benchmarks.lot_multimodal.captions import (
    BRIGHTNESSES,
    COLOURS,
    NAMES,
    TEMPLATES,
    Thresholds,
    Writer,
    attributes,
    make_captions,
)
from benchmarks.lot_multimodal.networks import TwoTowers
from benchmarks.lot_multimodal.problem import PairProblem
from meta import imitability
from teachenv.experiment.rows import read_rows
from teachenv.tasks import synthetic

PAIRS = PairProblem(
    "synthetic", "two-towers-4", task_options={"pool_size": 80}, epochs=1, learning_rate=1e-3, optimizer_name="adam",
    batch_size=16, augment=False, valid_size=0.5, weight_decay=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of test is measured again and again."""
    monkeypatch.setattr(synthetic, "make_synthetic", functools.partial(synthetic.make_synthetic, test_size=24))


def words(numbers: torch.Tensor, vocabulary: tuple[str, ...]) -> str:
    return " ".join(vocabulary[number] for number in numbers if number)


@pytest.mark.parametrize("task", NAMES)
def test_every_caption_can_be_written_and_every_name_means_one_class(task: str) -> None:
    writer = Writer(NAMES[task])
    names = [name for of_class in NAMES[task] for name in of_class]
    assert len(set(names)) == len(names)
    for name in names:
        for colour, brightness in zip(COLOURS, (*BRIGHTNESSES, BRIGHTNESSES[0]), strict=True):
            lines = [template.format(name=name, colour=colour, brightness=brightness) for template in TEMPLATES]
            assert [words(row, writer.vocabulary) for row in writer.numbers(lines)] == lines


def test_captions_say_what_images_are_told_to_be() -> None:
    """The class of the label, wrong or not, and the colour and brightness that the pixels have."""
    problem = replace(PAIRS, label_noise=0.4)
    captions, data = problem.captions, problem.data
    (images, labels), names = data.train, NAMES["synthetic"]
    colours, brightnesses = attributes(images, Thresholds.of(images))
    for row, label, colour, brightness in zip(captions.train, labels.tolist(), colours, brightnesses, strict=True):
        text = words(row, captions.vocabulary)
        assert [of for of in range(10) if any(name in text for name in names[of])] == [label]
        assert {word for word in COLOURS if word in text.split()} <= {COLOURS[colour]}
        assert {word for word in BRIGHTNESSES if word in text.split()} <= {BRIGHTNESSES[brightness]}
    wrong = (labels != PAIRS.data.train[1]).double().mean()
    assert 0.2 < float(wrong) < 0.6
    assert torch.equal(data.test[1], PAIRS.data.test[1])
    make_captions.cache_clear()
    assert all(torch.equal(now, then) for now, then in zip(problem.captions[1:], captions[1:], strict=True))


def test_attributes_are_measured_on_pixels() -> None:
    images = torch.zeros(4, 3, 2, 2)
    images[0] += 0.3
    images[1, 0] += 0.1
    images[2, 2] += 0.2
    images[3] -= 0.3
    colour, brightness = attributes(images, Thresholds(dark=-0.1, bright=0.1, coloured=0.05))
    assert [COLOURS[c] for c in colour] == ["grey", "red", "blue", "grey"]
    assert [BRIGHTNESSES[b] for b in brightness] == ["bright", "plain", "plain", "dark"]
    assert np.isclose(Thresholds.of(images).coloured, 1 / 30)


def test_the_loss_is_the_symmetric_contrastive_one() -> None:
    """The mean of the cross-entropies of rows and of columns, as in the paper's pseudocode."""
    run = Run(PAIRS, LOT, 0)
    (images, captions), _ = PAIRS.batch(0, 0, for_students=False)
    with torch.no_grad():
        towers = run.model
        assert isinstance(towers, TwoTowers)
        matrix = towers.log_scale.exp() * towers.embedded(images) @ towers.embedded_texts(captions).T
        student = run.imitators[0]((images, captions))
    own = torch.arange(len(images))
    expected = (F.cross_entropy(matrix, own) + F.cross_entropy(matrix.T, own)) / 2
    both = (imitability(matrix, student[0], 1.5) + imitability(matrix.T, student[0].T, 1.5)) / 2
    logged = run.step(0)
    assert logged["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert logged["term"] == pytest.approx(float(both), rel=1e-4)


def test_captions_stay_with_their_images() -> None:
    pool, captions = PAIRS.data.train[0], PAIRS.captions.train
    for own in (False, True):
        (images, texts), places = PAIRS.batch(0, 1, for_students=own)
        numbers = [int((pool == image).flatten(1).all(1).nonzero()[0, 0]) for image in images]
        assert torch.equal(texts, captions[numbers])
        assert places.tolist() == [list(range(16))] * 2


class Knowing(TwoTowers):
    """Towers of which the one for texts reads the class, and the one for images gets it as its input."""

    def __init__(self, labels: torch.Tensor, names: torch.Tensor) -> None:
        super().__init__((3, 32, 32), 4, 4)
        self.labels, self.names, self.place = labels, names, 0

    def embedded(self, images: torch.Tensor) -> torch.Tensor:
        labels = self.labels[self.place : self.place + len(images)]
        self.place += len(images)
        return F.one_hot(labels, 10).float()

    def embedded_texts(self, texts: torch.Tensor) -> torch.Tensor:
        found = (texts[:, None] == self.names).all(-1).double().argmax(1)
        return F.one_hot(found // (len(self.names) // 10), 10).float()


def test_classes_are_found_by_prompts() -> None:
    prompts, labels = PAIRS.captions.prompts.flatten(0, 1), PAIRS.data.test[1]
    assert PAIRS.evaluate(Knowing(labels, prompts), "test") == 1.0
    assert PAIRS.evaluate(Knowing((labels + 1) % 10, prompts), "test") == 0.0


def test_the_same_words_are_found_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recall counts captions, not places: among equal captions each is right, and only then."""
    captions = PAIRS.captions
    few = torch.arange(24) // 8  # three captions, eight times each
    same = captions._replace(test=captions.train[:3][few])
    monkeypatch.setattr(PairProblem, "captions", property(lambda self: same))

    class First(TwoTowers):
        def forward(self, pairs: Any) -> torch.Tensor:
            logits = torch.zeros(len(pairs[0]), len(pairs[0]))
            logits[:, 0] = 1.0
            return torch.stack([logits, logits])

    recall = replace(PAIRS, batch_size=24).further(First((3, 32, 32), len(captions.vocabulary), 4))["recall_at_1"]
    assert recall == pytest.approx(8 / 24)


def test_students_are_smaller_and_leave_a_model_alone_that_does_not_care(tmp_path: Path) -> None:
    small = PAIRS.with_students(0.25)
    shares = [parameters_of(small.network(role)) for role in ("student", "teacher")]
    assert 0.1 < shares[0] / shares[1] < 0.4
    runs = [Run(small, replace(LOT, students=students, alpha=0.0), 0) for students in (0, 1)]
    for run in runs:
        run.finish(tmp_path / str(len(run.imitators)))
    for name, tensor in runs[0].model.state_dict().items():
        assert torch.equal(tensor, runs[1].model.state_dict()[name]), name


def test_the_command_measures_accuracy_and_recall(undrawn: None, tmp_path: Path) -> None:
    command = ["lot_multimodal", "--preset", "smoke", "--train-size", "32", "--backend", "inline"]
    command += ["--out", str(tmp_path), "--methods", "teacher-only", "lot:size-1/4"]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.task for row in rows} == {"synthetic-pairs-32-wrong-40"}
    judged = {row.metric for row in rows if row.method == "lot:size-1/4" and row.config["stage"] == "training"}
    assert judged >= {"recall_at_1", "test_accuracy", "last_test_accuracy", "student_kl_valid"}
    assert "recall at 1, %" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"label_noise": 1.0}, "found --label-noise 1, expected a share"), ({"methods": ("lott",)}, "lot")],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main.Options("smoke", **wrong)
