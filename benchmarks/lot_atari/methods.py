"""The methods that are compared: PPO, and PPO whose policy students imitate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Method:
    """How a policy is trained.

    Attributes:
        students: how many students imitate the policy, K; 0: SB3's PPO.
        alpha: weight of the KL; None: what `term_share` comes to.
        term_share: how large LoT's term shall be as a part of the policy's loss; see `agents.LoTPPO`.
        temperature: temperature τ of the KL.
        student_steps: N; 0: the student is a policy that was trained alone before (self-distillation).
        labels: whether students learn from rewards too.
        student_width: factor on the widths of the students' layers.
        longer: factor on the epochs that PPO makes of each rollout: more updates at equal steps in the environment.
    """

    students: int = 0
    alpha: float | None = 0.5
    term_share: float | None = None
    temperature: float = 1.0
    student_steps: int = 1
    labels: bool = False
    student_width: float = 1.0
    longer: int = 1

    @property
    def self_distillation(self) -> bool:
        """Whether another policy is trained alone first."""
        return self.students > 0 and self.student_steps == 0


LOT = Method(students=1)

TABLE = {"teacher-only": Method(), "teacher-only:total-updates": Method(longer=2), "lot": LOT}
"""At equal steps in the environment: with the same updates of the policy, with as many as policy and student have
together, and with students. What the paper means by equal total steps in reinforcement learning we do not know."""

STUDIES: Mapping[str, Mapping[str, Method]] = {
    "table": TABLE,
    # Deep mutual learning, on one policy's rollouts; and a policy under another that was trained for as long.
    "peers": {"dml": replace(LOT, labels=True), "self-distillation": replace(LOT, student_steps=0)},
    "n": {f"lot:n-{n}": replace(LOT, student_steps=n) for n in (2, 5)},
    "alpha": {f"lot:alpha-{a:g}": replace(LOT, alpha=a) for a in (0.1, 1.0)},
    "size": {
        f"lot:student-{size}": replace(LOT, student_width=width) for size, width in (("smaller", 0.25), ("larger", 2.0))
    },
    "share": {
        "teacher-only": Method(),
        **{f"lot:share-{s:g}": replace(LOT, alpha=None, term_share=s) for s in (0.01, 0.03, 0.1)},
    },
    "students": {"lot:k-2": replace(LOT, students=2)},
}
"""Methods by study."""

METHODS = {name: method for study in STUDIES.values() for name, method in study.items()}
