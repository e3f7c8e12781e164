"""Batch normalisation as part of a pure, differentiable training step.

The policy for running statistics:

* a training step normalises by the minibatch's own statistics, and is differentiated through them;
* the running statistics are part of the student's state: a step maps old to new ones, exactly once, and replaying
  the step gives the same ones again;
* evaluation (objective, metrics) uses the statistics that the state carries.

J(ω_T) therefore depends on earlier parameters along a second path, through the running statistics. PyTorch's batch norm
updates them in place and cannot differentiate that path, nor an evaluation with respect to them; `batch_norm` can, and
is put into its place where a step is differentiated (`teachenv.students.kernels`). Undifferentiated steps keep
PyTorch's fused kernel.

The second derivative of PyTorch's kernel is a composition of some forty element-wise operations, which took half of the
time of a ResNet's double backward pass; `batch_normalized` has the same kernels with a second derivative of a few.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    fused: bool = True,
) -> torch.Tensor:
    """`F.batch_norm`, differentiable in everything, running statistics included, which are updated in place.

    Args:
        input: what is normalised, (n, channels, ...).
        running_mean: running mean, (channels,).
        running_var: running variance, (channels,).
        weight: scale γ, (channels,).
        bias: shift β, (channels,).
        training: normalise by the minibatch's statistics.
        momentum: weight of the minibatch in the running statistics.
        eps: added to the variance.
        fused: in training, normalise by `batch_normalized`, which runs neither under `torch.func.vmap` nor in forward
            mode; else by elementary operations.
    """
    if training and input.numel() == input.shape[1]:
        raise ValueError(
            f"batch norm of one value per channel, shape {tuple(input.shape)}, which it would make zero: take larger "
            "minibatches, or let it keep running statistics (track_running_stats=True) and evaluate by them"
        )
    if running_mean is None or running_var is None:
        if fused and training and (weight is None or weight.dtype == input.dtype):
            return batch_normalized(input, weight, bias, eps)
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    input_dtype = input.dtype
    # Under autocast the input may be in bfloat16; statistics are not, as in the fused kernel.
    input = input.to(running_mean.dtype)
    if training:
        dims = [0, *range(2, input.dim())]
        variance, mean = torch.var_mean(input, dim=dims, correction=0)
        count = input.numel() // input.shape[1]
        before = running_mean.detach().clone(), running_var.detach().clone()
        _follow(running_mean, mean, momentum)
        _follow(running_var, variance * (count / (count - 1)), momentum)
        if fused:
            normal = batch_normalized(input, weight, bias, eps, *before, momentum)
            # To the last bit those of PyTorch's kernel, which has left its own there.
            for running, exact in zip((running_mean, running_var), before, strict=True):
                running.add_(exact - running.detach())
            return normal.to(input_dtype)
    else:
        mean, variance = running_mean, running_var
    shape = (1, -1, *[1] * (input.dim() - 2))
    return _scaled_and_shifted(input, mean, variance, weight, bias, eps, shape).to(input_dtype)


def instance_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`F.instance_norm`, differentiable in everything, running statistics included, which are updated in place."""
    if running_mean is None or running_var is None:
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    input_dtype, input = input.dtype, input.to(running_mean.dtype)
    variance, mean = torch.var_mean(input, dim=list(range(2, input.dim())), correction=0, keepdim=True)
    count = input[0, 0].numel()
    _follow(running_mean, mean.flatten(1).mean(0), momentum)
    _follow(running_var, variance.flatten(1).mean(0) * (count / (count - 1)), momentum)
    shape = (1, -1, *[1] * (input.dim() - 2))
    return _scaled_and_shifted(input, mean, variance, weight, bias, eps, shape).to(input_dtype)


def _follow(running: torch.Tensor, now: torch.Tensor, momentum: float) -> None:
    running.mul_(1 - momentum).add_(momentum * now)


def _scaled_and_shifted(
    input: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    shape: tuple[int, ...],
) -> torch.Tensor:
    """(input − mean) / √(variance + ε) · weight + bias, with one product and one sum over the input."""
    if mean.dim() == 1:
        mean, variance = mean.view(shape), variance.view(shape)
    scale = torch.rsqrt(variance + eps)
    shift = -mean * scale
    if weight is not None:
        scale, shift = scale * weight.view(shape), shift * weight.view(shape)
    if bias is not None:
        shift = shift + bias.view(shape)
    return input * scale + shift


