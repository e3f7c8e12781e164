"""A teacher network and a student as one network, for joint distillation."""

from __future__ import annotations

import torch
from torch import nn

from teachenv.students.calling import Call

TEACHER, STUDENT = "teacher.", "student."
"""How the names of each network's tensors begin."""


class Pair(nn.Module):
    """Two networks on the same inputs; their outputs stand side by side, the teacher's first.

    Args:
        teacher: a network.
        student: a network of as many outputs.
        call: how each is called; by default with the inputs, of which it returns its outputs.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, call: Call | None = None) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student
        self._call_of_each = call or Call()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(batch, 2 · outputs)."""
        networks = (self.teacher, self.student)
        return torch.cat([self._call_of_each(n, inputs, type(n).__name__, self.training) for n in networks], -1)
