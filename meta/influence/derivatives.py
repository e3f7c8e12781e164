"""Influence: what a step on each sample of a batch does to a loss on held-out data.

Let ℓ_i(ω) be the losses of a batch's samples and v = ∇L(ω') the gradient of a held-out loss. A gradient step of
size η on ℓ_i lowers the held-out loss by η·I_i to first order, where

    I_i = ⟨∇ℓ_i(ω), v⟩,

so samples of positive influence help. With ℓ_i the cross-entropy between a teacher's and a student's distributions and
ω' the student after its step on the batch, this is distillation influence (Ren et al. 2023, eq. 8, whose η is left out
there as here). Nothing below knows of distillation.

Methods, B samples:
    `"exact"`: the derivative of the vector (ℓ_1 … ℓ_B) along v, by forward mode: one pass, no step size, no
        gradient of a single sample. Memory does not grow with depth. Of a model that has no forward-mode derivative,
        whichever kernels are chosen (`meta.hypergradients.forward_mode`), `"per-sample"` is taken instead, with a
        warning.
    `"finite-difference"`: [ℓ_i(ω + εv) − ℓ_i(ω − εv)] / 2ε with ε = r/‖v‖, r = 0.01 (eq. 10 and the released code): two
        forward passes; an error of O(r²), and in float32 rounding of some 1e-7·ℓ/r.
    `"per-sample"`: the gradient of each sample, then the products: B backward passes, batched by vmap where the model
        can be batched so, else one after the other. The oracle that tests and benchmarks compare with.

The model is in evaluation mode, as in the released code: with dropout the two passes of a difference would be of two
networks, and under batch statistics a sample has no gradient of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils import _pytree as pytree

from meta.hypergradients.forward_mode import NoForwardMode, dual, in_forward_mode, tangent_of
from meta.hypergradients.process import double_backward_kernels
from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.modes import evaluating, refuse_inference_mode

Direction = Mapping[str, torch.Tensor]
"""A tensor for each parameter, by its name in the model; for those left out it is zero."""

Losses = Callable[[nn.Module, Any], torch.Tensor]
"""(model, batch) -> one loss a sample, (B,)."""

InfluenceMethod = Literal["exact", "finite-difference", "per-sample"]
INFLUENCE_METHODS: tuple[InfluenceMethod, ...] = get_args(InfluenceMethod)


def influence(
    model: nn.Module,
    losses: Losses,
    batch: Any,
    direction: Direction,
    *,
    method: InfluenceMethod = "exact",
    radius: float = 0.01,
) -> torch.Tensor:
    """Computes the influence of each sample of a batch on the loss whose gradient `direction` is: (B,), detached.

        def losses(student, batch):
            inputs, targets = batch
            return F.cross_entropy(student(inputs), targets, reduction="none")

        v = meta.held_out_gradient(student, losses, held_out)
        meta.influence(student, losses, batch, v)

    Args:
        model: any module; it is not changed.
        losses: called as `losses(model, batch)`, the model with the parameters that the method needs.
        batch: tensors in any nesting of dicts, lists and tuples, samples along the first dimension of each.
        direction: the gradient v of the held-out loss, a tensor for each parameter by name, from `held_out_gradient`.
        method: `"exact"`, `"finite-difference"` or `"per-sample"`; the module says what each computes and costs.
        radius: the length r of the step of `"finite-difference"`, in the space of the parameters.

    Raises:
        ValueError: an unknown method; an empty direction, or one of other names or shapes than the model's; losses that
            are no vector with an entry a sample; a radius that is not positive.
    """
    refuse_inference_mode("meta.influence")
    at = _with_parameters(model, lambda m, b: _checked(losses(m, b), b))
    if method == "per-sample":
        parameters = _parameters_of(model, _not_empty(direction))
        with torch.no_grad(), _unchanged(model), double_backward_kernels():
            return _by_sample(at, parameters, direction, batch)
    if method not in INFLUENCE_METHODS:
        raise unknown_name("influence method", method, INFLUENCE_METHODS)
    try:
        return _derivative(model, at, batch, direction, method, radius)
    except NoForwardMode as error:
        warnings.warn(f'{type(model).__name__}: {error}; method="per-sample" is taken instead', stacklevel=2)
        return influence(model, losses, batch, direction, method="per-sample")


def directional_derivative(
    model: nn.Module,
    function: Callable[[nn.Module, Any], torch.Tensor],
    batch: Any,
    direction: Direction,
    *,
    method: Literal["exact", "finite-difference"] = "exact",
    radius: float = 0.01,
) -> torch.Tensor:
    """Computes how a function of a model changes along v: what `influence` is for losses, for any tensor.

    Args:
        model: any module; it is not changed.
        function: called as `function(model, batch)`.
        batch: the second argument that the function is called with.
        direction: the direction v, a tensor for each parameter that moves, by name.
        method: `"exact"` or `"finite-difference"`; the module says what each computes and costs.
        radius: the length r of the step of `"finite-difference"`, in the space of the parameters.

    Returns:
        A tensor in the shape of the function's value, detached.

    Raises:
        ValueError: an unknown method; an empty direction, or one of other names or shapes than the model's; a radius
            that is not positive.
    """
    if method not in ("exact", "finite-difference"):
        raise unknown_name("method", method, ("exact", "finite-difference"))
    at = _with_parameters(model, function)
    try:
        return _derivative(model, at, batch, direction, method, radius)
    except NoForwardMode as error:
        warnings.warn(f"{type(model).__name__}: {error}; two backward passes are taken instead", stacklevel=2)
        parameters = _parameters_of(model, direction)
        with torch.no_grad(), _unchanged(model), double_backward_kernels():
            return _by_transposes(lambda values: at(values, batch), parameters, direction)


def derivative_along(
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    at: Mapping[str, torch.Tensor],
    direction: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Computes the derivative of a function of tensors along a direction; detached.

    By forward mode, or by two backward passes where there is none.

    Args:
        function: takes tensors by name to a tensor.
        at: the tensors at which it is differentiated, by name.
        direction: a tensor for each of them, of its shape.

    Returns:
        A tensor in the shape of the function's value.
    """
    try:
        return in_forward_mode(
            lambda: tangent_of(function({name: dual(value.detach(), direction[name]) for name, value in at.items()}))
        )
    except NoForwardMode:
        return _by_transposes(function, at, direction)


