"""Losses of networks that compute in half precision are those of their outputs in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from meta import LoT, TaughtLoss, imitability
from meta.distillation import DISTILLERS, Batch, DistillationSettings, losses
from teachenv.precision import in_full_precision, without_autocast

CLASSES = 10
LABELS = torch.arange(12) % CLASSES
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def learned(family: str, **options: Any) -> TaughtLoss:
    """A teacher's loss at an action that half precision does not have."""
    about = {"kind": "perceptron", "net_arch": []}
    config = {"loss": family, "loss_kwargs": options, "outputs": CLASSES, "actor": about, "steps_per_action": 1}
    actor = nn.Sequential(nn.Linear(3 + CLASSES, CLASSES**2 if family == "bilinear" else 3), nn.Tanh())
    with torch.no_grad():
        for i, parameter in enumerate(actor.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) / 3)
    loss = TaughtLoss(actor, config)
    loss.tell(progress=0.1, train_accuracy=0.2, dev_accuracy=0.3, dev_precision=[0.7] * CLASSES)
    return loss


def of_lot(taught: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    lot = LoT(nn.Linear(1, CLASSES), student_steps=0, forward=lambda *_: taught)
    return lot(own, None, LABELS)


BILINEAR, MIXTURE = learned("bilinear"), learned("mixture", components=["cross-entropy", "brier", "hinge"])
OF_TWO: dict[str, Loss] = {
    "divergence": lambda t, s: losses.divergence(t, s, 1.5).mean(),
    "cross-entropy": lambda t, s: losses.cross_entropy(s, LABELS),
    "soft-cross-entropy": lambda t, s: losses.soft_cross_entropy(t, s, 1.5).mean(),
    "spherical": lambda t, s: losses.spherical(t, s).mean(),
    "relational": lambda t, s: torch.stack(losses.relational(t, s)).sum(),
    "squared": lambda t, s: losses.squared(t, s).mean(),
    "patience": lambda t, s: losses.patience([t], [s]).mean(),
    "imitability-kl": lambda t, s: imitability(s, t, 1.5),
    "imitability-l2": lambda t, s: imitability(s, t, 1.5, metric="l2"),
    "lot": of_lot,
    "taught-bilinear": lambda t, s: BILINEAR(s, LABELS),
    "taught-mixture": lambda t, s: MIXTURE(s, LABELS),
}


def close(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two networks that nearly agree: their distance is small beside what it is the difference of."""
    taught, off = (torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    return (3 * taught).to(dtype), (3 * taught + 0.1 * off).to(dtype)


def slopes(loss: Loss, taught: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = own.clone().requires_grad_()
    value = loss(taught, leaf)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", OF_TWO.values(), ids=OF_TWO)
def test_a_loss_is_that_of_outputs_in_float32(loss: Loss, dtype: torch.dtype, autocast: bool) -> None:
    half = close(dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        value, slope = slopes(loss, *half)
    taught, own = (z.float() for z in half)
    expected, expected_slope = slopes(loss, taught, own)
    assert (value.dtype, slope.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(slope, expected_slope.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", OF_TWO.values(), ids=OF_TWO)
def test_full_precision_stays_as_it_is(loss: Loss, dtype: torch.dtype) -> None:
    given = close(dtype)
    expected = slopes(loss, *given)
    with torch.autocast("cpu", torch.bfloat16):
        found = slopes(loss, *given)
        assert torch.is_autocast_enabled("cpu")
    assert [each.dtype for each in found] == [dtype, dtype]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_teacher_says_the_same_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = learned("bilinear")
    assert found._action is not None
    assert BILINEAR._action is not None
    assert torch.equal(found._action, BILINEAR._action)


@pytest.mark.parametrize("name", [name for name in DISTILLERS if name not in ("sequence-kd", "rco", "pkd")])
def test_a_step_under_autocast_is_close_to_one_without(name: str) -> None:
    inputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for autocast in (False, True):
        torch.manual_seed(1)
        teacher, student = nn.Linear(5, CLASSES), nn.Linear(5, CLASSES)
        build: Any = DISTILLERS[name]
        options = {"classes": CLASSES} if name == "pesf-kd" else {}
        distiller = build(teacher, student, DistillationSettings(2, 0.01, 0.01, student_labels=0.3), **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found.append(distiller.step(Batch(inputs, LABELS), Batch(inputs, LABELS))["student_loss"])
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in student.parameters())
    np.testing.assert_allclose(*found, rtol=0.02)


def test_what_is_given_in_other_ways_is_raised_too() -> None:
    half = torch.ones(2, dtype=torch.bfloat16)
    whole = torch.ones(2, dtype=torch.int64)

    @in_full_precision
    def types(*args: Any, **kwargs: Any) -> Any:
        return [each.dtype for each in (args[0], args[1]["a"][0], kwargs["b"])], args[2]

    assert types(half, {"a": (whole,)}, "mean", b=half.double()) == (
        [torch.float32, torch.int64, torch.float64],
        "mean",
    )
    with torch.autocast("cpu", torch.bfloat16), without_autocast([]):
        assert torch.is_autocast_enabled("cpu")  # of no tensor's device
