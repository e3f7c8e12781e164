"""What an action sets beside the loss, one coordinate for each.

With a ∈ [−1, 1] the coordinate, and η, μ, λ the settings of the optimiser that the environment has at that step:

    learning rate   η · 10^a                       a tenth to ten times the scheduled one
    momentum        1 − (1 − μ)^{1 + a}            none at −1; for μ = 0.9 up to 0.99
    weight decay    λ · 10^a                       a tenth to ten times
    augmentation    1 + a times on average         none at −1, twice at 1

At a = 0 each is what it is without control, bitwise. The maps of the optimiser's settings are smooth, and derivatives
through them are exact. The coordinates of the loss come first; without `"loss"` in control the loss stays the neutral
one.

**Augmentation.** Each sample of a minibatch is augmented once; below zero a share −a of them is left as it is, above
zero a share a of them is augmented once more. Which ones is drawn from the episode's seed, so that J is a step function
of a. In the place of its derivative, which is zero, gradients have that of the *expected* step: with L₀, L₁ and L₂ the
minibatch's losses where all samples are augmented not at all, once or twice, the expected loss is −a·L₀ + (1 + a)·L₁
below zero and (1 − a)·L₁ + a·L₂ above, to first order in one sample's part of a minibatch; its slope is L₁ − L₀ or
L₂ − L₁, and at zero the mean of both. Each differentiated step takes two more passes for it. Neither the papers nor
released code have it.
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

AUGMENTATION = "augmentation"

CONTROLS = ("loss", *SETTINGS, AUGMENTATION)
"""What `control` can hold."""


@dataclass(frozen=True)
class Control:
    """What the coordinates of an action set.

    Attributes:
        loss_size: how many coordinates the loss reads.
        loss: whether they are coordinates of the action; False: they are zeros.
        others: names in `CONTROLS` other than the loss's; the action's last coordinates, in this order.
    """

    loss_size: int
    loss: bool = True
    others: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of an action's coordinates."""
        return self.loss_size * self.loss + len(self.others)

    @property
    def settings(self) -> tuple[str, ...]:
        """The names in `SETTINGS` that are controlled."""
        return tuple(name for name in self.others if name in SETTINGS)

    @property
    def augmentation(self) -> bool:
        """Whether a coordinate sets how often samples are augmented."""
        return AUGMENTATION in self.others

    def place(self, name: str) -> int:
        """Which coordinate of an action sets something beside the loss."""
        return self.loss_size * self.loss + self.others.index(name)

    def of_loss(self, action: torch.Tensor) -> torch.Tensor:
        """What the loss reads of an action, (n,) or (B, n)."""
        if not self.loss:
            return action.new_zeros(*action.shape[:-1], self.loss_size)
        return action[..., : self.loss_size] if self.others else action

    def of_augmentation(self, action: torch.Tensor) -> torch.Tensor | None:
        """The coordinate of an action, (n,) or (B, n), that sets the augmentation, () or (B,); None: there is none."""
        return action[..., self.place(AUGMENTATION)] if self.augmentation else None

    def of_action(self, of_loss: torch.Tensor, of_augmentation: torch.Tensor | None = None) -> torch.Tensor:
        """The derivative with respect to an action, given those with respect to what a step's pass reads of it.

        Args:
            of_loss: with respect to what the loss reads, (..., loss_size).
            of_augmentation: with respect to the coordinate of the augmentation, (...,); None: it is zero.
        """
        if not self.others:
            return of_loss
        part = F.pad(of_loss if self.loss else of_loss[..., :0], (0, len(self.others)))
        if of_augmentation is not None:
            part[..., self.place(AUGMENTATION)] = of_augmentation
        return part

    def numbers(self, action: torch.Tensor, momentum: Rate = 0.0) -> torch.Tensor:
        """What an action, (n,), sets beside the loss, (others,).

        They are factors on the optimiser's settings, of momentum on 1 − μ, and how often a sample is augmented.
        """
        rest = 1 - torch.as_tensor(momentum, dtype=torch.float64)
        maps = {"momentum": lambda a: rest**a, AUGMENTATION: lambda a: 1 + a}
        powers = action[self.size - len(self.others) :].double()
        return torch.stack([maps.get(name, lambda a: 10.0**a)(a) for a, name in zip(powers, self.others, strict=True)])

    def factor_of_rate(self, action: torch.Tensor) -> np.ndarray:
        """What an action, (n,) or (B, n), multiplies the learning rate by, () or (B,)."""
        if "learning-rate" not in self.others:
            return np.ones(action.shape[:-1])
        factor: np.ndarray = 10.0 ** action[..., self.place("learning-rate")].double().cpu().numpy()
        return factor

    def applied(self, optimizer: Optimizer, rate: Rate, action: torch.Tensor) -> tuple[Optimizer, Rate]:
        """The (optimiser, learning rate) under an action, (n,) or (B, n); differentiable in it.

        Args:
            optimizer: the optimiser as the environment has it.
            rate: the scheduled learning rate.
            action: the whole action.
        """
        chosen = action[..., [self.place(name) for name in self.settings]]
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