def held_out_gradient(
    model: nn.Module, losses: Losses, batch: Any, parameters: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Computes the gradient v = ∇L(ω') of the mean loss on held-out data, by name of parameter; detached.

    Args:
        model: any module; it is not changed, nor are its `.grad`s. Parameters that do not require a gradient have none.
        losses: (model, batch) to one loss for each sample, (B,), as in `influence`.
        batch: the held-out samples, in the form that `losses` takes.
        parameters: ω' by name, such as those after a virtual step; those left out are the model's own.

    Raises:
        ValueError: parameters of other names or shapes than the model's; losses that are no vector with an entry a
            sample.
    """
    refuse_inference_mode("meta.held_out_gradient")
    parameters_of_model = {name: value for name, value in model.named_parameters() if value.requires_grad}
    _parameters_of(model, parameters or {})
    values = {
        name: value.detach().requires_grad_() for name, value in (parameters_of_model | dict(parameters or {})).items()
    }
    with _unchanged(model), torch.enable_grad():
        loss = _checked(_with_parameters(model, losses)(values, batch), batch).mean()
        gradients = torch.autograd.grad(
            loss, [values[name] for name in parameters_of_model], allow_unused=True, materialize_grads=True
        )
    return dict(zip(parameters_of_model, gradients, strict=True))


_At = Callable[[Mapping[str, torch.Tensor], Any], torch.Tensor]


class _Called(nn.Module):
    """A module whose forward pass is a function of another module: `functional_call` takes nothing else."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Any], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, batch: Any) -> torch.Tensor:
        return self.function(self.model, batch)


def _with_parameters(model: nn.Module, function: Callable[[nn.Module, Any], torch.Tensor]) -> _At:
    """Turns a function of (model, batch) into one of (parameters, batch)."""
    module = _Called(model, function)

    def at(values: Mapping[str, torch.Tensor], batch: Any) -> torch.Tensor:
        result: torch.Tensor = functional_call(module, {f"model.{name}": v for name, v in values.items()}, (batch,))
        return result

    return at


def _checked(losses: torch.Tensor, batch: Any) -> torch.Tensor:
    sizes = [len(array) for array in _arrays_of(batch)]
    samples = sizes[0] if sizes else losses.numel()
    if losses.shape != (samples,):
        raise ValueError(
            f"found losses of shape {tuple(losses.shape)}, expected ({samples},), one for each sample of the batch; "
            'losses of torch.nn.functional need reduction="none"'
        )
    return losses


def _arrays_of(batch: Any) -> Iterator[Any]:
    """The arrays of a batch, in mappings, lists and tuples; single numbers, texts and others are left out."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        for part in batch:
            yield from _arrays_of(part)
    elif getattr(batch, "ndim", 0):
        yield batch


def _not_empty(direction: Direction) -> Direction:
    if not direction:
        raise ValueError("found an empty direction, expected a tensor for each parameter; see meta.held_out_gradient")
    return direction


def _parameters_of(model: nn.Module, named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the model's parameters of these names, detached.

    Raises:
        ValueError: it has none of that name, or of another shape.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    for name, value in named.items():
        if name not in parameters:
            raise unknown_name("parameter", name, parameters)
        if value.shape != parameters[name].shape:
            raise ValueError(
                f"{name}: found shape {tuple(value.shape)}, the model's has {tuple(parameters[name].shape)}"
            )
    return {name: parameters[name] for name in named}


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Puts the model into evaluation mode inside the block, and back into its own; afterwards it is as it was.

    So are its buffers (one may count passes), and tensors that it keeps as plain attributes and sets anew in its
    forward pass (a weight that `nn.utils.weight_norm` computes): those of a differentiated pass are of no use outside.
    """
    before = [
        (module, dict(module._buffers), {n: v for n, v in vars(module).items() if torch.is_tensor(v)})
        for module in model.modules()
    ]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with evaluating(model):
            yield
    finally:
        for module, buffers, attributes in before:
            module._buffers.clear()
            module._buffers.update(buffers)
            vars(module).update(attributes)
        for buffer, value in values:
            if buffer.shape != value.shape:
                buffer.data = value  # it was resized, which is no operation on values
            elif not torch.equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)
            if buffer.requires_grad and not buffer._is_view():  # it was changed by something with a graph
                buffer.detach_()


def _derivative(
    model: nn.Module, at: _At, batch: Any, direction: Direction, method: str, radius: float
) -> torch.Tensor:
    radius = checks.number("radius", radius, above=0)  # the length of a step along the direction
    parameters = _parameters_of(model, _not_empty(direction))
    with torch.no_grad(), _unchanged(model), double_backward_kernels():
        if method == "finite-difference":
            return _difference(at, parameters, direction, batch, radius)
        return in_forward_mode(
            lambda: tangent_of(at({name: dual(value, direction[name]) for name, value in parameters.items()}, batch))
        )


def _by_transposes(
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    at: Mapping[str, torch.Tensor],
    direction: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Computes J v, for J the Jacobian, as the derivative of (Jᵀu)·v with respect to u, in which it is linear."""
    names = list(direction)
    leaves = {name: at[name].detach().requires_grad_() for name in names}
    with torch.enable_grad(), double_backward_kernels():
        value = function(leaves)
        u = torch.zeros_like(value).requires_grad_()
        transposed = torch.autograd.grad(
            value, list(leaves.values()), u, create_graph=True, allow_unused=True, materialize_grads=True
        )
        product = torch.stack([(p * direction[name]).sum() for name, p in zip(names, transposed, strict=True)]).sum()
        if not product.requires_grad:
            return torch.zeros_like(value)
        (derivative,) = torch.autograd.grad(product, u, materialize_grads=True)
    return derivative.detach()


def _difference(
    at: _At, parameters: dict[str, torch.Tensor], direction: Direction, batch: Any, radius: float
) -> torch.Tensor:
    norm = float(torch.stack([v.norm() for v in direction.values()]).norm())
    # Along nothing there is no step of length r, and no change.
    epsilon = radius / norm if norm > 0 else 1.0
    ahead, behind = (
        at({name: value + step * direction[name] for name, value in parameters.items()}, batch)
        for step in (epsilon, -epsilon)
    )
    return (ahead - behind) / (2 * epsilon)


def _by_sample(at: _At, parameters: dict[str, torch.Tensor], direction: Direction, batch: Any) -> torch.Tensor:
    for leaf in pytree.tree_leaves(batch):
        if not isinstance(leaf, torch.Tensor) or not leaf.dim():
            kind = "a tensor without dimensions" if isinstance(leaf, torch.Tensor) else f"a {type(leaf).__name__}"
            raise TypeError(
                f'method="per-sample" takes a batch apart into its samples, found {kind} in it: give a tensor, or a '
                "tuple, list or dictionary of tensors with the samples first (of others, dict(batch))"
            )

    def product(sample: Any) -> torch.Tensor:
        alone = pytree.tree_map(lambda tensor: tensor[None], sample)
        gradient = grad(lambda values: at(values, alone)[0])(parameters)
        return torch.stack([(gradient[name] * v).sum() for name, v in direction.items()]).sum()

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # vmap's, of operations one by one
            products: torch.Tensor = vmap(product)(batch)
        return products
    except RuntimeError:
        # Not every model can be batched so: transformers' attention masks are built by data-dependent branches, and
        # not every autograd.Function knows of functorch.
        leaves, tree = pytree.tree_flatten(batch)
        samples = (
            pytree.tree_unflatten([leaf[None] for leaf in sample_leaves], tree)
            for sample_leaves in zip(*leaves, strict=True)
        )
        return torch.stack([_by_backward(at, parameters, direction, sample) for sample in samples])


def _by_backward(at: _At, parameters: dict[str, torch.Tensor], direction: Direction, sample: Any) -> torch.Tensor:
    """Computes ⟨∇ℓ, v⟩ of one sample, given as a batch of one, by a backward pass."""
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            at(leaves, sample)[0], list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return torch.stack([(g * direction[name]).sum() for name, g in zip(leaves, gradients, strict=True)]).sum()
