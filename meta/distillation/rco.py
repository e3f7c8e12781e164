"""Route-constrained optimisation (RCO): Jin et al. 2019."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from meta.distillation.base import DistillationSettings
from meta.distillation.batch import Batch
from meta.distillation.kd import KD
from teachenv import checks


class RCO(KD):
    """KD from the checkpoints that a teacher left on its own way, one after the other.

    Each checkpoint teaches for an equal part of the steps; the last one's is the finished teacher's.

    Args:
        teacher: a network into which the checkpoints are loaded.
        student: the network that is taught, changed in place.
        settings: options that all methods share.
        route: `state_dict`s of the teacher on its way, earliest first.

    Raises:
        ValueError: an empty route, or one longer than there are steps.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        settings: DistillationSettings,
        *,
        route: Sequence[Mapping[str, torch.Tensor]],
    ) -> None:
        super().__init__(teacher, student, settings)
        checks.listed("route", route, "state_dicts of the teacher")
        if not 0 < len(route) <= settings.steps:
            raise ValueError(
                f"found a route of {len(route)} checkpoints for {settings.steps} steps, expected at least one, and no "
                "more than steps: route=[...] has the teacher's state_dict() of several moments of its training"
            )
        self.route, self._loaded = route, -1

    def teach(self, batch: Batch, feedback: Batch | None) -> dict[str, float]:
        """Loads the checkpoint whose turn it is into the teacher; logs its number, from 0."""
        turn = min(self.student.steps * len(self.route) // self.settings.steps, len(self.route) - 1)
        if turn != self._loaded:
            self.teacher.network.load_state_dict(dict(self.route[turn]))
            self._loaded = turn
        return {"checkpoint": float(turn)}
