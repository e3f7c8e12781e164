"""Influence of modules whose usual kernels have no forward-mode derivative: equal to that sample by sample."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meta
from meta.hypergradients.forward_mode import in_forward_mode
from meta.hypergradients.process import Process

FEATURES, CLASSES = 4, 3
Batch = tuple[torch.Tensor, torch.Tensor]


class On(nn.Module):
    """A part that reads (B, 5, 4), and a head on the mean of what it gives."""

    def __init__(self, part: nn.Module, width: int, run: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.part, self.head, self.run = part, nn.Linear(width, CLASSES), run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.run(self.part, x)
        return self.head(found.mean(1) if found.dim() == 3 else found)


class Centres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(6, 20))


class Cubed(torch.autograd.Function):
    """No derivative but the backward pass's."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * gradients[0]


def words(x: torch.Tensor) -> torch.Tensor:
    return (3 * x.abs()).long().clamp(max=8).flatten(1)


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        return nn.utils.weight_norm(nn.Linear(4, 8))


def called(part: Any, x: torch.Tensor) -> torch.Tensor:
    return part(x)


def recurrent(part: Any, x: torch.Tensor) -> torch.Tensor:
    return part(x)[0]


MODULES: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: On(nn.MultiheadAttention(4, 2, batch_first=True), 4, lambda m, x: m(x, x, x)[0]),
    "attention-fused": lambda: On(
        nn.MultiheadAttention(4, 2, batch_first=True), 4, lambda m, x: m(x, x, x, need_weights=False)[0]
    ),
    "transformer": lambda: On(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1), 4, called
    ),
    "sdpa": lambda: On(nn.Linear(4, 8), 8, lambda m, x: F.scaled_dot_product_attention(m(x), m(x), m(x))),
    "lstm": lambda: On(nn.LSTM(4, 8, batch_first=True), 8, recurrent),
    "gru": lambda: On(nn.GRU(4, 8, batch_first=True), 8, recurrent),
    "weight-norm": lambda: On(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), 8, called),
    "old-weight-norm": lambda: On(old_weight_norm(), 8, called),
    "bag-mean": lambda: On(nn.EmbeddingBag(9, 4), 4, lambda m, x: m(words(x))),
    "bag-sum": lambda: On(
        nn.EmbeddingBag(9, 4, mode="sum"), 4, lambda m, x: m(words(x), per_sample_weights=x.flatten(1))
    ),
    "bag-max": lambda: On(nn.EmbeddingBag(9, 4, mode="max"), 4, lambda m, x: m(words(x))),
    "cdist": lambda: On(Centres(), 6, lambda m, x: torch.cdist(x.flatten(1), m.centres)),
    "convolution": lambda: On(nn.Conv1d(5, 6, 3), 2, called),
}
WITHOUT: dict[str, Callable[[], nn.Module]] = {
    "bag-padding": lambda: On(nn.EmbeddingBag(9, 4, padding_idx=0), 4, lambda m, x: m(words(x))),
    "function": lambda: On(nn.Linear(4, 8), 8, lambda m, x: Cubed.apply(m(x))),
}


def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def made(build: Callable[[], nn.Module], dtype: torch.dtype) -> tuple[nn.Module, Batch, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = build().to(dtype)
    batch, held = ((torch.randn(4, 5, FEATURES, dtype=dtype), torch.randint(CLASSES, (4,))) for _ in range(2))
    return model, batch, meta.held_out_gradient(model, losses, held)


def switches() -> tuple[bool, ...]:
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
    )


def assert_equals(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = 1e-5 if found.dtype == torch.float32 else 1e-11
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    assert expected.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_exact_influence_is_that_sample_by_sample(build: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    model, batch, v = made(build, dtype)
    before = switches()
    found = meta.influence(model, losses, batch, v)
    assert switches() == before
    assert_equals(found, meta.influence(model, losses, batch, v, method="per-sample"))


@pytest.mark.parametrize("build", WITHOUT.values(), ids=WITHOUT)
def test_without_forward_mode_it_is_taken_sample_by_sample_with_one_warning(build: Callable[[], nn.Module]) -> None:
    model, batch, v = made(build, torch.float64)
    before = switches()
    with pytest.warns(UserWarning, match="no forward-mode derivative") as warned:
        found = meta.influence(model, losses, batch, v)
    assert len(warned) == 1
    assert switches() == before
    assert torch.equal(found, meta.influence(model, losses, batch, v, method="per-sample"))
    differences = meta.influence(model, losses, batch, v, method="finite-difference", radius=1e-4)
    torch.testing.assert_close(found, differences, rtol=1e-5, atol=1e-9)


def test_derivatives_of_outputs_without_forward_mode_are_those_of_differences() -> None:
    model, batch, v = made(WITHOUT["function"], torch.float64)
    function, outputs = meta.directional_derivative, lambda m, b: m(b[0])
    with pytest.warns(UserWarning, match="no forward-mode derivative"):
        found = function(model, outputs, batch, v)
    expected = function(model, outputs, batch, v, method="finite-difference", radius=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_errors_of_the_model_itself_are_raised_and_leave_no_switch_behind() -> None:
    model, batch, v = made(MODULES["weight-norm"], torch.float32)
    before = switches()
    with pytest.raises(RuntimeError, match="shapes"):
        meta.influence(model, losses, (batch[0][..., :3], batch[1]), v)
    with pytest.raises(ZeroDivisionError):
        in_forward_mode(lambda: 1 // 0)
    assert switches() == before


def test_an_old_weight_norm_keeps_its_own_weight() -> None:
    model, batch, v = made(MODULES["old-weight-norm"], torch.float64)
    weight = model.part.weight
    for method in ("exact", "per-sample"):
        meta.influence(model, losses, batch, v, method=method)  # type: ignore[arg-type]
        assert model.part.weight is weight


def test_forward_hypergradients_choose_their_kernels_too() -> None:
    """A step that normalises weights: the fused kernel has no forward-mode derivative."""

    def step(x: torch.Tensor, a: torch.Tensor, t: int) -> torch.Tensor:
        return torch._weight_norm(x, a.reshape(2, 1), 0)

    process = Process(step, lambda x: (x * torch.arange(6.0, dtype=x.dtype).view(2, 3)).sum())
    state = torch.tensor([[1.0, 2.0, -1.0], [0.5, 1.0, 3.0]], dtype=torch.float64)
    actions = [torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([0.5, -1.0], dtype=torch.float64)]
    forward, reverse = (meta.hypergradient(process, state, actions, method=m).actions for m in ("forward", "rmd"))
    torch.testing.assert_close(forward, reverse)
