"""Parameter-efficient and student-friendly distillation: Rao et al. 2022 (PESF-KD)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from meta.distillation.base import DistillationSettings, OnlineDistiller
from meta.distillation.learner import Outputs, as_outputs, check_network
from teachenv import checks


class PESFKD(OnlineDistiller):
    """A fine-tuned teacher of which only an adapter learns: α CE(y, T) + (1 − α) KL(S ‖ T); then KD.

    Args:
        teacher: a fine-tuned network; all its parameters stay as they are.
        student: the network that is taught, changed in place.
        settings: options that all methods share.
        classes: the number of classes of the task, which the adapter's layers have.
        features: the size of the teacher's last hidden layer, which the adapter reads beside the logits; 0: it does
            not.
        width: the number of hidden units of the adapter.

    Raises:
        ValueError: sizes out of range.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        settings: DistillationSettings,
        *,
        classes: int,
        features: int = 0,
        width: int = 64,
    ) -> None:
        check_network("teacher", teacher)
        classes = checks.integer("classes", classes, least=2)
        features = checks.integer("features", features, least=0)
        width = checks.integer("width", width, least=1)
        first_parameter = next(teacher.parameters(), torch.zeros(()))
        super().__init__(
            Adapted(teacher, classes, features, width).to(first_parameter.device, first_parameter.dtype),
            student,
            settings,
        )


class Adapted(nn.Module):
    """A frozen network with a small one beside it that changes its logits: z + A gelu(B [z, h]).

    h is the last hidden layer that the network shows (`Outputs.hidden`). A begins at zero: at first nothing is changed.
    Where the paper puts adapters into the teacher's layers, this one needs no knowledge of them.

    Args:
        network: the network that is adapted; its parameters are frozen.
        classes: the number of its logits.
        features: the size of h; 0: the adapter reads z alone.
        width: the number of hidden units of the adapter.
    """

    def __init__(self, network: nn.Module, classes: int, features: int, width: int) -> None:
        super().__init__()
        self.network, self.features = network.requires_grad_(False), features
        self.down, self.up = nn.Linear(classes + features, width), nn.Linear(width, classes)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Any) -> Outputs:
        """Returns the network's outputs with adapted logits, and its hidden vectors as they are.

        Raises:
            ValueError: logits, or hidden vectors, of other sizes than the adapter's.
        """
        outputs = as_outputs(self.network(inputs))
        # A class whose logit is −∞ (a padded vocabulary) stays so; the adapter reads 0 of it.
        logits = outputs.logits.masked_fill(outputs.logits == -torch.inf, 0.0).movedim(1, -1)
        shown = outputs.hidden[-1].shape[-1] if outputs.hidden else 0
        if logits.shape[-1] != self.up.out_features or self.features not in (0, shown):
            raise ValueError(
                f"found a teacher of {logits.shape[-1]} classes and {shown} features in Outputs.hidden[-1], expected "
                f"classes={self.up.out_features} and features={self.features}, which PESFKD was given"
            )
        adapter_inputs = torch.cat([logits, outputs.hidden[-1]], -1) if self.features else logits
        change = self.up(nn.functional.gelu(self.down(adapter_inputs)))
        return Outputs(outputs.logits + change.movedim(-1, 1), outputs.hidden)
