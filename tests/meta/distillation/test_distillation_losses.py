"""Losses that divide by a length or a spread: bounded where that is zero, the paper's formula where it is ordinary."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from meta.distillation import DIST, KD, SKD, Batch, DistillationSettings, losses

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def pearson(a: torch.Tensor, b: torch.Tensor, dim: int) -> torch.Tensor:
    p, q = (z.softmax(-1) for z in (a, b))
    return (1 - F.cosine_similarity(p - p.mean(dim, keepdim=True), q - q.mean(dim, keepdim=True), dim=dim)).mean()


def sphere(taught: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    centred = [z - z.mean(-1, keepdim=True) for z in (taught, logits)]
    length = centred[0].norm(dim=-1).mean()
    t, s = (F.log_softmax(length * F.normalize(z, dim=-1), -1) for z in centred)
    return (t.exp() * (t - s)).sum(-1).mean()


def apart(taught: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return (F.normalize(taught, dim=-1) - F.normalize(hidden, dim=-1)).square().sum(-1).mean()


NORMALISED: dict[str, tuple[Loss, Loss]] = {
    "spherical": (lambda t, s: losses.spherical(t, s).mean(), sphere),
    "patience": (lambda t, s: losses.patience([t], [s]).mean(), apart),
    "relational-inter": (lambda t, s: losses.relational(t, s)[0], lambda t, s: pearson(t, s, -1)),
    "relational-intra": (lambda t, s: losses.relational(t, s)[1], lambda t, s: pearson(t, s, 0)),
}
"""(Ours, the paper's formula) of the teacher's and the student's vectors."""

every_loss = pytest.mark.parametrize(("ours", "papers"), NORMALISED.values(), ids=NORMALISED)


def drawn(seed: int, dtype: torch.dtype = torch.float64, rows: int = 7, classes: int = 5) -> torch.Tensor:
    return torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slope(loss: Loss, taught: torch.Tensor, student: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    student = student.detach().requires_grad_()
    value = loss(taught, student)
    return value, torch.autograd.grad(value, student)[0]


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_ordinary_lengths_give_the_papers_formula(ours: Loss, papers: Loss, dtype: torch.dtype, scale: float) -> None:
    taught, student = drawn(0, dtype), scale * drawn(1, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for found, expected in zip(slope(ours, taught, student), slope(papers, taught, student), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-12, 1e-7, 1e-3, 1e-2])
def test_gradients_are_bounded_near_zero(ours: Loss, papers: Loss, dtype: torch.dtype, scale: float) -> None:
    taught = 3 * drawn(0, dtype)
    for shift in (0.0, 0.7):  # Equal logits need not be zero: a bias may be common to all classes and samples.
        value, gradient = slope(ours, taught, scale * drawn(1, dtype) + shift)
        assert value.isfinite()
        assert gradient.abs().max() < 2 / losses._SHORT
    assert slope(ours, taught, scale * drawn(1, dtype))[1].abs().max() > 1e-3, "a head that begins at zero must move"


@every_loss
@pytest.mark.parametrize("silent", [0.0, 0.7])
def test_a_teacher_that_says_nothing_gives_small_gradients(ours: Loss, papers: Loss, silent: float) -> None:
    for student in (drawn(1), torch.zeros(7, 5, dtype=torch.float64)):
        value, gradient = slope(ours, torch.full((7, 5), silent, dtype=torch.float64), student)
        assert value.isfinite()
        assert gradient.abs().max() < 2 / losses._SHORT


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.03, 0.1])
def test_derivatives_of_short_vectors_are_those_of_differences(ours: Loss, papers: Loss, scale: float) -> None:
    taught, student = drawn(0, rows=3, classes=4), (scale * drawn(1, rows=3, classes=4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ours(taught, s), student, eps=1e-7, atol=1e-4)
    assert torch.autograd.gradgradcheck(lambda s: ours(taught, s), student, eps=1e-7, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("method", [KD, SKD, DIST], ids=lambda method: method.__name__)
def test_a_head_that_begins_at_zero_learns(method: type[KD]) -> None:
    """Adam remembers the first gradient: one of 1e7 or 1e12 left the head where it was, at an agreement of 0.6."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 10, generator=generator)
    teacher, student = nn.Linear(10, 3, bias=False), nn.Linear(10, 3)
    nn.init.normal_(teacher.weight, generator=generator)
    nn.init.zeros_(student.weight)
    nn.init.zeros_(student.bias)
    distiller = method(teacher, student, DistillationSettings(400, student_rate=1e-2))
    for _ in range(400):
        chosen = torch.randint(512, (32,), generator=generator)
        distiller.step(Batch(x[chosen], torch.zeros(32, dtype=torch.long)))
    assert (student(x).argmax(1) == teacher(x).argmax(1)).double().mean() > 0.95
