"""The ways to distil that are compared, and how each is built from pre-trained networks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from meta.distillation import DISTILLERS, DistillationSettings, Distiller, FineTuning
from meta.distillation.text import TextClassifier

ALONE = "cross-entropy"
"""The student learns from the labels, and nobody teaches it."""


@dataclass(frozen=True)
class Method:
    """A method of the benchmark: a way to distil, with its options.

    Attributes:
        distiller: its name in `meta.distillation.DISTILLERS`, or `ALONE`.
        tuned: whether its teacher is fine-tuned on the task before.
        tuned_on_feedback: whether that is on the feedback alone, and not on the training data.
        mixed: share of each minibatch that is feedback, in place of training data: another use of right labels.
        options: the distiller's options; of `ALONE` those of `FineTuning`.
        settings: what differs in the `DistillationSettings`.
    """

    distiller: str
    tuned: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuned_on_feedback: bool = False
    mixed: float = 0.0

    @property
    def config(self) -> dict[str, Any]:
        """What rows are known by; of later options only those that differ from the default, which old rows lack."""
        config = {"options": dict(self.options), "settings": dict(self.settings)}
        later = {"tuned_on_feedback": self.tuned_on_feedback, "mixed": self.mixed}
        return config | {name: value for name, value in later.items() if value}

    def build(
        self,
        teacher: nn.Module,
        student: nn.Module,
        settings: DistillationSettings,
        route: list[Mapping[str, Any]],
    ) -> Distiller:
        """The distiller, given the teacher's checkpoints on its way."""
        options = copy.deepcopy(dict(self.options))
        if self.distiller == ALONE:
            return FineTuning(student, settings, **options)
        if self.distiller == "rco":
            options["route"] = route
        if self.distiller == "pesf-kd":
            assert isinstance(teacher, TextClassifier)
            options |= {"classes": teacher.head.out_features, "features": teacher.head.in_features}
        make: Any = DISTILLERS[self.distiller]
        distiller: Distiller = make(teacher, student, settings, **options)
        return distiller


def _lgtm(settings: Mapping[str, Any] | None = None, **options: Any) -> Method:
    return Method("lgtm", options=options, settings=settings or {})


# Labels beside a fixed teacher, half and half, as is usual, and beside Meta Distill's, as in its own paper; students of
# other teachers that learn see none, as in LGTM's code.
_FIXED: Mapping[str, Any] = {"student_labels": 0.5}

TABLE = {
    "kd": Method("kd", True, settings=_FIXED),
    "pkd": Method("pkd", True, {"beta": 10.0}, _FIXED),
    "skd": Method("skd", True, settings=_FIXED),
    "dist": Method("dist", True, settings=_FIXED),
    "takd": Method("takd", True, settings=_FIXED),
    "rco": Method("rco", True, settings=_FIXED),
    "dml": Method("dml"),
    "prokt": Method("prokt"),
    "pesf-kd": Method("pesf-kd", True),
    "meta-distill": Method("meta-distill", True, settings=_FIXED),
    "lgtm": _lgtm(),
}
"""The paper's table 1."""

MODES = {
    "lgtm:meta": _lgtm(mode="meta"),
    "lgtm:reweight": _lgtm(mode="reweight"),
    # Nothing holds teacher and student to the labels then but the quiz.
    "meta-distill:unlabelled": Method("meta-distill", True),
}
"""The other objectives of LGTM's paper (see `meta.distillation.lgtm`); Meta Distill whose students see no labels."""

STUDIES: Mapping[str, Mapping[str, Method]] = {
    "table": TABLE,
    "modes": MODES,
    "alpha": {f"lgtm:alpha-{a}": _lgtm({"teacher_labels": a}) for a in (1.0, 0.8, 0.6, 0.4)},
    "loss": {
        f"{name}:{loss}": Method(name, options={"loss": loss}) for loss in ("dist", "mse") for name in ("prokt", "lgtm")
    },
    "derivative": {"lgtm:finite-difference": _lgtm(derivative="finite-difference")},
}
"""Methods by study; the studies of sizes vary the setting of `lgtm` instead."""

METHODS = {name: method for study in STUDIES.values() for name, method in study.items()}
