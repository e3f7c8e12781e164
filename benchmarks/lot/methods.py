"""The ways to train that learning from teaching is compared with, the same for language and for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Method:
    """How a model is trained.

    Attributes:
        students: how many students the model has (K of `meta.LoT`); 0: it trains alone, on labels.
        student_steps: N; 0: the student is a model of the teacher's kind that was trained alone before
            (self-distillation: born-again networks, Furlanello et al. 2018).
        longer: factor on the teacher's epochs.
        alpha: weight of the KL.
        temperature: temperature τ of the KL.
        labels: whether students see labels.
        metric: how far two networks are apart; see `meta.LoT`.
        label_smoothing: share of the model's targets that is spread over all classes.
        average: decay of a moving average of the model's weights, which is measured in the model's place; 0: none.
    """

    students: int = 0
    student_steps: int = 1
    longer: float = 1.0
    alpha: float = 1.0
    temperature: float = 1.5
    labels: bool = False
    metric: str = "kl"
    label_smoothing: float = 0.0
    average: float = 0.0

    @property
    def self_distillation(self) -> bool:
        """Whether another model is trained alone first."""
        return self.students > 0 and self.student_steps == 0

    @property
    def updates(self) -> float:
        """How many steps networks take, all together, where a model alone takes one."""
        return 2.0 if self.self_distillation else self.longer + self.student_steps * self.students


LOT = Method(students=1)

TABLE = {
    # At equal steps of the teacher, and at as many as teacher and student have together.
    "teacher-only": Method(),
    "teacher-only:total-steps": Method(longer=LOT.updates),
    "lot": LOT,
}
PEERS = {
    # Zhang et al. 2018, with simultaneous updates.
    "dml": replace(LOT, temperature=1.0, labels=True),
    "self-distillation": replace(LOT, student_steps=0),
}

ALPHAS, STEPS = (0.1, 0.5, 2.0), (2, 5)
"""What the studies vary if nobody chose otherwise: the weight of LoT's term, and N."""


def studies(alphas: Sequence[float] = ALPHAS, student_steps: Sequence[int] = STEPS) -> dict[str, Mapping[str, Method]]:
    """Methods by study.

    Args:
        alphas: weights of LoT's term, for the study of these.
        student_steps: values of N, for the study of these.
    """
    return {
        "table": TABLE,
        "peers": PEERS,
        "alpha": {f"lot:alpha-{alpha:g}": replace(LOT, alpha=alpha) for alpha in alphas},
        "n": {
            name: method
            for n in student_steps
            for name, method in (
                (f"lot:n-{n}", replace(LOT, student_steps=n)),
                (f"teacher-only:total-steps-n-{n}", Method(longer=1.0 + n)),
            )
        },
        "form": {
            "lot:labels": replace(LOT, labels=True),
            "lot:l2": replace(LOT, metric="l2"),
            "lot:k-2": replace(LOT, students=2),
        },
    }


def released(recipe: Method) -> dict[str, Method]:
    """What the preset `released` trains: a recipe of the released code, and models alone at its two kinds of steps.

    Args:
        recipe: how the released code trains, with its α, N and labels.
    """
    n = recipe.student_steps
    return {
        "teacher-only": Method(),
        f"teacher-only:total-steps-n-{n}": Method(longer=1.0 + n),
        "lot:released": recipe,
    }


METHODS = {name: method for study in studies().values() for name, method in study.items()}
"""All methods of the studies, by name."""