def batch_normalized(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    momentum: float = 0.0,
) -> torch.Tensor:
    """Normalises (n, channels, ...) by its own statistics; can be differentiated twice in reverse mode, cheaply.

    Args:
        input: what is normalised, x.
        weight: scale γ, (channels,); None: 1.
        bias: shift β, (channels,); None: 0.
        eps: added to the variance.
        running_mean: updated in place, as by PyTorch; None: there is none.
        running_var: likewise.
        momentum: how far the two move towards the input's statistics.
    """
    channels = input.shape[1]
    weight = input.new_ones(channels) if weight is None else weight
    bias = input.new_zeros(channels) if bias is None else bias
    arguments = (input, weight, bias, running_mean, running_var, momentum, eps)
    result: torch.Tensor = _Normalize.apply(*arguments)[0]
    return result


class _Normalize(torch.autograd.Function):
    """y = γ x̂ + β with x̂ = (x − μ) r, r = (σ² + ε)^(−1/2); gives (y, μ, r)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        momentum: float,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        _, mean, scale = output
        ctx.mark_non_differentiable(mean, scale)
        ctx.save_for_backward(*inputs[:2], mean, scale)
        ctx.eps = inputs[-1]

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor, *_: Any) -> Any:
        x, weight, mean, scale = ctx.saved_tensors
        of_inputs = _NormalizeBackward.apply(dy, x, weight, mean, scale, ctx.eps)
        return *of_inputs, None, None, None, None


class _NormalizeBackward(torch.autograd.Function):
    """dx = γr (dy − m(dy) − x̂ m(dy x̂)), dγ = Σ dy x̂, dβ = Σ dy, with m the mean over a channel of N values."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, None, None, mean, scale, True, eps, [True, True, True]
        )
        return gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:5], *output[1:])
        ctx.eps = inputs[-1]

    @staticmethod
    def backward(ctx: Any, gx: torch.Tensor, gw: torch.Tensor, gb: torch.Tensor) -> Any:
        """The gradient of S = Σ gx·dx + gw·dγ + gb·dβ, in which x̂ and r depend on x.

        With K = m(gx dy) − m(gx) m(dy) − m(gx x̂) m(dy x̂) the first sum is γ r N K, and t = ∂S/∂x̂ at fixed r is
        −γr (gx m(dy x̂) + dy m(gx x̂)) + gw dy. Then

            ∂S/∂dy = γr (gx − m(gx) − x̂ m(gx x̂)) + gw x̂ + gb        (the first term is the backward kernel's)
            ∂S/∂γ = r N K
            ∂S/∂x = r (t − m(t) − x̂ m(t x̂)) − γ K r² x̂
        """
        dy, x, weight, mean, scale, dw, db = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.dim() - 2))
        count = x.numel() // x.shape[1]
        d_dy, sum_gxhat, sum_g = _NormalizeBackward.forward(gx, x, weight, mean, scale, ctx.eps)
        one, zero = torch.ones_like(mean), torch.zeros_like(mean)
        # Σ gx dy of each channel, by the kernel that has Σ dy x̂, without a product in memory.
        sum_gdy = torch.ops.aten.native_batch_norm_backward(
            gx, dy, None, None, None, zero, one, True, ctx.eps, [False, True, False]
        )[1]
        m_dy, m_dyxhat, m_g, m_gxhat, m_gdy = (s / count for s in (db, dw, sum_g, sum_gxhat, sum_gdy))
        k, wr = m_gdy - m_g * m_dy - m_gxhat * m_dyxhat, weight * scale
        of_gx, of_dy = -wr * m_dyxhat, gw - wr * m_gxhat  # t = of_gx · gx + of_dy · dy
        mean_t = of_gx * m_g + of_dy * m_dy
        mean_txhat = of_gx * m_gxhat + of_dy * m_dyxhat
        of_x = -scale * (scale * mean_txhat + wr * k * scale)
        d_x = torch.addcmul((-scale * mean_t - of_x * mean).view(shape), x, of_x.view(shape))
        d_x.addcmul_(gx, (scale * of_gx).view(shape)).addcmul_(dy, (scale * of_dy).view(shape))
        d_dy.addcmul_(x, (gw * scale).view(shape)).add_((gb - gw * scale * mean).view(shape))
        return d_dy, d_x, scale * count * k, None, None, None
