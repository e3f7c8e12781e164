"""What an action sets beside the loss: the optimiser's settings, one coordinate for each.

With a ∈ [−1, 1] the coordinate, and η, μ, λ the settings that the environment has at that step:

    learning rate   η · 10^a                       a tenth to ten times the scheduled one
    momentum        1 − (1 − μ)^{1 + a}            none at −1; for μ = 0.9 up to 0.99
    weight decay    λ · 10^a                       a tenth to ten times

At a = 0 each is what it is without control, bitwise. The maps are smooth, and derivatives through them are exact. The
coordinates of the loss come first; without `"loss"` in control the loss stays the neutral one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from teachenv.optimizers import Optimizer, Rate

SETTINGS = {"learning-rate": "learning_rate", "momentum": "momentum", "weight-decay": "weight_decay"}
"""The settings of the optimiser that can be controlled, by their names in `control`."""

CONTROLS = ("loss", *SETTINGS)
"""What `control` can hold."""


@dataclass(frozen=True)
class Control:
    """What the coordinates of an action set.

    Attributes:
        loss_size: how many coordinates the loss reads.
        loss: whether they are coordinates of the action; False: they are zeros.
        settings: names in `SETTINGS`; the action's last coordinates, in this order.
    """

    loss_size: int
    loss: bool = True
    settings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of an action's coordinates."""
        return self.loss_size * self.loss + len(self.settings)

    def of_loss(self, action: torch.Tensor) -> torch.Tensor:
        """What the loss reads of an action, (n,) or (B, n)."""
        if not self.loss:
            return action.new_zeros(*action.shape[:-1], self.loss_size)
        return action[..., : self.loss_size] if self.settings else action

    def of_action(self, of_loss: torch.Tensor) -> torch.Tensor:
        """The derivative with respect to an action, given that with respect to what the loss reads of it."""
        if not self.settings:
            return of_loss
        if not self.loss:
            return of_loss.new_zeros(*of_loss.shape[:-1], self.size)
        return F.pad(of_loss, (0, len(self.settings)))

    def numbers(self, action: torch.Tensor, momentum: Rate = 0.0) -> torch.Tensor:
        """What an action, (n,), multiplies settings by, (settings,); of momentum what 1 − μ is multiplied by."""
        powers = action[self.size - len(self.settings) :].double()
        rest = 1 - torch.as_tensor(momentum, dtype=torch.float64)
        pairs = zip(powers, self.settings, strict=True)
        return torch.stack([rest**a if name == "momentum" else 10.0**a for a, name in pairs])

    def factor_of_rate(self, action: torch.Tensor) -> np.ndarray:
        """What an action, (n,) or (B, n), multiplies the learning rate by, () or (B,)."""
        if "learning-rate" not in self.settings:
            return np.ones(action.shape[:-1])
        place = self.size - len(self.settings) + self.settings.index("learning-rate")
        factor: np.ndarray = 10.0 ** action[..., place].double().cpu().numpy()
        return factor

    def applied(self, optimizer: Optimizer, rate: Rate, action: torch.Tensor) -> tuple[Optimizer, Rate]:
        """The (optimiser, learning rate) under an action, (n,) or (B, n); differentiable in it.

        Args:
            optimizer: the optimiser as the environment has it.
            rate: the scheduled learning rate.
            action: the whole action.
        """
        chosen = action[..., self.size - len(self.settings) :]
        carries = chosen.requires_grad or forward_ad.unpack_dual(chosen).tangent is not None  # type: ignore[no-untyped-call]
        if not carries and not chosen.any():
            return optimizer, rate
        changed: dict[str, Rate] = {}
        for i, name in enumerate(self.settings):
            a = chosen[..., i]
            if not carries:
                a = a.double()
                if a.dim() and (a == a[0]).all():
                    a = a[0]  # one number for all students, which is faster
            if name == "learning-rate":
                rate = _plain(rate * 10.0**a, carries, action)
            elif name == "momentum":
                rest = 1 - torch.as_tensor(optimizer.momentum, dtype=a.dtype, device=a.device)  # type: ignore[attr-defined]
                momentum = 1 - rest ** (1 + a)
                if not carries:  # 1 − (1 − μ) need not be μ to the bit
                    momentum = torch.where(a == 0, optimizer.momentum, momentum)  # type: ignore[attr-defined]
                changed["momentum"] = _plain(momentum, carries, action)
            else:
                changed["weight_decay"] = _plain(optimizer.weight_decay * 10.0**a, carries, action)  # type: ignore[attr-defined]
        return (optimizer.under(**changed) if changed else optimizer), rate


def _plain(value: torch.Tensor, carries: bool, action: torch.Tensor) -> Rate:
    """A setting as a number if it is one; of several students in the type of their tensors."""
    if carries or value.dim():
        return value.to(action.dtype)
    return float(value)
