"""Batch normalisation as part of a pure, differentiable training step.

The policy for running statistics, the same for every `nn.BatchNorm*`:

* a training step normalises by the minibatch's own statistics, and is differentiated through them;
* the running statistics are part of the student's state: a step maps old to new ones, exactly once, and replaying
  the step gives the same ones again;
* evaluation (objective, metrics) uses the statistics that the state carries.

J(ω_T) therefore depends on earlier parameters along a second path, through the running statistics. PyTorch's batch norm
updates them in place and cannot differentiate that path, nor an evaluation with respect to them;
`differentiable_batch_norm` makes a module that can, at the price of unfused arithmetic. Undifferentiated steps keep
PyTorch's fused kernel.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(module: nn.Module) -> bool:
    """Whether the module carries running statistics of `nn.BatchNorm*`."""
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in module.modules())


def differentiable_batch_norm(module: nn.Module) -> nn.Module:
    """Exchanges, in place, each `nn.BatchNorm*` with running statistics for its differentiable twin.

    Parameter and buffer names stay the same, so a state fits both forms.
    """
    for child in module.modules():
        if isinstance(child, _BatchNorm) and child.track_running_stats:
            child.__class__ = _twin(type(child))
    return module


def _twin(original: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Differentiable{original.__name__}", (_DifferentiableForward, original), {})


class _DifferentiableForward(_BatchNorm):
    """`nn.BatchNorm*`'s forward, out of place and differentiable in everything, running statistics included."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalises (n, channels, ...); in training mode also replaces the running statistics by new tensors."""
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        given = input.dtype
        # Under autocast the input may be in bfloat16; statistics are not, as in the fused kernel.
        input = input.to(self.running_mean.dtype)
        if self.training:
            dims = [0, *range(2, input.dim())]
            variance, mean = torch.var_mean(input, dim=dims, correction=0)
            self._update(mean, variance, count=input.numel() // input.shape[1])
        else:
            mean, variance = self.running_mean, self.running_var
        shape = (1, -1, *[1] * (input.dim() - 2))
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (input * scale.view(shape) + shift.view(shape)).to(given)

    def _update(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked = self.num_batches_tracked + 1
        # momentum=None means the cumulative average (torch's documented behaviour).
        rate = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.to(mean.dtype)
        unbiased = variance * (count / (count - 1))
        self.running_mean = (1 - rate) * self.running_mean + rate * mean
        self.running_var = (1 - rate) * self.running_var + rate * unbiased
