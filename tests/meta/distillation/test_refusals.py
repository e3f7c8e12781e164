"""What distillation refuses: each slip at each method, with a line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import meta
from meta.distillation import DISTILLERS, PESFKD, PKD, RCO, Batch, DistillationSettings, Distiller, Outputs
from meta.distillation import FineTuning as Untaught

CLASSES, FEATURES = 3, 5
INPUTS = torch.randn(8, FEATURES, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % CLASSES
BATCH = Batch(INPUTS, LABELS)
# The other one is of translators, in test_sequences.
METHODS = [name for name in DISTILLERS if name != "sequence-kd"]
ALL = [*METHODS, "fine-tuning"]


class Network(nn.Module):
    """A perceptron that shows two hidden layers."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(FEATURES, 4), nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, inputs: torch.Tensor) -> Outputs:
        first = torch.tanh(self.first(inputs))
        second = torch.tanh(self.second(first))
        return Outputs(self.head(second), (first, second))


def made(name: str, steps: int = 3, *, teacher: Any = None, student: Any = None, labels: float = 0.5) -> Distiller:
    settings = DistillationSettings(steps, 1e-2, 1e-2, student_labels=labels)
    teacher, student = teacher or Network(), student or Network()
    if name == "fine-tuning":
        return Untaught(student, settings)
    options: dict[str, Any] = {
        "rco": {"route": [teacher.state_dict()] if isinstance(teacher, nn.Module) else []},
        "pesf-kd": {"classes": teacher.head.out_features if isinstance(teacher, Network) else CLASSES},
    }
    build: Any = DISTILLERS[name]
    distiller: Distiller = build(teacher, student, settings, **options.get(name, {}))
    return distiller


def stepped(distiller: Distiller, batch: Any = BATCH, feedback: Any = BATCH) -> dict[str, float]:
    return distiller.step(batch, feedback if distiller.needs_feedback else None)


def weights(distiller: Distiller) -> list[torch.Tensor]:
    learners = (distiller.teacher, distiller.student)
    return [p.clone() for learner in learners for p in learner.network.state_dict().values()]


@pytest.mark.parametrize("name", ALL)
def test_a_step_after_the_last_is_refused(name: str) -> None:
    """Beyond it the learning rate is negative, and the student unlearns."""
    distiller = made(name, 2)
    for _ in range(2):
        assert distiller.student.rate > 0
        stepped(distiller)
    again, before = made(name, 2), weights(distiller)
    again.load(distiller.state())
    for each in (distiller, again):
        with pytest.raises(RuntimeError, match=r"all 2 steps of settings\.steps are taken.*steps=\.\.\."):
            stepped(each)
    assert all(map(torch.equal, before, weights(distiller)))


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "tuple": ((INPUTS, LABELS), TypeError, r"must be a meta\.Batch\(inputs, labels\), found a tuple"),
    "arrays": (Batch(INPUTS.numpy(), LABELS.numpy()), TypeError, r"found a NumPy array of shape \(8, 5\)"),  # type: ignore[arg-type]
    "nested array": (Batch({"x": [INPUTS.numpy()]}, LABELS), TypeError, r"torch\.from_numpy"),
    "list of labels": (Batch(INPUTS, LABELS.tolist()), TypeError, r"torch\.as_tensor\(labels\)"),
    "one label": (Batch(INPUTS, LABELS[0]), TypeError, "the class of each sample"),
    "float labels": (Batch(INPUTS, LABELS.float()), TypeError, r"labels of torch\.float32.*labels\.long\(\)"),
    "short labels": (Batch(INPUTS, LABELS.int()), TypeError, r"expected torch\.int64"),
    "labels from 1": (Batch(INPUTS, LABELS + 1), ValueError, "found labels from 1 to 3, expected 0 to 2"),
    "PyTorch's void": (Batch(INPUTS, LABELS.where(LABELS > 0, -100)), ValueError, "from -100 to 2.*-1 where"),
    "no label": (Batch(INPUTS, torch.full((8,), -1)), ValueError, "nothing to learn"),
    "no sample": (Batch(INPUTS[:0], LABELS[:0]), ValueError, "nothing to learn"),
    "fewer labels": (Batch(INPUTS, LABELS[:7]), ValueError, r"expected \(7, classes\)"),
    "two dimensions": (Batch(INPUTS, LABELS[:, None]), ValueError, r"expected \(8, classes, 1\)"),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("labels", [0.0, 0.5])
def test_batches_that_are_none_are_refused(name: str, wrong: str, labels: float) -> None:
    """Also where no loss reads the labels: there they say which places are padding."""
    batch, kind, message = WRONG[wrong]
    distiller = made(name, labels=labels)
    stepped(distiller)
    with pytest.raises(kind, match=message):
        stepped(distiller, batch)
    if distiller.needs_feedback:
        with pytest.raises(kind, match=message):
            stepped(distiller, feedback=batch)
    with pytest.raises(TypeError, match=r"feedback must be a meta\.Batch"):
        distiller.step(BATCH, (INPUTS, LABELS))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_teacher_and_student_of_other_classes_are_refused(name: str) -> None:
    distiller = made(name, teacher=Network(CLASSES), student=Network(CLASSES + 1))
    with pytest.raises(ValueError, match="found logits of 3 and of 4 classes"):
        stepped(distiller)


