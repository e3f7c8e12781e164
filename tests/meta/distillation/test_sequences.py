"""Distillation of sequences: tokens, padding, influence of sentences, and the teacher's own translations."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from meta.distillation import (
    DISTILLERS,
    LGTM,
    Batch,
    DistillationSettings,
    Distiller,
    FineTuning,
    Outputs,
    SequenceKD,
    losses,
)
from teachenv.data.vocabulary import BEGIN, END, PAD
from teachenv.decoding import beam
from teachenv.sequence_losses import beside
from teachenv.students import make_student
from teachenv.students.translation import Translator
from teachenv.tasks.base import VOID

WORDS, LENGTH = 9, 6
NETWORKS: dict[str, dict[str, Any]] = {
    "transformer": {"width": 8, "layers": 1, "heads": 2, "inner": 12},
    "lstm": {"width": 8, "layers": 1},
}


def network(name: str, seed: int) -> Translator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make_student(name, (2 * LENGTH,), WORDS, NETWORKS[name])().double()
    assert isinstance(made, Translator)
    return made


def sentences(seed: int, count: int = 4) -> Batch:
    """Translations that are their sources, of 2 to 5 tokens with the end."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.full((count, LENGTH), PAD)
    for row in range(count):
        length = 1 + row % 4
        source[row, :length] = torch.randint(END + 1, WORDS, (length,), generator=generator)
        source[row, length] = END
    return Batch(beside(source, source), source.where(source != PAD, VOID))


def made(name: str, steps: int = 10, rate: float = 1e-2, labels: float = 0.0, **options: Any) -> Distiller:
    settings = DistillationSettings(steps, student_rate=rate, teacher_rate=rate, student_labels=labels)
    if name == "pesf-kd":
        options |= {"classes": WORDS}
    build: Any = DISTILLERS[name]
    if name == "rco":
        options |= {"route": [network("transformer", 0).state_dict()]}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        found: Distiller = build(network("transformer", 0), network("lstm", 1), settings, **options)
    return found


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([t.norm() for t in tensors.values()]).norm())


OF_LOGITS = [name for name in DISTILLERS if name not in ("sequence-kd", "pkd")]
"""Those that look at no hidden layers, and at more than whole translations."""


def test_losses_are_means_over_tokens() -> None:
    batch, kd = sentences(0), made("kd", labels=0.25)
    _, found = kd.student_gradient(batch, training=False)
    taught, own = (who.network.eval()(batch.inputs).detach() for who in (kd.teacher, kd.student))
    known = batch.labels != VOID
    near = F.kl_div(own.log_softmax(1), taught.softmax(1), reduction="none").sum(1)
    right = F.cross_entropy(own, batch.labels, reduction="none", ignore_index=VOID)
    assert found == pytest.approx(float((0.75 * near + 0.25 * right)[known].mean()))


@pytest.mark.parametrize("name", OF_LOGITS)
def test_padding_changes_nothing(name: str) -> None:
    batch, feedback = sentences(0), sentences(1)
    source, before = batch.inputs.chunk(2, 1)
    # What stands before a place that is not there, and how many of these there are.
    beyond = before.where(batch.labels != VOID, END + 1)
    ends = []
    for inputs, labels in (
        (batch.inputs, batch.labels),
        (torch.cat([source[:, :5], beyond[:, :5]], 1), batch.labels[:, :5]),
    ):
        distiller = made(name)
        distiller.step(Batch(inputs, labels), feedback)
        ends.append((distiller.state(), getattr(distiller, "influence", None)))
    (one, influence), (other, again) = ends
    for who in ("teacher", "student"):
        for key, value in one[who]["network"].items():
            if key.endswith("places"):
                continue
            torch.testing.assert_close(value, other[who]["network"][key], rtol=1e-9, atol=1e-9)
    if influence is not None:
        torch.testing.assert_close(influence, again)


