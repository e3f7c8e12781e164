"""What depends on numbers that were read of tensors, and what is let through within transforms."""

import pytest
import torch

from teachenv.students.kernels import DifferentiableKernels
from teachenv.students.numbers_read import depending_on_numbers


def read(x: torch.Tensor) -> torch.Tensor:
    with DifferentiableKernels(fused=True, opens=True):
        return x * x.sum().item()


def test_one_search_for_numbers_inside_another_leaves_it_as_it_is():
    x = torch.ones(3, requires_grad=True)

    def outer() -> dict[str, torch.Tensor]:
        assert depending_on_numbers(lambda: {"inner": read(x)}) == ["inner"]
        return {"outer": read(x)}

    assert depending_on_numbers(outer) == ["outer"]


def test_all_results_are_named_where_nothing_can_be_tried():
    x = torch.ones(3, requires_grad=True)

    def exact() -> dict[str, torch.Tensor]:
        with DifferentiableKernels(fused=True, opens=True):
            assert x.sum().item() == 3
            return {"one": x, "other": 2 * x}

    assert depending_on_numbers(exact) == ["one", "other"]


@pytest.mark.parametrize("stop", [torch.Tensor.detach, lambda x: x.data])
def test_a_tensor_detached_within_transforms_stops_their_gradients(stop):
    x = torch.arange(6.0).view(3, 2)

    def total(z: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(lambda row: (stop(row) * row).sum())(z).sum()

    with DifferentiableKernels(fused=True, opens=True):
        assert torch.equal(torch.func.grad(total)(x), x)