@pytest.mark.parametrize("name", METHODS)
def test_networks_of_one_output_are_refused(name: str) -> None:
    """Of one logit softmax is 1: every loss was 0, and nothing learned."""
    with pytest.raises(ValueError, match=r"of 1 class, expected at least 2|classes must be .*found 1"):
        stepped(made(name, teacher=Network(1), student=Network(1)), Batch(INPUTS, torch.zeros(8).long()))


@pytest.mark.parametrize("name", METHODS)
def test_what_builds_a_network_is_no_network(name: str) -> None:
    for wrong in ({"teacher": Network}, {"student": lambda: Network()}):
        with pytest.raises(TypeError, match=r"(teacher|student) must be a torch\.nn\.Module, found.*what it returns"):
            made(name, **wrong)
    build: Any = DISTILLERS[name]
    with pytest.raises(TypeError, match=r"found settings 5, expected meta\.DistillationSettings"):
        build(Network(), Network(), 5, **{"pesf-kd": {"classes": 3}, "rco": {"route": [{}]}}.get(name, {}))


class Pair(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> Any:
        return super().forward(inputs), None


def refused(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_outputs_of_other_types_are_refused() -> None:
    pair = Pair(FEATURES, CLASSES)
    refused(lambda: stepped(made("kd", student=pair)), TypeError, r"returned \(tensor.*expected a tensor of logits")
    refused(lambda: Untaught(Network, DistillationSettings(1)), TypeError, "network must be")  # type: ignore[arg-type]


def test_what_methods_need_besides_is_said() -> None:
    settings = DistillationSettings(5)
    bare, route = lambda: nn.Linear(FEATURES, CLASSES), Network().state_dict()

    def adapted(teacher: nn.Module, classes: int = CLASSES, features: int = 0) -> PESFKD:
        return PESFKD(teacher, Network(), settings, classes=classes, features=features)

    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: RCO(Network(), Network(), settings, route=[]), r"route=\[\.\.\.\] has the teacher's state_dict\(\)"),
        (lambda: RCO(Network(), Network(), settings, route=route), "route must be a list of state_dicts"),  # type: ignore[arg-type]
        (lambda: PESFKD(Network(), Network(), settings, classes=1), "classes must be .* found 1"),
        (lambda: adapted(Network(), classes=7).step(BATCH), "3 classes and 4 features.*classes=7"),
        (lambda: adapted(bare(), features=9).step(BATCH), "0 features.*expected.*features=9"),
        (lambda: adapted(Network(), features=9).step(BATCH), "4 features.*expected.*features=9"),
        (lambda: PKD(bare(), Network(), settings).step(BATCH), r"none of the teacher.*Outputs\(logits, hidden\)"),
        (lambda: meta.LGTM(Network(), Network(), settings).step(BATCH), r"step\(batch, feedback\)"),
    ]
    for make, message in cases:
        refused(make, ValueError, message)
    for name, missing in (("rco", "route"), ("pesf-kd", "classes")):
        build: Any = DISTILLERS[name]
        refused(lambda build=build: build(Network(), Network(), settings), TypeError, f"argument: '{missing}'")


class Tagger(nn.Sequential):
    """Logits of each token, (B, classes, L)."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(9, 4), nn.Linear(4, CLASSES))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(tokens)
        return logits.movedim(-1, 1)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pkd"])
def test_padding_under_another_number_is_refused(name: str) -> None:
    """PyTorch's own number for it was a class to those losses that have no labels."""
    tokens = torch.arange(12).view(3, 4) % 9
    labels = tokens % CLASSES
    for void, known in ((-1, True), (-100, False), (CLASSES, False)):
        padded = Batch(tokens, labels.where(tokens < 6, void))
        distiller = made(name, teacher=Tagger(), student=Tagger(), labels=0.0)
        if known:
            assert stepped(distiller, padded, padded)["student_loss"] >= 0
        else:
            with pytest.raises(ValueError, match=r"found labels from .* expected 0 to 2 .* -1 where"):
                stepped(distiller, padded, padded)


def test_the_labels_of_a_batch_are_counted_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is waited for each time, and they may have changed since the last step."""
    counted, read = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: counted.append(tensor) or read(tensor))
    distiller, labels = made("lgtm"), LABELS.clone()
    batch, feedback = Batch(INPUTS, labels), Batch(INPUTS, LABELS)
    stepped(distiller, batch, feedback)
    assert len(counted) == 2
    labels.add_(1)
    with pytest.raises(ValueError, match="found labels from 1 to 3"):
        stepped(distiller, batch, feedback)


def test_arrays_of_a_sentence_are_tensors_first() -> None:
    tokens = np.zeros((2, 4), dtype=np.int64)
    with pytest.raises(TypeError, match="found a NumPy array"):
        stepped(made("kd"), Batch(torch.zeros(2, 4), tokens))  # type: ignore[arg-type]
