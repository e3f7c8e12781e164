"""The methods that are compared on translation: what a student learns from after its warm start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Weight of cross-entropy beside a loss of whole translations.
_BESIDE = 0.3

Sequence = Literal["rl", "minimum-risk", "softmax-margin", "actor-critic"]
Teacher = Literal["rmd", "ddpg"]


@dataclass(frozen=True)
class Method:
    """A method of the benchmark: what a student learns from.

    Attributes:
        environment: the loss, of methods that train in the environment.
        sequence: the loss of whole translations, of those that do not.
        teacher: who decides the environment's actions; None: the zero action.
        options: the options of the sequence loss or of the teacher.
        tuned_as: the method whose learning rate it takes over, if it is not tuned itself.
        rates: learning rates that its tuning chooses from; None: those of the preset, which are Adam's.
        untaught: the method with the same loss and optimiser and without the teacher.
        trains: whether the student does anything after its warm start.
    """

    environment: Mapping[str, Any] = field(default_factory=dict)
    sequence: Sequence | None = None
    teacher: Teacher | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tuned_as: str | None = None
    rates: tuple[float, ...] | None = None
    untaught: str | None = None
    trains: bool = True

    @property
    def ignores(self) -> set[str]:
        """Names of the settings that do not change the method's results."""
        matters = {
            "teacher_students": self.teacher is not None,
            "teacher_rate": self.teacher == "rmd",
            "critic_steps": self.sequence == "actor-critic",
        }
        return {name for name, does in matters.items() if not does}


_DIAGONAL: Mapping[str, Any] = {"loss": "diagonal", "loss_kwargs": {"scale": 0.5}}
_SIGMOID: Mapping[str, Any] = {"loss": "diagonal-sigmoid", "loss_kwargs": {"scale": 1.0}}
_SMOOTH: Mapping[str, Any] = {
    "loss": "sample-weights",
    "loss_kwargs": {"base": "label-smoothing", "epsilon": 0.1},
}
# The paper's students: plain SGD at 0.1. Its loss is a sum over a sentence's tokens, ours their mean: 0.1 times a mean
# sentence is the second rate.
_SGD: Mapping[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "lr_schedule": "constant"}
_SGD_RATES = (0.1, 1.4)
_CANDIDATES: Mapping[str, Any] = {"candidates": 4, "likelihood": _BESIDE}
METHODS: dict[str, Method] = {
    "warm-start": Method(trains=False),
    "cross-entropy": Method(_DIAGONAL),
    "label-smoothing": Method(_SMOOTH),
    "rl": Method(sequence="rl", options=_CANDIDATES),
    "minimum-risk": Method(sequence="minimum-risk", options=_CANDIDATES),
    "actor-critic": Method(sequence="actor-critic", options={"likelihood": _BESIDE}),
    "softmax-margin": Method(sequence="softmax-margin", options=_CANDIDATES),
    # The paper's loss with Φ = 1: what the teacher adds to it is the difference.
    "sigmoid": Method(_SIGMOID, tuned_as="cross-entropy"),
    # The form without the sigmoid, whose zero action is cross-entropy.
    "l2t-dlf": Method(_DIAGONAL, teacher="rmd", tuned_as="cross-entropy", untaught="cross-entropy"),
    "l2t-dlf:sigmoid": Method(_SIGMOID, teacher="rmd", tuned_as="cross-entropy", untaught="sigmoid"),
    "l2t-dlf:ddpg": Method(_DIAGONAL, teacher="ddpg", tuned_as="cross-entropy", untaught="cross-entropy"),
    # The paper's loss and optimiser.
    "cross-entropy:sgd": Method({**_DIAGONAL, **_SGD}, rates=_SGD_RATES),
    "sigmoid:sgd": Method({**_SIGMOID, **_SGD}, tuned_as="cross-entropy:sgd"),
    "l2t-dlf:sgd": Method({**_SIGMOID, **_SGD}, teacher="rmd", tuned_as="cross-entropy:sgd", untaught="sigmoid:sgd"),
}
