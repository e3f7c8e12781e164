"""At which factor does the influence term teach, where some labels are wrong, and what else are right labels good for?

A few samples have right labels: the feedback. LGTM's teacher follows what its lessons do to the student's loss on them,
at several factors and in each of the three modes. The same labels have simpler uses, the controls: they may be mixed
into the minibatches of any method, or be all that a fixed teacher learns. Dev, by which rates and checkpoints are
selected, has labels as wrong as the training data, so that nobody has right labels but those of the feedback.

On images, where a training run takes seconds, each line has six training runs with other rates, of a seed that judges
none; then students of other seeds, each on samples of its own, are trained as the one that was best on dev. Texts keep
the benchmark's rates.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from benchmarks.lgtm.methods import ALONE, Method
from benchmarks.lgtm.setting import Setting

MODES = "meta", "released", "reweight"

RATES: tuple[str | float, ...] = ("teacher", 0.03, 0.1, 0.3, 1.0)
"""Factors of the influence term: the teacher's learning rate, as in the released code, or a number; the paper has 1."""

SHARES = 0.25, 0.5
"""Shares of a minibatch that may be feedback; LGTM's lines have the first."""

FOLLOWED = "lgtm:meta-0.3"
"""LGTM's line of which there are also runs in the other order of updates, and from a fine-tuned teacher."""


def lines(student_labels: float | None = None) -> dict[str, Method]:
    """The study's methods by name; controls come first.

    Args:
        student_labels: weight λ of the labels in the loss of students that have a teacher; None: none, as in LGTM's
            code. A student without a teacher has labels alone.
    """
    settings: dict[str, Any] = {} if student_labels is None else {"student_labels": student_labels}
    plain = {
        "cross-entropy": Method(ALONE),
        "kd": Method("kd", True, settings=settings),
        "prokt": Method("prokt", settings=settings),
    }
    methods = dict(plain)
    for name, method in plain.items():
        methods |= {mixed(name, share): replace(method, mixed=share) for share in SHARES}
    methods["kd:teacher-of-feedback"] = replace(plain["kd"], tuned_on_feedback=True)
    for mode, rate in itertools.product(MODES, RATES):
        methods[influenced(mode, rate)] = Method("lgtm", False, {"mode": mode, "influence_rate": rate}, settings)
    methods |= {
        mixed(name, SHARES[0]): replace(m, mixed=SHARES[0]) for name, m in methods.items() if m.distiller == "lgtm"
    }
    for name in ("prokt", FOLLOWED):
        later = {**settings, "teacher_first": False}
        methods[f"{name}:student-first"] = replace(methods[name], settings=later)
        methods[f"{name}:fine-tuned"] = replace(methods[name], tuned=True)
    return methods


def influenced(mode: str, rate: str | float) -> str:
    """The name of LGTM's line in a mode, at a factor."""
    return f"lgtm:{mode}-{rate if isinstance(rate, str) else f'{rate:g}'}"


def mixed(name: str, share: float) -> str:
    """The name of a line whose minibatches have a share of feedback."""
    return f"{name}:mixed-{100 * share:g}"


def untaught(name: str) -> str | None:
    """The name of the line that is the same without influence; None: nobody is taught by influence."""
    method, _, rest = name.partition(":")
    if method != "lgtm":
        return None
    suffix = rest.partition(":")[2]
    return f"prokt:{suffix}" if suffix else "prokt"


class Rates(NamedTuple):
    """What tuning chooses: learning rates of AdamW.

    Attributes:
        student_rate: the student's.
        teacher_rate: the teacher's, fixed or not.
    """

    student_rate: float
    teacher_rate: float

    def applied(self, setting: Setting, method: Method) -> tuple[Setting, Method]:
        """The setting with these rates, and the method as it is."""
        return replace(setting, **self._asdict()), method


@dataclass(frozen=True)
class Grid:
    """What each line's tuning chooses from.

    Attributes:
        methods: the lines by name.
        tuned: names of the settings in which each line has rates of its own; the others keep the setting's.
    """

    methods: Mapping[str, Method]
    tuned: Sequence[str]

    def __call__(self, setting: Setting, name: str) -> list[Rates]:
        """Six pairs of rates for a line; all of the student's where there is no teacher."""
        if setting.name not in self.tuned:
            return [Rates(setting.student_rate, setting.teacher_rate)]
        if self.methods[name].distiller == ALONE:
            return [Rates(rate, setting.teacher_rate) for rate in (3e-4, 6e-4, 1e-3, 2e-3, 4e-3, 8e-3)]
        return list(itertools.starmap(Rates, itertools.product((1e-3, 3e-3), (1e-3, 3e-3, 1e-2))))
