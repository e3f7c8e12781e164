"""Whether the derivative of a step's loss is what autograd takes it for.

An adjoint by double backward is right if the gradients of a step's operations are their derivatives. They are not in a
straight-through estimator, a reversal of gradients or a hook that scales them, nor where a value leaves the graph by
`.data`, `.item()` or NumPy. Such a step is trained as its author meant it, and its adjoint would be wrong unseen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from meta.hypergradients.loss_update import Derivatives, LossUpdate
from teachenv.optimizers import Tensors
from teachenv.state import StudentState
from teachenv.students.derivatives import random_direction
from teachenv.students.numbers_read import depending_on_numbers
from teachenv.students.stopped_gradients import opened
from teachenv.trees import leaves

_READ, _LOSS = "what the loss reads of the action", "the loss"

_STEPS = {torch.float32: 1e-2, torch.float64: 1e-5}
"""How far tensors are moved, in tenths of their size, by their dtype."""


def warn_of_parts_left_out(what: str, stacklevel: int) -> None:
    """Warns that a gradient is not complete.

    Args:
        what: what has no complete derivative, the subject of a sentence.
        stacklevel: how many calls above this one the warning is shown.
    """
    warnings.warn(
        f"the gradient is incomplete: {what} depend(s) on parameters or hyperparameters in a way that has no "
        "derivative (numbers by .item(), float() or NumPy; torch.func under no_grad; in-place updates of what is "
        "detached), or has a gradient that is not the derivative (straight-through, a hook). Compute it by "
        "differentiable operations, and detach the result if the loss's gradient must not depend on it: that is "
        "followed",
        stacklevel=stacklevel + 1,
    )


def parts_left_out(
    update: LossUpdate,
    objective: Callable[[StudentState], torch.Tensor],
    state: StudentState,
    action: torch.Tensor,
    read: Tensors,
    last: int,
) -> list[str]:
    """Finds what the derivatives of a step and of J leave out.

    Derivatives of the step's loss and new buffers, along a random direction, are compared with difference quotients;
    what two quotients differ by (kinks), and rounding, is let pass. Of the loss's gradient, new buffers and J it is
    tried whether they depend on numbers that were read of tensors; of the last step too, since a loss may have parts
    that begin later.

    Args:
        update: the step.
        objective: J, a function of the state.
        state: the state before the step.
        action: its action.
        read: the hyperparameters that the loss reads: the first numbers of the action.
        last: the number of the last step, which is tried from the same state.

    Returns:
        The names of those results whose derivative autograd does not follow, such as "the loss", "the buffer 'mean'",
        "the objective".
    """
    point = state.parameters | {name: state.buffers[name] for name in update.statistics}
    size_read = sum(tensor.numel() for tensor in read.values())
    if not {tensor.dtype for tensor in (*point.values(), *read.values())} <= _STEPS.keys():
        return []
    point |= {_READ: action[:size_read].detach()} if size_read else {}

    def at(tensors: Tensors) -> StudentState:
        given = state.buffers | {name: tensors[name] for name in update.statistics if name in tensors}
        return replace(state, parameters={name: tensors[name] for name in state.parameters}, buffers=given)

    def results(tensors: Tensors, derivatives: Derivatives, step: int = int(state.step)) -> Tensors:
        given = at(tensors)
        chosen = torch.cat([tensors[_READ], action[size_read:].detach()]) if size_read else action.detach()
        loss, new = update.loss_at(given.parameters, given.buffers, step, chosen, derivatives)
        return {_LOSS: loss} | {f"the buffer {n!r}": new[n] for n in update.statistics if n in tensors}

    def of_step(step: int) -> Tensors:
        values = results(tensors := leaves(point), "reverse", step)
        parameters = [tensors[name] for name in state.parameters]
        grads = torch.autograd.grad(values[_LOSS], parameters, retain_graph=True, materialize_grads=True)
        return values | {_LOSS: torch.cat([grad.flatten() for grad in grads])}

    with torch.enable_grad():  # a loss may take gradients itself, also of the parameters
        new = results({n: t.clone().requires_grad_(n not in update.statistics) for n, t in point.items()}, "none")
        # What reads a constant leaves nothing out.
        for name in update.statistics:
            if torch.equal(new[f"the buffer {name!r}"], point[name]):
                del point[name]
        depending = [
            n for step in sorted({int(state.step), last}) for n in depending_on_numbers(partial(of_step, step))
        ]
        depending += depending_on_numbers(lambda: {"the objective": objective(at(leaves(point)))})
        not_followed = _not_followed(results, point, [n for n in update.statistics if n in point])
    return list(dict.fromkeys([*not_followed, *depending]))


def _not_followed(
    results: Callable[[Tensors, Derivatives], Tensors], point: Tensors, statistics: Sequence[str]
) -> list[str]:
    """The names of results whose derivative at a point, along a random direction, is not what difference quotients are.

    Args:
        results: a function of tensors, by name.
        point: these tensors.
        statistics: the names of those that ask for no gradient where the function is not differentiated.
    """
    step, rng = max(_STEPS[tensor.dtype] for tensor in point.values()), torch.Generator().manual_seed(1)
    along = {name: random_direction(tensor, rng) for name, tensor in point.items()}

    def quotients(size: float) -> dict[str, float]:
        moved = [
            {n: (t + s * along[n]).requires_grad_(n not in statistics) for n, t in point.items()} for s in (size, -size)
        ]
        plus, minus = ({n: value.detach() for n, value in results(each, "none").items()} for each in moved)
        return {name: float((plus[name].double() - minus[name].double()).sum()) / (2 * size) for name in plus}

    far, near, tensors = quotients(step), quotients(step / 2), leaves(point)
    names = []
    for name, value in results(tensors, "reverse").items():
        slopes = _slopes(value, tensors, along)
        rounding = torch.finfo(value.dtype).eps * float(value.detach().norm()) / step
        # Parts of either sign may cancel; their norm is what they usually add up to.
        size = max(abs(near[name]), float(slopes.norm()))
        if abs(float(slopes.sum()) - near[name]) > 0.02 * size + 10 * abs(far[name] - near[name]) + 30 * rounding:
            names.append(name)
    return names


def _slopes(value: torch.Tensor, tensors: Tensors, along: Tensors) -> torch.Tensor:
    """The parts of the derivative of a value's sum along a direction, one of each number, in float64."""
    if not value.requires_grad:
        return torch.zeros(1, dtype=torch.float64)
    with opened():
        grads = torch.autograd.grad(value.sum(), list(tensors.values()), retain_graph=True, materialize_grads=True)
    return torch.cat([(g * along[n]).flatten().double() for n, g in zip(tensors, grads, strict=True)])
