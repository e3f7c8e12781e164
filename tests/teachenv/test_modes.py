"""A module in evaluation mode for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from teachenv.modes import evaluating


class Merging(nn.Linear):
    """Merges a second weight into its own for evaluation, as low-rank adapters do."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        self.merged = not mode
        return self


def network() -> nn.Sequential:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(Merging(3, 3), nn.Dropout(0.5)))
    module[1].eval()
    module[2][1].eval()
    return module


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_each_part_gets_its_own_mode_back(fails: bool, whole: bool) -> None:
    module = network()
    if whole:
        module.eval()
    before = modes(module)
    try:
        with evaluating(module):
            assert not any(modes(module))
            assert module[2][0].merged
            with evaluating(module):
                pass
            assert not any(modes(module))
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert modes(module) == before
    assert module[2][0].merged == whole
    assert torch.is_tensor(module(torch.ones(2, 2)))
