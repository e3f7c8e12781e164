"""What the target of a sample is, and how what a user gives is brought to that form, or refused.

There are four kinds of targets beside those of tasks with many decisions a sample:

- labels, (n,) int64: the number of a sample's one class;
- numbers, (n,) or (n, outputs), floating point: what a regression predicts;
- distributions, (n, classes): the probabilities of a sample's classes, also called soft labels;
- indicators, (n, classes): 1 for each class that a sample has and 0 for the others, several of which may be 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch

TargetKind = Literal["labels", "numbers", "distributions", "indicators"]

_REMEDIES: Mapping[TargetKind, str] = MappingProxyType(
    {
        "numbers": 'measure=teachenv.Regression() to a Task, loss="squared-error" to a meta.OwnTraining',
        "distributions": 'measure=teachenv.SoftLabels() to a Task, loss="cross-entropy" to a meta.OwnTraining',
        "indicators": 'measure=teachenv.MultiLabel() to a Task, loss="binary-cross-entropy" to a meta.OwnTraining',
    }
)
"""How a user says that targets are no labels, by what they are: for messages."""

_EXACT_INTEGERS = 2**53
_MOST_MISSING = 5
_SUM = 1e-3
"""How far a distribution's sum may lie from 1."""


def likely_kind(targets: torch.Tensor, num_outputs: int | None) -> TargetKind:
    """What targets are where no measure says it: numbers if they can be nothing else, else labels.

    Numbers are floating-point targets of which some are not whole and whose rows are no distributions, and those of a
    task with one output.

    Args:
        targets: those of the pool, (n, ...).
        num_outputs: the task's; None: not given.
    """
    if not targets.is_floating_point():
        return "labels"
    finite = targets[targets.isfinite()]
    whole = bool((finite == finite.round()).all())
    return "labels" if (whole and num_outputs != 1) or _distributed(targets) else "numbers"


def possible_kinds(targets: torch.Tensor) -> set[TargetKind]:
    """What targets may be, where a measure of a user's own reads them.

    Args:
        targets: those of the pool, (n, ...).
    """
    if not targets.is_floating_point():
        return {"labels"} if targets.ndim == 1 else {"numbers", "indicators"}
    kinds: set[TargetKind] = {"numbers"}
    if bool(((targets == 0) | (targets == 1)).all()):
        kinds.add("indicators")
    if _distributed(targets):
        kinds.add("distributions")
    return kinds


def outputs_of(splits: Sequence[torch.Tensor], kind: TargetKind | None, where: str) -> int:
    """How many outputs a student needs: one more than the largest class, or as many as a sample has numbers.

    Args:
        splits: checked targets of each split.
        kind: what they are; None: what a measure of a user's own reads.
        where: what they are, for messages.

    Raises:
        ValueError: labels that are not numbered without a gap.
    """
    if kind not in ("labels", None) or splits[0].is_floating_point():
        return max(1, splits[0][0].numel())
    outputs = max(1, *(int(targets.max()) + 1 for targets in splits))
    if kind == "labels":
        _check_numbering(splits, outputs, where)
    return outputs


def _check_numbering(splits: Sequence[torch.Tensor], outputs: int, where: str) -> None:
    present = set[int]().union(*(torch.unique(targets).tolist() for targets in splits))
    missing = outputs - len(present)
    if missing:
        first = [label for label in range(len(present) + _MOST_MISSING) if label not in present and label < outputs]
        named = ", ".join(map(str, first[:_MOST_MISSING])) + (", ..." if missing > _MOST_MISSING else "")
        raise ValueError(
            f"{where}: found labels up to {outputs - 1} but none that is {named}, which makes {outputs} outputs for "
            f"{len(present)} classes; expected each number from 0: np.unique(labels, return_inverse=True)[1] of all "
            f"splits together, or pass num_outputs={outputs}; for a regression measure=teachenv.Regression()"
        )


def labels_of(targets: torch.Tensor, where: str) -> torch.Tensor:
    """Labels of ordinary classification: a column of them as a row, and whole floating-point numbers as integers.

    Raises:
        ValueError: a sample has several numbers, or one that is no class index.
    """
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        raise ValueError(
            f"{where}: targets have shape {tuple(targets.shape)}; expected one class index a sample, (n,): "
            "targets.argmax(1) makes them of one-hot rows. For class probabilities give "
            f"{_REMEDIES['distributions']}; for multi-label targets (0 or 1 for each class) {_REMEDIES['indicators']}; "
            f"for regression {_REMEDIES['numbers']}"
        )
    if not targets.is_floating_point():
        return targets
    broken = targets[~((targets == targets.round()) & (targets.abs() < _EXACT_INTEGERS))]  # NaN and infinity among them
    if len(broken):
        raise ValueError(
            f"{where}: targets such as {float(broken[0]):g} are no class indices; number them from 0; of numbers "
            f"to predict give {_REMEDIES['numbers']}"
        )
    return targets.to(torch.int64)


