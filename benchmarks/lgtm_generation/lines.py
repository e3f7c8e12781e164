"""The lines that are compared, and what tuning chooses for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from benchmarks.lgtm.methods import ALONE, Method
from benchmarks.lgtm.rates import mixed
from benchmarks.lgtm.setting import Setting
from meta.distillation import DistillationSettings

TAUGHT = "lgtm:meta"
"""The line that the benchmark is about."""

UNTAUGHT = "prokt"
"""The line that is the same without influence."""

SHARE = 1 / 8
"""The share of the held-out sentences in the labelled ones; the controls have it in each minibatch."""

_SHARED = {field.name for field in fields(DistillationSettings)}


def lines(online_rate: float) -> dict[str, Method]:
    """The methods by name, the most telling ones first.

    Args:
        online_rate: learning rate of teachers that learn beside the student, where tuning chooses something else.
    """
    online = {"teacher_rate": online_rate}
    main = {
        "cross-entropy": Method(ALONE),
        "kd": Method("kd", True),
        "sequence-kd": Method("sequence-kd", True),
        UNTAUGHT: Method("prokt", True, settings=online),
        TAUGHT: _lgtm("meta", online),
        "lgtm:released": _lgtm("released", online),
    }
    main |= {mixed(name, SHARE): replace(main[name], mixed=SHARE) for name in ("cross-entropy", "kd", UNTAUGHT)}
    others = {
        "lgtm:reweight": _lgtm("reweight", online),
        mixed(TAUGHT, SHARE): replace(main[TAUGHT], mixed=SHARE),
        f"{UNTAUGHT}:untrained": Method("prokt", settings=online),
        f"{TAUGHT}:untrained": replace(_lgtm("meta", online), tuned=False),
    }
    return main | others


def _lgtm(mode: str, settings: Mapping[str, Any]) -> Method:
    # Along v the paper's differences: an eighth of a step's time less than the exact derivative, errors of 1e-4.
    return Method("lgtm", True, {"mode": mode, "derivative": "finite-difference"}, settings)


def tuned_as(names: Sequence[str]) -> dict[str, str]:
    """The line whose choice a line takes over: controls and variants those of the line that they vary.

    The released factor moves the teacher so little that LGTM's line with it is tuned as ProKT.
    """
    ends = mixed("", SHARE), ":untrained"
    varied = {name: name.removesuffix(end) for name in names for end in ends if name.endswith(end)}
    return {**varied, "lgtm:released": UNTAUGHT}


class Choice(NamedTuple):
    """What tuning chooses: the student's learning rate, and a number that matters to the method.

    Attributes:
        student_rate: AdamW's learning rate of the student.
        option: name of the other number, an option of the method or a field of `DistillationSettings`.
        value: the other number.
    """

    student_rate: float
    option: str
    value: float

    def applied(self, setting: Setting, method: Method) -> tuple[Setting, Method]:
        """The setting with the student's rate, and the method with the other number."""
        number = {self.option: self.value}
        if self.option in _SHARED:
            changed = replace(method, settings={**method.settings, **number})
        else:
            changed = replace(method, options={**method.options, **number})
        return replace(setting, student_rate=self.student_rate), changed


@dataclass(frozen=True)
class Grid:
    """What each line's tuning chooses from, as many choices for all of them.

    Attributes:
        student_rates: learning rates of the student.
        values: values of the other number, by its name.
    """

    student_rates: Sequence[float]
    values: Mapping[str, Sequence[float]]

    def __call__(self, setting: Setting, name: str) -> list[Choice]:
        """The choices of a line: each of the student's rates with each value of the number that matters to it."""
        options = {
            "cross-entropy": "smoothing",
            "kd": "student_labels",
            "sequence-kd": "student_labels",
            UNTAUGHT: "teacher_rate",
            TAUGHT: "influence_rate",
            "lgtm:reweight": "influence_rate",
        }
        option = options[name]
        return [Choice(rate, option, value) for rate in self.student_rates for value in self.values[option]]
