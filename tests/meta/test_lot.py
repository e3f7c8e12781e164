"""LoT around a training loop: gradients, what it leaves alone, and how often students are trained."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from meta import LoT, imitability
from teachenv.trees import tensors_of

CLASSES, FEATURES = 4, 6


def network(seed: int, hidden: int = 8) -> nn.Sequential:
    """With running statistics and dropout: what a careless step of the students would disturb."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, CLASSES)
        )


class Noisy(TensorDataset):
    """Augmented by each of the global generators."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(FEATURES) + random.random() + float(np.random.rand()), y  # noqa: NPY002


def loader(seed: int = 0) -> DataLoader[Any]:
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.randn(40, FEATURES, generator=rng), torch.randint(CLASSES, (40,), generator=rng)
    return DataLoader(Noisy(x, y), batch_size=8, shuffle=True)


def sgd(module: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def seed_all() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002


def train(model: nn.Module, lot: LoT | None, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The user's loop, of which LoT must be two lines."""
    losses: list[float] = []
    while len(losses) < steps:
        for x, y in islice(loader(), steps - len(losses)):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            if lot is not None:
                loss = loss + lot(logits, x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if lot is not None:
                lot.step(model)
            losses.append(loss.item())
    return losses


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


# --- the measure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, CLASSES), (2, 3, CLASSES)])
def test_gradients_are_opposite_in_logits(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    teacher, student = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    temperature, rows = 1.5, teacher.numel() // CLASSES
    p, q = ((z / temperature).softmax(-1) for z in (teacher, student))
    (ours,) = torch.autograd.grad(imitability(teacher, student, temperature), teacher)
    (theirs,) = torch.autograd.grad(imitability(student, teacher, temperature), student)
    torch.testing.assert_close(ours, temperature * (p - q) / rows, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours, -theirs, rtol=1e-12, atol=1e-14)


def test_each_side_holds_the_other() -> None:
    a, b = (torch.randn(3, CLASSES, requires_grad=True) for _ in range(2))
    for metric in ("kl", "l2"):
        assert torch.autograd.grad(imitability(a, b, metric=metric), [a, b], allow_unused=True)[1] is None


@pytest.mark.parametrize("metric", ["kl", "l2"])
def test_gradients_equal_differences(metric: Any) -> None:
    torch.manual_seed(1)
    own, other = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: imitability(z, other, 2.0, metric), own)


def test_the_direction_of_kl() -> None:
    own, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    target, mine = (other / 2).softmax(-1), (own / 2).softmax(-1)
    expected = 4 * (target * (target / mine).log()).sum()
    torch.testing.assert_close(imitability(own, other, 2.0), expected)


@settings(deadline=None)
@given(
    arrays(np.float64, (2, 3, CLASSES), elements=st.floats(-20, 20)),
    st.floats(-50, 50),
    st.floats(0.2, 5),
    st.sampled_from(["kl", "l2"]),
)
def test_it_is_a_distance_of_distributions(pair: np.ndarray, shift: float, temperature: float, metric: Any) -> None:
    a, b = torch.from_numpy(pair)
    found = float(imitability(a, b, temperature, metric))
    assert found >= -1e-12
    assert found == pytest.approx(float(imitability(a + shift, b, temperature, metric)), abs=1e-8, rel=1e-8)
    assert float(imitability(a, a + shift, temperature, metric)) == pytest.approx(0, abs=1e-8)


def test_classes_may_be_in_any_dimension() -> None:
    own, other = torch.randn(2, CLASSES, 5, 6), torch.randn(2, CLASSES, 5, 6)
    rows = imitability(own.movedim(1, -1).reshape(-1, CLASSES), other.movedim(1, -1).reshape(-1, CLASSES), 1.5)
    torch.testing.assert_close(imitability(own, other, 1.5, dim=1), rows)


# --- around a loop ----------------------------------------------------------------------------------------------------


def test_alpha_zero_is_the_plain_loop_bitwise() -> None:
    plain, regularised = network(0), network(0)
    seed_all()
    losses = train(plain, None, sgd(plain), 12)
    after = torch.rand(1)
    students = [network(1), network(2, hidden=5)]
    lot = LoT(students, [sgd(s) for s in students], alpha=0.0, student_steps=3, data=loader(1))
    seed_all()
    assert train(regularised, lot, sgd(regularised), 12) == losses
    assert same(plain, regularised)
    assert torch.equal(torch.rand(1), after)
    # The students have learned meanwhile.
    assert not same(students[0], network(1))


def test_the_term_reaches_the_teacher() -> None:
    plain, regularised, student = network(0), network(0), network(1)
    seed_all()
    train(plain, None, sgd(plain), 2)
    seed_all()
    train(regularised, LoT(student, sgd(student)), sgd(regularised), 2)
    assert not same(plain, regularised)


def test_students_steps_leave_the_teacher_alone() -> None:
    model, student = network(0), network(1)
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lot = LoT(student, sgd(student), student_steps=4, data=loader())
    x = torch.randn(8, FEATURES)
    lot(model(x), x)
    with_own_forward = {name: value.clone() for name, value in model.state_dict().items()}
    lot.step(model)
    assert all(torch.equal(value, with_own_forward[name]) for name, value in model.state_dict().items())
    assert not torch.equal(before["1.running_mean"], with_own_forward["1.running_mean"])
    assert all(p.grad is None for p in model.parameters())
    assert [part.training for part in model] == [True, True, True, False, True]


@pytest.mark.parametrize("ratio", [1, 2, 5])
def test_the_ratio_of_updates_is_exact(ratio: int) -> None:
    model, students = network(0), [network(1), network(2)]
    optimizers = [sgd(s) for s in students]
    counts = [0, 0]
    for i, optimizer in enumerate(optimizers):
        optimizer.register_step_post_hook(lambda *_, i=i: counts.__setitem__(i, counts[i] + 1))
    lot = LoT(students, optimizers, student_steps=ratio, data=loader(1))
    train(model, lot, sgd(model), 7)  # more than the five batches of an epoch
    assert counts == [7 * ratio, 7 * ratio]
    assert (lot.teacher_steps, lot.updates) == (7, 7 * ratio)


def test_equal_students_count_as_one() -> None:
    x = torch.randn(8, FEATURES)
    terms = []
    for count in (1, 3):
        students = [nn.Linear(FEATURES, CLASSES) for _ in range(count)]
        for student in students:
            nn.init.constant_(student.weight, 0.1)
            nn.init.zeros_(student.bias)
        logits = x[:, :CLASSES].clone().requires_grad_()
        terms.append(LoT(students, [sgd(s) for s in students], alpha=0.7)(logits, x))
    torch.testing.assert_close(terms[0], terms[1])


def test_what_students_learn_from() -> None:
    """The paper's see the teacher only, whatever α; the released code's have labels, and α on their KL."""
    x, y, logits = torch.randn(8, FEATURES), torch.randint(CLASSES, (8,)), torch.randn(8, CLASSES)
    for labels in (False, True):
        student = nn.Linear(FEATURES, CLASSES)
        copy = nn.Linear(FEATURES, CLASSES)
        copy.load_state_dict(student.state_dict())
        lot = LoT(student, torch.optim.SGD(student.parameters(), lr=1.0), alpha=0.3, temperature=2.0, labels=labels)
        lot(logits, x, y)
        lot.step(nn.Identity())
        own = copy(x)
        loss = 4 * F.kl_div((own / 2).log_softmax(-1), (logits / 2).softmax(-1), reduction="batchmean")
        if labels:
            loss = F.cross_entropy(own, y) + 0.3 * loss
        loss.backward()
        torch.testing.assert_close(student.weight, copy.weight - copy.weight.grad)


def test_labels_may_have_a_loss_of_their_own() -> None:
    """Of any task: here of squares of what is put out, whose targets are pairs."""
    x, y, outputs = torch.randn(8, FEATURES), (torch.randn(8, 2), torch.rand(8, 1)), torch.randn(8, 2)
    student, copy = nn.Linear(FEATURES, 2), nn.Linear(FEATURES, 2)
    copy.load_state_dict(student.state_dict())

    def squares(own: torch.Tensor, targets: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (targets[1] * (own - targets[0]).square()).mean()

    lot = LoT(
        student,
        torch.optim.SGD(student.parameters(), lr=1.0),
        alpha=0.3,
        metric=lambda own, other: (own - other.detach()).square().mean(),
        labels=squares,
    )
    lot(outputs, x, y)
    lot.step(nn.Identity())
    (squares(copy(x), y) + 0.3 * (copy(x) - outputs).square().mean()).backward()
    torch.testing.assert_close(student.weight, copy.weight - copy.weight.grad)


def test_students_that_are_held_teach() -> None:
    """N = 0 is distillation: the term is the student's τ² KL, and nothing of it changes."""
    model, student = network(0).eval(), network(1).eval()
    before = deepcopy(student)
    lot = LoT(student, alpha=0.7, temperature=2.0, student_steps=0)
    x = torch.randn(8, FEATURES)
    logits = model(x)
    term = lot(logits, x)
    taught = (student(x) / 2).log_softmax(-1)
    expected = 4 * F.kl_div((logits / 2).log_softmax(-1), taught, reduction="batchmean", log_target=True)
    torch.testing.assert_close(term, 0.7 * expected)
    term.backward()
    assert all(p.grad is not None for p in model.parameters())
    distance = lot.step(model)
    assert not distance.requires_grad
    assert distance > 0
    assert same(student, before)
    assert all(p.grad is None for p in student.parameters())
    assert (lot.teacher_steps, lot.updates) == (1, 0)
    train(model, lot, sgd(model), 3)
    assert same(student, before)
    other = LoT(network(2), student_steps=0)
    other.load_state_dict(lot.state_dict())
    assert same(other.students[0], student)
    assert other.teacher_steps == 4


def test_pixels_have_labels_too() -> None:
    student = nn.Conv2d(3, CLASSES, 1)
    lot = LoT(student, sgd(student), labels=True, dim=1)
    x, targets = torch.randn(2, 3, 5, 6), torch.randint(CLASSES, (2, 5, 6))
    targets[0, 0] = -100
    lot(torch.randn(2, CLASSES, 5, 6), x, targets)
    lot.step(nn.Identity())
    assert lot.updates == 1


@pytest.mark.parametrize("metric", ["kl", "l2"])
@pytest.mark.parametrize(
    "labels", [False, True, lambda z, y: F.cross_entropy(z.movedim(1, -1).flatten(0, 1), y.flatten())]
)
def test_places_without_a_label_count_for_nothing(labels: Any, metric: Any) -> None:
    """The padding of texts is neither learned nor imitated, by the teacher or by students, on whichever batch."""
    texts = torch.randint(FEATURES, (5, 7), generator=torch.Generator().manual_seed(0))
    targets = texts % CLASSES
    length = 3
    targets[:, length:] = -100

    def trained(width: int) -> list[torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model, student = (
                nn.Sequential(nn.Embedding(FEATURES, 8), nn.Linear(8, CLASSES)).double() for _ in range(2)
            )
        x, y = texts[:, :width], targets[:, :width]
        lot = LoT(
            student,
            sgd(student),
            labels=labels,
            metric=metric,
            student_steps=2,
            data=[(x, y)],
            dim=1,
            forward=lambda module, inputs: module(inputs).movedim(-1, 1),
        )
        for _ in range(3):
            term = lot(model(x).movedim(-1, 1), x, y)
            term.backward()
            distance = lot.step(model)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return [term.detach(), distance, *gradients, *(p.detach() for p in student.parameters())]

    for found, expected in zip(trained(7), trained(length), strict=True):
        torch.testing.assert_close(found, expected)
    lot = LoT(nn.Linear(FEATURES, CLASSES), alpha=1.0, student_steps=0, metric=metric)
    assert lot(torch.randn(2, CLASSES), torch.randn(2, FEATURES), torch.full((2,), -100)) == 0


def test_a_students_own_batches_need_no_labels() -> None:
    student = nn.Linear(FEATURES, CLASSES)
    lot = LoT(student, sgd(student), student_steps=3, data=[torch.randn(5, FEATURES)])
    x = torch.randn(8, FEATURES)
    lot(torch.randn(8, CLASSES), x)
    lot.step(nn.Linear(FEATURES, CLASSES))
    assert lot.updates == 3


def test_a_run_goes_on_from_a_checkpoint_bitwise() -> None:
    def parts() -> tuple[nn.Module, nn.Module, LoT, torch.optim.SGD]:
        model, student = network(0), network(1)
        lot = LoT(student, sgd(student), student_steps=3, data=loader(1), seed=3)
        return model, student, lot, sgd(model)

    model, student, lot, optimizer = parts()
    seed_all()
    train(model, lot, optimizer, 4)  # eight batches of the students' own: in the middle of their second epoch
    saved = deepcopy([model.state_dict(), optimizer.state_dict(), lot.state_dict()])
    other, its_student, its_lot, its_optimizer = parts()
    other.load_state_dict(saved[0])
    its_optimizer.load_state_dict(saved[1])
    its_lot.load_state_dict(saved[2])
    for m, one, o in ((model, lot, optimizer), (other, its_lot, its_optimizer)):
        seed_all()
        train(m, one, o, 4)
    assert same(model, other)
    assert same(student, its_student)
    assert (its_lot.teacher_steps, its_lot.updates) == (8, 24)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_calls_out_of_order_are_refused() -> None:
    student = nn.Linear(FEATURES, CLASSES)
    lot = LoT(student, sgd(student))
    with pytest.raises(RuntimeError, match="no term since the last step"):
        lot.step(student)
    x = torch.randn(2, FEATURES)
    lot(student(x), x)
    with pytest.raises(RuntimeError, match="two terms without a step"):
        lot(student(x), x)
    with pytest.raises(RuntimeError, match="middle of a step"):
        lot.state_dict()


def test_an_optimiser_of_other_parameters_is_refused() -> None:
    students = [nn.Linear(FEATURES, CLASSES) for _ in range(2)]
    first, second = (torch.optim.SGD(student.parameters(), lr=0.1) for student in students)
    LoT(students, [first, second])
    with pytest.raises(ValueError, match=r"optimizers\[0\] has no parameter of students\[0\]"):
        LoT(students, [second, first])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha must be a finite number of at least 0, found -1"),
        ({"temperature": 0.0}, "temperature must be"),
        ({"student_steps": 2}, "need data="),
        ({"student_steps": -1}, "student_steps must be"),
        ({"student_steps": True}, "student_steps must be"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"alpha": "1"}, "alpha must be"),
        ({"weights": [float("nan")]}, r"weights\[0\] must be"),
        ({"labels": "no"}, "labels must be True or False, found 'no'"),
        ({"optimizers": []}, "1 students, 0 optimisers"),
        ({"weights": [0.5, 0.5]}, "1 students, 1 optimisers and 2 weights"),
        ({"metric": "KL"}, "did you mean 'kl'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    student = nn.Linear(FEATURES, CLASSES)
    with pytest.raises(ValueError, match=message):
        LoT(student, **{"optimizers": sgd(student), **options})


def test_batches_that_do_not_fit_are_refused() -> None:
    student, model, x = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES), torch.randn(2, FEATURES)
    with pytest.raises(ValueError, match="must have one shape"):
        LoT(student, sgd(student))(torch.randn(2, CLASSES + 1), x)
    for labels in (True, F.cross_entropy):
        with pytest.raises(ValueError, match=r"expected them for labels=.*third argument"):
            LoT(student, sgd(student), labels=labels)(student(x), x)
        lot = LoT(student, sgd(student), labels=labels, student_steps=2, data=[x])
        lot(student(x), x, torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"expected them for labels=.*must be a pair"):
            lot.step(model)
    lot = LoT(student, sgd(student), student_steps=2, data=[])
    lot(student(x), x)
    with pytest.raises(ValueError, match="gave no batch"):
        lot.step(model)
    with pytest.raises(ValueError, match="has 1 students, found 2"):
        LoT([student, student], [sgd(student), sgd(student)]).load_state_dict(LoT(student, sgd(student)).state_dict())


class Ends(NamedTuple):
    mean: torch.Tensor
    width: torch.Tensor


@dataclass(frozen=True)
class Shown:
    mean: torch.Tensor
    width: torch.Tensor


CONTAINERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda z: z,
    "list": lambda z: [z[:, :1], z[:, 1:]],
    "tuple": lambda z: (z[:, :1], z[:, 1:]),
    "dict": lambda z: {"mean": z[:, :1], "width": z[:, 1:]},
    "named": lambda z: Ends(z[:, :1], z[:, 1:]),
    "dataclass": lambda z: Shown(z[:, :1], z[:, 1:]),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_metric_gets_the_fixed_outputs_without_their_graph(container: str) -> None:
    """As the how-to says it: the step of each side is that of the mean square, the other held."""
    torch.manual_seed(0)
    x, holding = torch.randn(8, FEATURES), CONTAINERS[container]
    model, student = nn.Linear(FEATURES, 3), nn.Linear(FEATURES, 3)
    model_twin, student_twin = deepcopy(model), deepcopy(student)

    def squares(trained: Any, fixed: Any) -> torch.Tensor:
        pairs = list(zip(tensors_of(trained), tensors_of(fixed), strict=True))
        assert not any(two.requires_grad for _, two in pairs)
        assert type(trained) is type(fixed)
        return torch.cat([(one - two).square() for one, two in pairs], 1).mean()

    lot = LoT(
        student,
        torch.optim.SGD(student.parameters(), lr=1.0),
        alpha=0.5,
        metric=squares,
        forward=lambda module, inputs: holding(module(inputs)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    lot(holding(model(x)), x).backward()
    assert student.weight.grad is None
    optimizer.step()
    lot.step(model)
    taught, own = model_twin(x), student_twin(x)
    (0.5 * (taught - own.detach()).square().mean()).backward()
    (own - taught.detach()).square().mean().backward()
    for moved, twin in ((model, model_twin), (student, student_twin)):
        torch.testing.assert_close(moved.weight, twin.weight - twin.weight.grad)


def test_a_regression_learns_with_the_metric_that_the_error_names() -> None:
    torch.manual_seed(0)
    x, model, student = torch.randn(32, FEATURES), nn.Linear(FEATURES, 1), nn.Linear(FEATURES, 1)
    with pytest.raises(ValueError, match="one output has no distribution") as error:
        LoT(student, sgd(student))(model(x), x)
    named = str(error.value).partition("metric=")[2]
    for options in ({}, {"student_steps": 3, "data": DataLoader(TensorDataset(x), batch_size=8)}):
        lot = LoT(student, sgd(student), metric=eval(named), **options)
        before = (model(x) - student(x)).square().mean()
        for _ in range(3):
            assert lot(model(x), x) > 0
            lot.step(model)
        assert (model(x) - student(x)).square().mean() < before


@pytest.mark.parametrize("metric", ["kl", "l2"])
def test_one_output_has_no_distribution(metric: Any) -> None:
    """The softmax of one logit is 1, and one over a minibatch is not of classes: the term was 0, or nonsense."""
    outputs = torch.randn(8, 1)
    for call in (
        lambda: imitability(outputs, outputs, metric=metric),
        lambda: imitability(outputs[:, None], outputs[:, None], metric=metric, dim=1),
        lambda: imitability(outputs[0, 0], outputs[0, 0], metric=metric),
    ):
        with pytest.raises(ValueError, match=r"one output has no distribution.*metric=lambda trained, fixed"):
            call()
    flat = nn.Sequential(nn.Linear(FEATURES, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"shape \(8,\), expected \(batch, classes\)"):
        LoT(flat, sgd(flat), metric=metric)(outputs[:, 0], torch.randn(8, FEATURES))


def test_functions_that_return_no_number_are_refused() -> None:
    model, student, x = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES), torch.randn(8, FEATURES)
    for wrong, found in (
        (lambda own, other: (own - other).square(), r"shape \(8, 4\)"),
        (lambda own, other: float((own - other).detach().square().mean()), r"0\.\d+|1\.\d+"),
    ):
        with pytest.raises(ValueError, match=rf"metric= returned ({found}), expected a tensor of one number"):
            LoT(student, sgd(student), metric=wrong)(model(x), x)
        lot = LoT(student, sgd(student), labels=wrong)
        lot(model(x), x, model(x).detach())
        with pytest.raises(ValueError, match=rf"labels= returned ({found}), expected"):
            lot.step(model)


def test_batches_of_inputs_alone_may_be_in_lists() -> None:
    """As a DataLoader gives them of one tensor: the same as without the lists."""
    model, begin, x = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES), torch.randn(8, FEATURES)
    ends = []
    for batches in ([x], DataLoader(TensorDataset(x), batch_size=8)):
        student = deepcopy(begin)
        lot = LoT(student, sgd(student), student_steps=3, data=batches)
        lot(model(x), x)
        lot.step(model)
        ends.append(student)
    assert same(*ends)
    assert not same(begin, ends[0])


def test_what_is_no_module_or_optimiser_is_refused() -> None:
    student = nn.Linear(FEATURES, CLASSES)
    wrong: list[tuple[Any, Any, str]] = [
        (lambda: student, sgd(student), r"students\[0\] must be a torch\.nn\.Module, found.*what it returns"),
        (nn.Linear, sgd(student), r"students\[0\] must be"),
        ([student, None], [sgd(student)] * 2, r"students\[1\] must be a torch\.nn\.Module, found None$"),
        (student, torch.optim.SGD, r"optimizers\[0\] must be a torch\.optim\.Optimizer, found <class"),
        (student, student.parameters(), r"optimizers\[0\] must be a torch\.optim\.Optimizer, found Parameter"),
    ]
    for students, optimizers, message in wrong:
        with pytest.raises(TypeError, match=message):
            LoT(students, optimizers)
    lot, x = LoT(student, sgd(student)), torch.randn(2, FEATURES)
    lot(student(x), x)
    with pytest.raises(TypeError, match=r"teacher must be a torch\.nn\.Module"):
        lot.step(lambda: student)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"students\[0\] is the teacher itself"):
        lot.step(student)


def test_outputs_that_are_no_logits_need_a_metric() -> None:
    student, x = nn.Linear(FEATURES, CLASSES), torch.randn(2, FEATURES)
    lot = LoT(student, sgd(student), forward=lambda module, inputs: (module(inputs), None))
    with pytest.raises(TypeError, match=r"found outputs \(tensor.*expected a tensor of logits.*metric="):
        lot((student(x), None), x)


@pytest.mark.parametrize("label", [-1, CLASSES, 0.5])
def test_labels_that_are_no_classes_are_refused(label: float) -> None:
    model, student, x = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES), torch.randn(2, FEATURES)
    lot = LoT(student, sgd(student), labels=True)
    lot(model(x), x, torch.tensor([0, label]))
    message = r"found labels from .* expected 0 to 3 .* and -100 where|found labels of torch\.float32.*labels\.long\(\)"
    with pytest.raises((TypeError, ValueError), match=message):
        lot.step(model)
