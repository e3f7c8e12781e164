"""Whether the derivative of a step's loss is what autograd takes it for.

An adjoint by double backward is right if the gradients of a step's operations are their derivatives. They are not in a
straight-through estimator, a reversal of gradients or a hook that scales them, nor where a value leaves the graph by
`.data`, `.item()` or NumPy. Such a step is trained as its author meant it, and its adjoint would be wrong unseen.
"""

from __future__ import annotations

import warnings

import torch

from meta.hypergradients.loss_update import Derivatives, LossUpdate
from teachenv.optimizers import Tensors
from teachenv.state import StudentState
from teachenv.students.derivatives import random_direction
from teachenv.students.stopped_gradients import opened, other_numbers
from teachenv.trees import leaves

_READ = "what the loss reads of the action"

_STEPS = {torch.float32: 1e-2, torch.float64: 1e-5}
"""How far tensors are moved, in tenths of their size, by their dtype."""


def warn_of_parts_left_out(what: str, stacklevel: int) -> None:
    """Warns that a gradient is not complete.

    Args:
        what: what it leaves out a part of, the subject of a sentence.
        stacklevel: how many calls above this one the warning is shown.
    """
    warnings.warn(
        f"the gradient leaves out a part: {what} depend(s) on parameters or hyperparameters in a way that has no "
        "derivative (.data, .item(), NumPy, in-place updates of what is detached), or has a gradient that is not the "
        "derivative (straight-through, a hook); compute it by differentiable operations, under torch.no_grad() if its "
        "own gradient shall not see it, and it is followed",
        stacklevel=stacklevel + 1,
    )


def parts_left_out(update: LossUpdate, state: StudentState, action: torch.Tensor, read: Tensors) -> list[str]:
    """Compares derivatives of a step's loss and new buffers, along a random direction, with difference quotients.

    Args:
        update: the step.
        state: the state before it.
        action: its action.
        read: the hyperparameters that the loss reads: the first numbers of the action.

    Returns:
        The names of those results whose derivative autograd does not follow: "the loss", "the buffer 'mean'". What two
        difference quotients differ by (kinks), and rounding, is let pass. A result that depends on a Python number,
        read of what depends on the tensors, is found even where its derivative is zero.
    """
    point = state.parameters | {name: state.buffers[name] for name in update.statistics}
    size_read = sum(tensor.numel() for tensor in read.values())
    dtypes = {tensor.dtype for tensor in (*point.values(), *read.values())}
    if not dtypes <= _STEPS.keys():
        return []
    point |= {_READ: action[:size_read].detach()} if size_read else {}
    step, rng = max(_STEPS[dtype] for dtype in dtypes), torch.Generator().manual_seed(1)
    along = {name: random_direction(tensor, rng) for name, tensor in point.items()}

    def results(tensors: Tensors, derivatives: Derivatives) -> Tensors:
        parameters = {name: tensors[name] for name in state.parameters}
        buffers = state.buffers | {name: tensors[name] for name in update.statistics}
        chosen = torch.cat([tensors[_READ], action[size_read:].detach()]) if size_read else action.detach()
        loss, new = update.loss_at(parameters, buffers, int(state.step), chosen, derivatives)
        return {"the loss": loss} | {f"the buffer {name!r}": new[name] for name in update.statistics}

    def quotients(size: float) -> dict[str, float]:
        with torch.enable_grad():  # a loss may take gradients itself, also of the parameters
            moved = [
                {n: (t + s * along[n]).requires_grad_(n not in update.statistics) for n, t in point.items()}
                for s in (size, -size)
            ]
            plus, minus = ({n: value.detach() for n, value in results(each, "none").items()} for each in moved)
        return {name: float((plus[name].double() - minus[name].double()).sum()) / (2 * size) for name in plus}

    far, near, tensors = quotients(step), quotients(step / 2), leaves(point)
    with torch.enable_grad():
        here = results(tensors, "reverse")
        with other_numbers():
            moved = results(tensors, "reverse")
    found = []
    for name, value in here.items():
        if not torch.equal(value.nan_to_num(), moved[name].nan_to_num()):
            found.append(name)
            continue
        slopes = _slopes(value, tensors, along)
        rounding = torch.finfo(value.dtype).eps * float(value.detach().norm()) / step
        # Parts of either sign may cancel; their norm is what they usually add up to.
        size = max(abs(near[name]), float(slopes.norm()))
        if abs(float(slopes.sum()) - near[name]) > 0.02 * size + 10 * abs(far[name] - near[name]) + 30 * rounding:
            found.append(name)
    return found


def _slopes(value: torch.Tensor, tensors: Tensors, along: Tensors) -> torch.Tensor:
    """The parts of the derivative of a value's sum along a direction, one of each number, in float64."""
    if not value.requires_grad:
        return torch.zeros(1, dtype=torch.float64)
    with opened():
        grads = torch.autograd.grad(value.sum(), list(tensors.values()), retain_graph=True, materialize_grads=True)
    return torch.cat([(g * along[n]).flatten().double() for n, g in zip(tensors, grads, strict=True)])