class Placed(nn.Module):
    """A perceptron whose classes have places beside them: (B, classes, 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> Outputs:
        return Outputs(self.network(inputs)[..., None])


@pytest.mark.parametrize("name", OF_LOGITS)
def test_sequences_of_one_place_are_samples_of_one_decision(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(5, 3, generator=generator).double(), torch.tensor([0, 1, 2, 1, 0])
    ends = []
    for placed in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pair = [nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)).double() for width in (6, 4)]
            options: dict[str, Any] = {"pesf-kd": {"classes": 3}, "rco": {"route": [pair[0].state_dict()]}}.get(
                name, {}
            )
            if placed:
                pair = [Placed(each) for each in pair]
                if name == "rco":
                    options = {"route": [pair[0].state_dict()]}
            build: Any = DISTILLERS[name]
            distiller = build(*pair, DistillationSettings(3, 1e-2, 1e-2, student_labels=0.3), **options)
        batch = Batch(inputs, labels[:, None] if placed else labels)
        for _ in range(3):
            distiller.step(batch, batch)
        ends.append([*distiller.student.parameters.values(), *distiller.teacher.parameters.values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("mode", ["released", "meta", "reweight"])
def test_influence_of_sentences_is_what_a_step_does(mode: str) -> None:
    """Against central differences: of the loss after a step on a sentence alone, by the length of that step."""
    batch, feedback = sentences(0), sentences(1, 3)
    lgtm = made("lgtm", mode=mode, influence_rate=1.0)
    assert isinstance(lgtm, LGTM)
    gradient, _ = lgtm.student_gradient(batch, training=False)
    tried = lgtm.student.after(gradient)
    taught, named = lgtm.teacher.outputs(batch, training=False), dict(lgtm.student.network.named_parameters())
    _, logged = lgtm.teacher_gradient(batch, feedback)
    found = lgtm.influence
    assert found is not None
    assert found.shape == (4,)
    assert logged["influence_ratio"] > 0
    logits = lgtm.student.outputs(batch, training=False).logits
    each = losses.soft_cross_entropy(taught.logits.detach(), logits)
    lengths = (batch.labels != VOID).sum(1)
    sentence = torch.arange(4).repeat_interleave(lengths)
    for i in range(4):
        # The sentence's tokens over the mean number of tokens: means over sentences are means over tokens.
        own = each[sentence == i].sum() / lengths.double().mean()
        slope = torch.autograd.grad(own, list(named.values()), retain_graph=True, materialize_grads=True)

        def held_out(length: float, slope: Any = slope) -> float:
            moved = {n: tried[n] - length * g for n, g in zip(named, slope, strict=True)}
            outputs = torch.func.functional_call(lgtm.student.network, moved, (feedback.inputs,))
            return float(F.cross_entropy(outputs, feedback.labels, ignore_index=VOID))

        lowered = (held_out(-1e-4) - held_out(1e-4)) / 2e-4
        assert float(found[i]) == pytest.approx(lowered, rel=1e-5, abs=1e-9)
    assert found.abs().min() > 1e-6


def test_the_meta_term_is_autograd_through_the_students_step() -> None:
    batch, feedback, rate = sentences(0), sentences(1), 0.3
    distiller = made("meta-distill", trial_rate=rate)
    found, _ = distiller.teacher_gradient(batch, feedback)  # type: ignore[attr-defined]
    named = dict(distiller.student.network.named_parameters())
    taught = distiller.teacher.outputs(batch, training=False)
    loss = distiller.distillation_loss(distiller.student.outputs(batch, training=False), taught)
    slope = torch.autograd.grad(loss, list(named.values()), create_graph=True)
    moved = {n: p - rate * g for (n, p), g in zip(named.items(), slope, strict=True)}
    outputs = torch.func.functional_call(distiller.student.network, moved, (feedback.inputs,))
    expected = distiller.teacher.gradient(F.cross_entropy(outputs, feedback.labels, ignore_index=VOID))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-12)
    assert norm(found) > 1e-6


def test_weights_of_sentences_are_those_of_their_tokens() -> None:
    batch, feedback = sentences(0), sentences(1)
    lgtm, plain = made("lgtm", mode="reweight"), made("prokt")
    whole, rest = (each.teacher_gradient(batch, feedback)[0] for each in (lgtm, plain))  # type: ignore[attr-defined]
    assert isinstance(lgtm, LGTM)
    assert lgtm.influence is not None
    taught, own = (who.network.eval()(batch.inputs) for who in (lgtm.teacher, lgtm.student))
    each = -(taught.softmax(1) * own.detach().log_softmax(1)).sum(1) * (batch.labels != VOID)
    weighed = (lgtm.influence * each.sum(1)).sum() / (batch.labels != VOID).sum()
    for name, gradient in lgtm.teacher.gradient(weighed).items():
        torch.testing.assert_close(whole[name] - rest[name], gradient, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("labels", [0.0, 0.3])
def test_sequence_kd_is_cross_entropy_with_what_the_teacher_says(labels: float) -> None:
    batch, distiller = sentences(0), made("sequence-kd", labels=labels, width=3)
    gradient, loss = distiller.student_gradient(batch, training=False)
    student, expected = distiller.student.network, torch.zeros((), dtype=torch.float64)
    tokens = [
        beam(distiller.teacher.network.eval(), row[None, row != PAD], 3)[0]  # type: ignore[arg-type]
        for row in batch.inputs[:, :LENGTH]
    ]
    said = [row[row != PAD] for row in tokens]
    total = sum(map(len, said))
    for source, words in zip(batch.inputs[:, :LENGTH], said, strict=True):
        logits = student(beside(source[None, source != PAD], words[None]))[..., : len(words)]
        expected = expected + (1 - labels) * F.cross_entropy(logits, words[None], reduction="sum") / total
    if labels:
        expected = expected + labels * F.cross_entropy(student(batch.inputs), batch.labels, ignore_index=VOID)
    assert loss == pytest.approx(float(expected.detach()))
    for name, value in distiller.student.gradient(expected).items():
        torch.testing.assert_close(gradient[name], value)


def test_a_teacher_translates_a_source_once(monkeypatch: pytest.MonkeyPatch) -> None:
    distiller, batch = made("sequence-kd"), sentences(0)
    assert isinstance(distiller, SequenceKD)
    distiller.prepare(sentences(0, 12))
    monkeypatch.setattr(distiller, "_translate", None)
    said = distiller.said(batch.at(slice(1, 3)))
    # Whatever stands around a sentence, its translation is the same, with what stands before each word.
    source, before = said.inputs.chunk(2, 1)
    assert torch.equal(source[:, :3], batch.inputs[1:3, :3].where(batch.inputs[1:3, :3] != PAD, source[:, :3]))
    for labels, row in zip(said.labels, before, strict=True):
        words = labels[labels != VOID]
        assert row[: len(words)].tolist() == [BEGIN, *words[:-1].tolist()]


GIVEN = [sentences(seed, 16) for seed in range(4)]


@functools.cache
def tuned_teacher() -> dict[str, torch.Tensor]:
    teacher = network("transformer", 0)
    tuning = FineTuning(teacher, DistillationSettings(120, 3e-2), smoothing=0.01)
    for step in range(120):
        tuning.step(GIVEN[step % 4])
    return teacher.state_dict()


@pytest.mark.parametrize("name", ["kd", "sequence-kd"])
def test_students_learn_to_say_what_is_right(name: str) -> None:
    distiller = made(name, 60, 3e-2)
    distiller.teacher.network.load_state_dict(tuned_teacher())
    for step in range(60):
        distiller.step(GIVEN[step % 4], GIVEN[0])
    right = distiller.student.outputs(GIVEN[1], training=False).logits.argmax(-1) == GIVEN[1].classes
    assert right.double().mean() > 0.5  # untrained: one of nine


def test_what_does_not_fit_is_refused() -> None:
    batch, kd = sentences(0), made("kd")
    with pytest.raises(ValueError, match=r"expected \(4, classes, 5\)"):
        kd.step(Batch(batch.inputs, batch.labels[:, :5]))
    with pytest.raises(ValueError, match="nothing to learn"):
        kd.step(Batch(batch.inputs, torch.full_like(batch.labels, VOID)))
    with pytest.raises(ValueError, match="width=0"):
        made("sequence-kd", width=0)
    with pytest.raises(TypeError, match="found a teacher Linear"):
        SequenceKD(nn.Linear(2, 2), network("lstm", 0), DistillationSettings(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="smoothing"):
        FineTuning(network("lstm", 0), DistillationSettings(1), smoothing=2.0)
