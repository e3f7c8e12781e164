"""A teacher network and a student as one network, for joint distillation."""

from __future__ import annotations

import torch
from torch import nn

TEACHER, STUDENT = "teacher.", "student."
"""How the names of each network's tensors begin."""


class Pair(nn.Module):
    """Two networks on the same inputs; their outputs stand side by side, the teacher's first.

    Args:
        teacher: a network.
        student: a network of as many outputs.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(batch, 2 · outputs)."""
        return torch.cat([self.teacher(inputs), self.student(inputs)], -1)
