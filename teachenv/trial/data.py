"""A trial of what a task of a user's own does with a minibatch: its augmentation, its trim, its decisions."""

from __future__ import annotations

from functools import partial

import torch

from teachenv import checks
from teachenv.randomness import Purpose, generator
from teachenv.students.calling import as_floats
from teachenv.students.prediction import Prediction
from teachenv.tasks.base import Augmentation, Task
from teachenv.tasks.decisions import Decided, Decisions
from teachenv.tasks.packing import augmented as result_of
from teachenv.trial.calls import called, form, ours, scalar


def augmented(task: Task, augmentation: Augmentation | None, inputs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The inputs of a minibatch as training sees them, after a trial of an augmentation of a user's own.

    Raises:
        ValueError: it draws from another generator than its own, or returns another kind of inputs.
    """
    if augmentation is None or ours(augmentation):
        return inputs
    piece = f"the augmentation of task {task.name!r}"
    inputs = as_floats(inputs, dtype)
    result = called(
        piece,
        partial(result_of, augmentation, task.packing),
        lambda: (inputs.clone(), generator(0, Purpose.AUGMENTATION)),
        device=inputs.device,
    )
    _require_like(f"{piece} returns", result, inputs, "the shape and dtype of the inputs")
    return result


def trimmed(task: Task, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A minibatch after the task's trim, which is tried if it is a user's own.

    Raises:
        ValueError: it does not return inputs and targets of as many samples.
    """
    if task.trim is None:
        return inputs, targets
    if ours(task.trim):
        return task.trim(inputs, targets)
    piece = f"the trim of task {task.name!r}"
    result: object = called(piece, task.trim, lambda: (inputs.clone(), targets.clone()), device=inputs.device)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ValueError(f"{piece} returns {form(result)}, expected two tensors; return (inputs, targets)")
    for name, part, given in zip(("inputs", "targets"), result, (inputs, targets), strict=True):
        _require_like(f"{piece} returns as {name}", part, given, "all samples in their dtype", whole=False)
    return result[0], result[1]


def try_trim_of_many(task: Task, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Tries a user's own trim on the minibatches of two students together.

    Raises:
        ValueError: it does not trim them as it trims one of them.
    """
    if task.trim is None or ours(task.trim):
        return
    piece = f"the trim of task {task.name!r}"
    alone = trimmed(task, inputs, targets)
    stacked = tuple(torch.stack([tensor, tensor]) for tensor in (inputs, targets))
    together = called(f"{piece}, on minibatches of two students,", task.trim, lambda: stacked, device=inputs.device)
    for part, one in zip(together, alone, strict=True):
        if part.shape != (2, *one.shape):
            raise ValueError(
                f"{piece} makes minibatches of two students {tuple(part.shape)}, expected {(2, *one.shape)} as of one "
                "alone; count dimensions from the end, tensor[..., :length]"
            )


def output_shape(task: Task, decisions: Decisions) -> tuple[int, ...]:
    """The shape of a sample's outputs.

    Raises:
        ValueError: decisions of a user's own say no shape.
    """
    each = tuple(task.pool[1].shape[1:])
    if ours(decisions):
        return decisions.output_shape(task.num_outputs, each)
    name = f"output_shape of the decisions {type(decisions).__name__} of task {task.name!r}"
    shape: object = called(name, decisions.output_shape, lambda: (task.num_outputs, each))
    if not isinstance(shape, tuple | list) or not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            f"{name} is {checks.shown(shape)}, expected the shape of a sample's outputs, such as (classes,)"
        )
    return tuple(shape)


def decided(
    task: Task, decisions: Decisions, prediction: Prediction, targets: torch.Tensor, dtype: torch.dtype
) -> Decided:
    """What the loss sees of a minibatch, after a trial of decisions of a user's own.

    Raises:
        ValueError: they are not what `Decisions` promises.
    """
    if ours(decisions):
        return decisions(prediction, targets)
    piece = f"the decisions {type(decisions).__name__} of task {task.name!r}"
    result: object = called(piece, decisions, lambda: (prediction, targets), device=targets.device)
    if not isinstance(result, Decided):
        raise ValueError(f"{piece} return {form(result)}, expected a Decided; return Decided(prediction, labels, rest)")
    decided_prediction: object = result.prediction
    labels: object = result.labels
    if not isinstance(decided_prediction, Prediction):
        raise ValueError(
            f"{piece} have {form(decided_prediction)} as prediction, expected a Prediction; make it, Prediction(logits)"
        )
    logits = decided_prediction.outputs
    if logits.dim() != 2 or len(logits) % len(targets):
        raise ValueError(
            f"{piece} make logits of shape {tuple(logits.shape)} of {len(targets)} samples, expected (decisions, "
            "classes) with as many decisions of each sample; flatten the others into the first dimension"
        )
    if not isinstance(labels, torch.Tensor) or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"{piece} have {form(labels)} as labels, expected one for each of {len(logits)} decisions; flatten them as "
            "the logits"
        )
    if result.rest is not None:
        scalar(f"the rest of {piece}", result.rest, "return None or the mean over the minibatch", dtype)
    return result


def _require_like(start: str, value: object, like: torch.Tensor, expected: str, *, whole: bool = True) -> None:
    fits = isinstance(value, torch.Tensor) and value.dtype == like.dtype and value.device == like.device
    if isinstance(value, torch.Tensor):
        fits = fits and (
            value.shape == like.shape if whole else (value.shape[:1], value.dim()) == (like.shape[:1], like.dim())
        )
    if not fits:
        raise ValueError(f"{start} {form(value)}, expected {expected}, {form(like)}; convert what it returns")
