"""Distillation: its losses, what influence does to a teacher, and that every method trains."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import meta
from meta.distillation import DISTILLERS, LGTM, Batch, DistillationSettings, Distiller, FineTuning, Outputs, losses
from meta.distillation.influence_term import influence_gradient, logits_along

CLASSES = 10
# Those that any network can be trained by; the others are in test_sequences.
METHODS = [name for name in DISTILLERS if name != "sequence-kd"]


class Layered(nn.Module):
    """A perceptron that shows its hidden layers."""

    def __init__(self, *widths: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip((64, *widths), widths, strict=False))
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(widths[-1], CLASSES)

    def forward(self, inputs: torch.Tensor) -> Outputs:
        shown = []
        for layer in self.hidden:
            inputs = self.dropout(torch.tanh(layer(inputs)))
            shown.append(inputs)
        return Outputs(self.head(inputs), tuple(shown))


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def networks(dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """A teacher and a student."""
    teacher = seeded(0, lambda: Layered(32, 32, 32, 32, dropout=dropout)).to(dtype)
    return teacher, seeded(1, lambda: Layered(32, 32, dropout=dropout)).to(dtype)


digits = functools.cache(load_digits)


def batches(count: int, size: int = 16, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Batch]:
    data = digits()
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(len(data.target), size, replace=False) for _ in range(count)]
    return [
        Batch(torch.as_tensor(data.data[i] / 16, dtype=dtype), torch.as_tensor(data.target[i]).long()) for i in chosen
    ]


def made(name: str, settings: DistillationSettings, dropout: float = 0.0, **options: Any) -> Distiller:
    teacher, student = networks(dropout)
    if name == "rco":
        options["route"] = [seeded(s, lambda: Layered(32, 32, 32, 32)).double().state_dict() for s in range(3)]
    if name == "pesf-kd":
        options |= {"classes": CLASSES, "features": 32}
    build: Any = DISTILLERS[name]
    found: Distiller = seeded(2, lambda: build(teacher, student, settings, **options))  # type: ignore[arg-type,return-value]
    return found


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([t.norm() for t in tensors.values()]).norm())


# Losses.


def logits(seed: int, classes: int = 5) -> torch.Tensor:
    return torch.randn(7, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_divergence_is_cross_entropy_less_entropy(tau: float) -> None:
    teacher, student = logits(0), logits(1)
    expected = losses.soft_cross_entropy(teacher, student, tau) - losses.soft_cross_entropy(teacher, teacher, tau)
    torch.testing.assert_close(losses.divergence(teacher, student, tau), expected)
    t, s = (torch.distributions.Categorical(logits=z / tau) for z in (teacher, student))
    torch.testing.assert_close(losses.divergence(teacher, student, tau), torch.distributions.kl_divergence(t, s))


def test_spherical_sees_directions_only() -> None:
    teacher, student = logits(0), logits(1)
    expected = losses.spherical(teacher, student)
    torch.testing.assert_close(losses.spherical(teacher, 7.0 * student + 3.0), expected)
    assert losses.spherical(teacher, 0.1 * teacher - 1.0).abs().max() < 1e-12


def test_patience_is_of_normalised_vectors() -> None:
    a, b = logits(0), logits(1)
    assert losses.patience([a, b], [2 * a, 3 * b]).abs().max() < 1e-12
    cosine = F.cosine_similarity(a, b)
    torch.testing.assert_close(losses.patience([a], [b]), 2 - 2 * cosine)


def test_relations_are_pearsons_correlations() -> None:
    teacher, student = logits(0), logits(1)
    inter, intra = losses.relational(teacher, student)
    t, s = (z.softmax(-1).numpy() for z in (teacher, student))
    assert inter.item() == pytest.approx(1 - np.mean([np.corrcoef(t[i], s[i])[0, 1] for i in range(7)]))
    assert intra.item() == pytest.approx(1 - np.mean([np.corrcoef(t[:, c], s[:, c])[0, 1] for c in range(5)]))


# Influence on the teacher.


def post_step_loss(distiller: Distiller, batch: Batch, feedback: Batch, rate: float) -> torch.Tensor:
    """Held-out loss after a plain step of the student, with a graph back to the teacher."""
    taught = distiller.teacher.outputs(batch, training=False)
    outputs = distiller.student.outputs(batch, training=False)
    settings, named = distiller.settings, dict(distiller.student.network.named_parameters())
    soft = losses.soft_cross_entropy(taught.logits, outputs.logits, settings.temperature).mean()
    hard = F.cross_entropy(outputs.logits, batch.labels)
    loss = settings.student_labels * hard + (1 - settings.student_labels) * soft
    gradient = torch.autograd.grad(loss, list(named.values()), create_graph=True)
    stepped = {n: p - rate * g for (n, p), g in zip(named.items(), gradient, strict=True)}
    found = torch.func.functional_call(distiller.student.network, stepped, (feedback.inputs,))
    return F.cross_entropy(found.logits, feedback.labels)


@pytest.mark.parametrize(("tau", "student_labels"), [(1.0, 0.0), (2.0, 0.3)])
def test_meta_distillation_is_autograd_through_the_students_step(tau: float, student_labels: float) -> None:
    batch, feedback = batches(2)
    settings = DistillationSettings(10, temperature=tau, student_labels=student_labels)
    distiller = made("meta-distill", settings, trial_rate=0.5)
    found, _ = distiller.teacher_gradient(batch, feedback)  # type: ignore[attr-defined]
    expected = distiller.teacher.gradient(post_step_loss(distiller, batch, feedback, 0.5))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-12)
    assert norm(found) > 1e-4


def test_differences_approach_the_exact_derivative() -> None:
    batch, feedback = batches(2)
    found = []
    for options in ({}, *({"derivative": "finite-difference", "radius": r} for r in (0.1, 0.01))):
        distiller = made("meta-distill", DistillationSettings(10), trial_rate=0.5, **options)
        found.append(distiller.teacher_gradient(batch, feedback)[0])  # type: ignore[attr-defined]
    errors = [norm({n: g - found[0][n] for n, g in other.items()}) for other in found[1:]]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


def influence_alone(mode: str, **settings: Any) -> tuple[LGTM, Batch, Batch, dict[str, torch.Tensor]]:
    """LGTM and the part of its teacher's gradient that is influence's, at rate 1."""
    batch, feedback = batches(2)
    made_settings = DistillationSettings(10, **settings)
    lgtm, plain = made("lgtm", made_settings, mode=mode, influence_rate=1.0), made("prokt", made_settings)
    whole, _ = lgtm.teacher_gradient(batch, feedback)  # type: ignore[attr-defined]
    rest, _ = plain.teacher_gradient(batch, feedback)  # type: ignore[attr-defined]
    assert isinstance(lgtm, LGTM)
    return lgtm, batch, feedback, {name: g - rest[name] for name, g in whole.items()}


@pytest.mark.parametrize("mode", ["released", "meta"])
def test_a_teachers_step_lowers_the_students_held_out_loss_after_its_own(mode: str) -> None:
    lgtm, batch, feedback, term = influence_alone(mode)
    own, rate = {n: p.clone() for n, p in lgtm.teacher.parameters.items()}, 0.5

    def moved(along: float) -> float:
        scale = along / norm(term)
        lgtm.teacher.network.load_state_dict({n: p + scale * term[n] for n, p in own.items()})
        return post_step_loss(lgtm, batch, feedback, rate).item()

    here = moved(0.0)
    # Descent along what is minimised, as every teacher step is; and the literal sign of the paper's eq. 11.
    assert moved(-0.05) < here < moved(+0.05)


def test_released_and_meta_agree_where_student_and_teacher_do() -> None:
    batch, feedback = batches(2)
    network = networks()[1]
    distiller = DISTILLERS["kd"](networks()[1], network, DistillationSettings(10))
    v = distiller.student.held_out_gradient(feedback, {})
    here, along = logits_along(distiller.student, batch, v, "exact", 0.01)
    meta_form, released_form = (
        influence_gradient(
            distiller.teacher, distiller.teacher.outputs(batch, training=False).logits, loss, here, along
        )
        for loss in (distiller.loss_of_logits, lambda taught, own: losses.divergence(own, taught).mean())
    )
    for name, gradient in meta_form.items():
        torch.testing.assert_close(released_form[name], gradient)
    assert norm(meta_form) > 1e-6


@pytest.mark.parametrize("loss", ["kl", "dist", "mse"])
def test_influence_follows_the_students_loss(loss: str) -> None:
    batch, feedback = batches(2)
    rate, settings = 0.5, DistillationSettings(10, student_labels=0.3)
    lgtm = made("lgtm", settings, mode="meta", influence_rate=1.0, loss=loss)
    assert isinstance(lgtm, LGTM)
    named = dict(lgtm.student.network.named_parameters())
    taught, own = (who.outputs(batch, training=False) for who in (lgtm.teacher, lgtm.student))
    gradient = torch.autograd.grad(
        lgtm.student_loss(own, taught, batch.labels), list(named.values()), create_graph=True
    )
    stepped = {n: p - rate * g for (n, p), g in zip(named.items(), gradient, strict=True)}
    held_out = torch.func.functional_call(lgtm.student.network, stepped, (feedback.inputs,)).logits
    expected = lgtm.teacher.gradient(F.cross_entropy(held_out, feedback.labels))
    v = lgtm.student.held_out_gradient(feedback, {n: p.detach() for n, p in stepped.items()})
    here, along = logits_along(lgtm.student, batch, v, "exact", 0.01)
    again = lgtm.teacher.outputs(batch, training=False).logits
    for name, term in influence_gradient(lgtm.teacher, again, lgtm.loss_of_logits, here, along).items():
        torch.testing.assert_close(-rate * (1 - 0.3) * term, expected[name], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("mode", ["released", "meta", "reweight"])
def test_influence_is_that_of_the_public_function(mode: str) -> None:
    lgtm, batch, feedback, _ = influence_alone(mode)
    v = lgtm.student.held_out_gradient(feedback, lgtm.student.after(lgtm.student_gradient(batch, training=False)[0]))
    taught = lgtm.teacher.outputs(batch, training=False).logits.detach()

    def of_samples(student: nn.Module, given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return losses.soft_cross_entropy(given[1], student(given[0]).logits)

    expected = meta.influence(lgtm.student.network, of_samples, (batch.inputs, taught), v, method="per-sample")
    assert lgtm.influence is not None
    torch.testing.assert_close(lgtm.influence, expected)


def test_reweighting_is_by_constant_influences() -> None:
    lgtm, batch, _, term = influence_alone("reweight")
    student = lgtm.student.outputs(batch, training=False).logits.detach()
    weights = lgtm.influence
    assert weights is not None
    assert weights.std() > 0
    logits = lgtm.teacher.outputs(batch, training=False).logits
    expected = lgtm.teacher.gradient((weights * losses.soft_cross_entropy(logits, student)).mean())
    for name, gradient in expected.items():
        torch.testing.assert_close(term[name], gradient, rtol=1e-8, atol=1e-12)


def test_a_teacher_that_minds_labels_only_has_no_released_influence() -> None:
    *_, term = influence_alone("released", teacher_labels=1.0)
    assert norm(term) == 0


def test_a_student_that_minds_labels_only_has_no_influence() -> None:
    *_, term = influence_alone("meta", student_labels=1.0)
    assert norm(term) == 0


def test_a_teacher_that_goes_second_learns_from_the_student_after_its_step() -> None:
    settings, (batch,) = DistillationSettings(5, 1e-2, 1e-2, teacher_first=False), batches(1)
    second = made("prokt", settings)
    second.step(batch)
    # The student learns under the teacher as it was, as under a fixed one; then the teacher as from that student.
    fixed = made("kd", settings)
    fixed.step(batch)
    for name, parameter in fixed.student.parameters.items():
        assert torch.equal(parameter, second.student.parameters[name])
    moved = made("prokt", settings)
    moved.student.network.load_state_dict(fixed.student.network.state_dict())
    moved.teach(batch, None)
    for name, parameter in moved.teacher.parameters.items():
        assert torch.equal(parameter, second.teacher.parameters[name])
        assert not torch.equal(parameter, fixed.teacher.parameters[name])


def test_without_influence_it_is_prokt_bitwise() -> None:
    settings, ends = DistillationSettings(5, 1e-2, 1e-2), []
    for name, options in (("prokt", {}), ("lgtm", {"influence_rate": 0.0}), ("lgtm", {"influence_rate": 0.1})):
        distiller = made(name, settings, dropout=0.3, **options)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for batch in batches(5):
                distiller.step(batch, batches(1, seed=9)[0])
        ends.append(distiller.state())
    for who in ("teacher", "student"):
        prokt, off, on = (end[who]["network"] for end in ends)
        assert all(torch.equal(prokt[name], off[name]) for name in prokt)
        assert not all(torch.equal(prokt[name], on[name]) for name in prokt)


def test_trying_leaves_the_student_as_it_was() -> None:
    batch, feedback = batches(2)
    lgtm = made("lgtm", DistillationSettings(5, 1e-2, 1e-2), influence_rate=1.0)
    lgtm.step(batch, feedback)
    before = lgtm.student.state()
    lgtm.teach(batch, feedback)
    after = lgtm.student.state()
    for part in ("network", "slots"):
        assert all(torch.equal(before[part][name], after[part][name]) for name in before[part])
    gradient, _ = lgtm.student_gradient(batch, training=False)
    tried = lgtm.student.after(gradient)
    lgtm.student.descend(gradient)
    assert all(torch.equal(tried[name], p) for name, p in lgtm.student.parameters.items())


def test_a_learner_steps_as_torch_does() -> None:
    settings = DistillationSettings(4, student_rate=1e-2, weight_decay=0.1)
    network, twin = networks()[1], networks()[1]
    tuning = FineTuning(network, settings)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 4)
    for batch in batches(4):
        tuning.step(batch)
        optimizer.zero_grad()
        F.cross_entropy(twin(batch.inputs).logits, batch.labels).backward()
        optimizer.step()
        decay.step()
    for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


# Every method.


@functools.cache
def tuned_teacher() -> nn.Module:
    teacher = networks()[0]
    tuning = FineTuning(teacher, DistillationSettings(100, student_rate=1e-2))
    for batch in batches(100, seed=1):
        tuning.step(batch)
    return teacher


@pytest.mark.parametrize("name", METHODS)
def test_students_learn(name: str) -> None:
    teacher = tuned_teacher()
    settings = DistillationSettings(100, 1e-2, 1e-3, student_labels=0.3)
    distiller = made(name, settings)
    if name == "rco":
        distiller.route = [teacher.state_dict()]  # type: ignore[attr-defined]
    else:
        tuned = distiller.teacher.network
        (tuned.network if name == "pesf-kd" else tuned).load_state_dict(teacher.state_dict())
    feedback = batches(100, seed=3)
    for number, batch in enumerate(batches(100, seed=2)):
        logged = distiller.step(batch, feedback[number])
        assert all(np.isfinite(value) for value in logged.values())
    unseen = batches(1, 400, seed=5)[0]
    found = distiller.student.outputs(unseen, training=False).logits.argmax(-1)
    assert (found == unseen.labels).double().mean() > 0.8


@pytest.mark.parametrize("name", METHODS)
def test_a_run_goes_on_from_its_state(name: str) -> None:
    settings, given = DistillationSettings(6, 1e-2, 1e-2), batches(6)
    whole, first, second = (made(name, settings) for _ in range(3))
    for batch in given:
        whole.step(batch, given[0])
    for batch in given[:3]:
        first.step(batch, given[0])
    second.load(first.state())
    for batch in given[3:]:
        second.step(batch, given[0])
    for mine, theirs in zip(second.student.parameters.values(), whole.student.parameters.values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", METHODS)
def test_only_teachers_that_learn_move(name: str) -> None:
    distiller = made(name, DistillationSettings(5, 1e-2, 1e-2))
    before = {n: t.clone() for n, t in distiller.teacher.network.state_dict().items()}
    # At its first step an adapter that begins at zero moves its last layer only.
    for batch in batches(1):
        distiller.step(batch, batch)
    moved = {n for n, t in distiller.teacher.network.state_dict().items() if not torch.equal(t, before[n])}
    if name == "pesf-kd":
        assert moved
        assert all(n.startswith("up.") for n in moved)
    elif name != "rco":
        assert bool(moved) == distiller.teacher_learns


def test_a_route_is_followed() -> None:
    distiller = made("rco", DistillationSettings(6))
    assert [distiller.step(batch)["checkpoint"] for batch in batches(6)] == [0, 0, 1, 1, 2, 2]


def test_patient_students_copy_the_layers_they_are_told() -> None:
    settings, batch = DistillationSettings(5), batches(1)[0]
    for layers, copied in (("skip", 1), ("last", 2)):
        distiller = made("pkd", settings, layers=layers, beta=3.0)
        taught, own = (who.outputs(batch, training=False) for who in (distiller.teacher, distiller.student))
        expected = losses.divergence(taught.logits, own.logits).mean()
        expected = expected + 3.0 * losses.patience([taught.hidden[copied]], [own.hidden[0]]).mean()
        torch.testing.assert_close(distiller.distillation_loss(own, taught), expected)


def test_what_makes_no_sense_is_refused() -> None:
    batch, settings = batches(1)[0], DistillationSettings(5)
    with pytest.raises(ValueError, match="step\\(batch, feedback\\)"):
        made("lgtm", settings).step(batch)
    for name, options, message in [
        ("lgtm", {"mode": "release"}, "released"),
        ("lgtm", {"influence_rate": "techer"}, "teacher"),
        ("rco", {}, "0 checkpoints"),
        ("pkd", {"layers": "first"}, "skip"),
    ]:
        teacher, student = networks()
        extra = {"route": []} if name == "rco" else {}
        with pytest.raises(ValueError, match=message):
            DISTILLERS[name](teacher, student, settings, **options, **extra)
    for wrong in ({"steps": 0}, {"temperature": 0.0}, {"student_rate": -1.0}, {"teacher_labels": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DistillationSettings(**{"steps": 5} | wrong)
    bare = nn.Linear(64, CLASSES).double()
    with pytest.raises(ValueError, match="hidden layers"):
        DISTILLERS["pkd"](bare, networks()[1], settings).step(batch)
    with pytest.raises(ValueError, match="no trainable parameter"):
        DISTILLERS["kd"](nn.Flatten(), networks()[1], settings)


class Normed(Layered):
    """With batch norm between its layers, part of it frozen by its user."""

    def __init__(self, *widths: int, dropout: float = 0.0) -> None:
        super().__init__(*widths, dropout=dropout)
        self.frozen, self.norm = nn.BatchNorm1d(64), nn.BatchNorm1d(64)
        self.frozen.eval()

    def forward(self, inputs: torch.Tensor) -> Outputs:
        return super().forward(self.norm(self.frozen(inputs)))


def modes(*modules: nn.Module) -> list[bool]:
    return [part.training for module in modules for part in module.modules()]


@pytest.mark.parametrize("name", [*METHODS, "fine-tuning"])
@pytest.mark.parametrize("evaluated", [False, True])
def test_networks_keep_their_modes(name: str, evaluated: bool) -> None:
    """Frozen batch norm stays frozen, a teacher in training mode is so again, and an evaluation ends with the step."""
    teacher, student = (seeded(depth, functools.partial(Normed, *[32] * depth)).double() for depth in (4, 3))
    build: Any = DISTILLERS.get(name, lambda _, *args: FineTuning(*args))
    more: dict[str, Any] = {"rco": {"route": [teacher.state_dict()]}, "pesf-kd": {"classes": CLASSES}}
    distiller: Distiller = build(teacher, student, DistillationSettings(3), **more.get(name, {}))
    before, counts = modes(teacher, student), [int(student.get_buffer(f"{n}.num_batches_tracked")) for n in _NORMS]
    for batch, feedback in zip(batches(3), batches(3, seed=1), strict=True):
        if evaluated:
            student.eval()
        distiller.step(batch, feedback)
    assert modes(teacher, student) == before
    after = [int(student.get_buffer(f"{n}.num_batches_tracked")) for n in _NORMS]
    assert [b - a for a, b in zip(counts, after, strict=True)] == [0, 3]
    moved = int(teacher.get_buffer("norm.num_batches_tracked"))
    assert moved == (3 if distiller.teacher_learns and name != "meta-distill" else 0)


@pytest.mark.parametrize("part", [False, True])
def test_a_network_that_is_given_in_evaluation_mode_learns_in_training_mode(part: bool) -> None:
    """As a whole or in part, as transformers' `from_pretrained` gives an encoder."""
    teacher, student = (seeded(depth, functools.partial(Normed, *[32] * depth)).double().eval() for depth in (4, 3))
    learner: Any = nn.Sequential(student) if part else student
    assert learner.training == part
    distiller = DISTILLERS["kd"](teacher, learner, DistillationSettings(3))
    distiller.step(batches(1)[0])
    assert all(modes(learner))
    assert not any(modes(teacher))


_NORMS = ("frozen", "norm")
