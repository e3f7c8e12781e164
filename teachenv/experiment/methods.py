"""What is compared: methods as values, each with the candidates that its tuning chooses from.

`fixed` makes a method of a plain loss; `meta.methods` and `agents.methods` make those that teach. A list as the value
of an option is its grid: the lists of one method go side by side, so that the first candidate has the first value of
each. So every method of a comparison has as many candidates as its lists are long, whatever number of options it has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from teachenv import checks
from teachenv.losses import LOSSES, PLAIN_LOSSES
from teachenv.settings import Settings, plain

Make = Callable[[Any, int, Mapping[str, Any]], Any]
"""Builds a teacher from (environment, seed, options of the teacher)."""

Wrapper = Callable[[Any], Any]
"""Wraps an environment."""


@dataclass(frozen=True)
class Candidate:
    """One of the values that tuning chooses from.

    Attributes:
        environment: options of the environment that come with it.
        teacher: options of the teacher.
    """

    environment: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Attributes:
        candidates: what its tuning chooses from, beside the student's learning rate and schedule.
        make: builds the teacher; None: a fixed loss, the zero action.
        learns: whether the teacher spends student steps on its own training.
        tuned_as: the method whose tuning it shares, if it is not tuned itself; None: it is.
        students_factor: factor on the number of students that the teacher has at a time. It trains for as many student
            steps as others; in tuning it has more of them, by the same factor, so that it makes as many updates.
        budget_factor: factor on the budget of student steps that the teacher has.
        taught_as: the method whose trained teacher and candidate it uses; they come from another task, the `source` of
            its `Contest`. The learning rate of its students is that of `tuned_as`.
        rates: learning rates of the student, where they are others than the comparison's; `()`: each candidate has one
            of its own.
        episode_rate: factor on the student's learning rate in the episodes that the teacher learns on. The gradient of
            a training run is noise near the edge of stability, where the fastest training is.
        wrapper: wraps an environment of one student: the teacher sees something else through it, one student at a time.
            `make` gets the environment without it, and one more option, `students_per_update`: as many students, one
            after the other, as other teachers have at a time.
    """

    candidates: tuple[Candidate, ...] = (Candidate(),)
    make: Make | None = None
    learns: bool = False
    tuned_as: str | None = None
    students_factor: int = 1
    budget_factor: int = 1
    taught_as: str | None = None
    rates: tuple[float, ...] | None = None
    episode_rate: float = 1.0
    wrapper: Wrapper | None = None


def fixed(loss: str, **options: Any) -> Method:
    """A plain loss without a teacher: the zero action of sample weights over it.

    Args:
        loss: a name in `teachenv.losses.PLAIN_LOSSES`, such as `"cross-entropy"` or `"focal"`.
        **options: those of loss (`gamma=[1.0, 2.0]`) and environment (`weight_decay=[0, 1e-3]`); a list is a grid.

    Raises:
        ValueError: an unknown loss, or lists of different lengths.
        TypeError: an option that neither the loss nor the environment has.
    """
    checks.choice("loss", loss, PLAIN_LOSSES)
    loss_options = [name for name in _parameters(PLAIN_LOSSES[loss]) if name not in ("prediction", "targets")]
    environments = [
        {"loss": "sample-weights", **candidate.environment}
        for candidate in candidates(f"fixed({loss!r})", options, loss_options=loss_options)
    ]
    return Method(
        tuple(Candidate({**one, "loss_kwargs": {"base": loss, **one.get("loss_kwargs", {})}}) for one in environments)
    )


def candidates(
    name: str,
    options: Mapping[str, Any],
    *,
    teacher_options: Collection[str] = (),
    loss_options: Collection[str] | None = None,
) -> tuple[Candidate, ...]:
    """The candidates that options stand for.

    Args:
        name: what messages call the method.
        options: values by name; a list is a grid, any other value is the same for all candidates.
        teacher_options: names of the teacher's options; they come before the environment's of the same name.
        loss_options: names of the loss's options; None: those of the family that the option `loss` names, or of any.

    Raises:
        ValueError: lists of different lengths, or an empty one.
        TypeError: an option that neither teacher nor loss nor environment has.
    """
    environment = {f.name for f in fields(Settings)} - {"task", "student"}
    if loss_options is None:
        chosen = options.get("loss")
        families = [name for name in LOSSES if chosen is None or name == chosen or name in _listed(chosen)]
        loss_options = {parameter for name in families for parameter in _parameters(LOSSES[name])}
    known = {*teacher_options, *loss_options, *environment}
    checks.known_options(name, options, sorted(known), "teachenv.Settings and the help of the teacher and of its loss")
    choices = []
    for values in _side_by_side(name, options):
        teacher = {key: value for key, value in values.items() if key in teacher_options}
        rest = {key: value for key, value in values.items() if key not in teacher_options}
        loss = {key: value for key, value in rest.items() if key in loss_options and key not in environment}
        rest = {key: plain(key, value) for key, value in rest.items() if key not in loss}
        if loss:
            rest["loss_kwargs"] = {**rest.get("loss_kwargs", {}), **loss}
        choices.append(Candidate(rest, teacher))
    return tuple(choices)


def _side_by_side(name: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    lists = {key: value for key, value in options.items() if isinstance(value, list)}
    lengths = {key: len(value) for key, value in lists.items()}
    if len({*lengths.values()}) > 1 or 0 in lengths.values():
        counts = " and ".join(f"{count} of {key}" for key, count in lengths.items())
        raise ValueError(
            f"{name}: found {counts}, expected lists of the same length, not empty: candidate i takes value i of each "
            "list"
        )
    count = next(iter(lengths.values()), 1)
    return [{key: value[i] if key in lists else value for key, value in options.items()} for i in range(count)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _parameters(function: Any) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


GRIDS: dict[str, Method] = {
    # Cross-entropy has no parameter of its own; it gets weight decay instead.
    "cross-entropy": fixed("cross-entropy", weight_decay=[0.0, 1e-3, 3e-3, 1e-2]),
    "smooth-01": fixed("smooth-01", sharpness=[1.0, 5.0, 20.0, 50.0]),
    "large-margin": fixed("large-margin", margin=[2, 2, 3, 4], annealing=[1.0, 5.0, 5.0, 10.0]),
    "label-smoothing": fixed("label-smoothing", epsilon=[0.05, 0.1, 0.2, 0.4]),
    "focal": fixed("focal", gamma=[0.5, 1.0, 2.0, 5.0]),
}
"""Plain losses with candidates that are usual for them, four each."""