def indices(targets: torch.Tensor, where: str, num_outputs: int | None, least: int = 0) -> torch.Tensor:
    """Class indices as int64, truth values as 0 and 1, or floating-point targets as they are.

    Args:
        targets: of any shape.
        where: what they are, for messages.
        num_outputs: how many classes there are; None: any number.
        least: the lowest index.

    Raises:
        ValueError: not finite, or an index out of range.
        TypeError: complex numbers.
    """
    if targets.is_floating_point():
        return _finite(targets, where)
    if targets.is_complex():
        raise TypeError(
            f"{where}: targets are {targets.dtype}; expected int64 class indices or floating point: convert them"
        )
    targets = targets.to(torch.int64)
    low, high = int(targets.min()), int(targets.max())
    if low < least or (num_outputs is not None and high >= num_outputs):
        most, remedy = ("number of classes", "") if num_outputs is None else (num_outputs, " or correct num_outputs")
        raise ValueError(
            f"{where}: class indices lie in [{low}, {high}], expected [{least}, {most}); number the classes from 0"
            f"{remedy}"
        )
    return targets


def numbers(targets: torch.Tensor, where: str, num_outputs: int | None) -> torch.Tensor:
    """Numbers that a regression predicts, in floating point.

    Raises:
        ValueError: not finite, or another number of them a sample than the task has outputs.
        TypeError: complex numbers.
    """
    if targets.is_complex():
        raise TypeError(f"{where}: targets are {targets.dtype}; expected real numbers: take their parts apart")
    each = targets[0].numel()
    if num_outputs is not None and each != num_outputs:
        raise ValueError(
            f"{where}: targets are numbers for regression, {each} a sample, but num_outputs is {num_outputs}; expected "
            f"the same: num_outputs={each}; classes are whole numbers from 0"
        )
    return _finite(targets if targets.is_floating_point() else targets.to(torch.get_default_dtype()), where)


def distributions(targets: torch.Tensor, where: str, num_outputs: int | None) -> torch.Tensor:
    """Probabilities of classes, (n, classes), in floating point.

    Raises:
        ValueError: another shape, or a row that is negative somewhere or does not sum to 1.
    """
    targets = _table(targets, where, num_outputs, "the probabilities of a sample's classes")
    if not _distributed(targets):
        bad = int(_undistributed(targets).nonzero()[0])
        raise ValueError(
            f"{where}: the target of sample {bad} is no distribution over classes: its least entry is "
            f"{float(targets[bad].min()):g} and its sum {float(targets[bad].sum()):g}; expected entries of at least 0 "
            "that sum to 1: divide each row by its sum"
        )
    return targets


def indicators(targets: torch.Tensor, where: str, num_outputs: int | None) -> torch.Tensor:
    """0 or 1 for each class, (n, classes), in floating point; truth values are taken as such.

    Raises:
        ValueError: another shape, or other numbers.
    """
    targets = _table(targets, where, num_outputs, "0 or 1 for each class")
    others = targets[(targets != 0) & (targets != 1)]
    if len(others):
        raise ValueError(
            f"{where}: multi-label targets have {float(others[0]):g} among them, expected 0 or 1 for "
            f"each class; for class probabilities give {_REMEDIES['distributions']}"
        )
    return targets


def _table(targets: torch.Tensor, where: str, num_outputs: int | None, what: str) -> torch.Tensor:
    classes = "classes" if num_outputs is None else num_outputs
    if targets.ndim != 2 or (num_outputs is not None and targets.shape[1] != num_outputs) or targets.is_complex():
        raise ValueError(
            f"{where}: targets have shape {tuple(targets.shape)} and type {targets.dtype}, expected {what}, "
            f"(n, {classes}); a label a sample becomes such a row by torch.nn.functional.one_hot"
        )
    return _finite(targets if targets.is_floating_point() else targets.to(torch.get_default_dtype()), where)


def _finite(targets: torch.Tensor, where: str) -> torch.Tensor:
    if not bool(torch.isfinite(targets).all()):
        raise ValueError(f"{where}: targets contain NaN or infinity; expected finite numbers, clean the data first")
    return targets


def _undistributed(rows: torch.Tensor) -> torch.Tensor:
    return (rows < 0).any(1) | ((rows.double().sum(1) - 1).abs() > _SUM)


def _distributed(targets: torch.Tensor) -> bool:
    return targets.ndim == 2 and targets.shape[1] > 1 and not bool(_undistributed(targets).any())


def _labels(targets: torch.Tensor, where: str, num_outputs: int | None) -> torch.Tensor:
    return indices(labels_of(targets, where), where, num_outputs)


CHECKS: dict[TargetKind, Callable[[torch.Tensor, str, int | None], torch.Tensor]] = {
    "labels": _labels,
    "numbers": numbers,
    "distributions": distributions,
    "indicators": indicators,
}
"""By kind: (targets, what they are in messages, number of outputs) to targets of the kind, or an error."""
