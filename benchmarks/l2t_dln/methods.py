"""The methods that are compared with L2T-DLN: losses, teachers, and what of each is tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from teachenv.experiment import methods
from teachenv.experiment.methods import Candidate

Kind = Literal["fixed", "episodes", "online"]


@dataclass(frozen=True)
class Method:
    """A method of the benchmark: a loss, or a teacher that sets one.

    Attributes:
        kind: a fixed loss; a teacher that learns from whole training runs of other students; or one that learns within
            the training that it steers.
        environment: what of the environment it decides.
        policy: the name of the teacher's policy; empty for a fixed loss.
        options: the teacher's options.
        candidates: what tuning chooses from beside the learning rate, each as changes of `environment`, or of the
            teacher's options under the name `teacher`, or of its policy's under `policy`.
        steeper: factor on the learning rates of the grid.
        tuned_as: the method whose tuning it shares.
        steps_per_action: number N of student steps under each action, if it is not the task's.
        students_factor: factor on the number of students at a time: those whose training runs a teacher of episodes
            learns from, in as many updates; or those that have one loss together, which an online teacher moves.
        episode_rate: factor on the students' learning rate there: near the edge of stability, where the fastest
            training is, the gradient of a training run is noise.
        replays: whether a fresh student is trained under the losses that an online teacher found.
    """

    kind: Kind
    environment: Mapping[str, Any]
    policy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[Mapping[str, Any], ...] = ({}, {})
    steeper: float = 1.0
    tuned_as: str | None = None
    steps_per_action: int | None = None
    students_factor: int = 1
    episode_rate: float = 1.0
    replays: bool = True

    def seeded(self, seed: int) -> Method:
        """The method in a repetition: a φ₀ that is drawn is drawn anew."""
        loss = self.environment.get("loss_kwargs", {})
        if loss.get("initial") != "random":
            return self
        return replace(self, environment={**self.environment, "loss_kwargs": {**loss, "seed": seed}})

    @property
    def shared(self) -> methods.Method:
        """The options that an environment is made with, the teacher's among its candidates."""
        return methods.Method(tuple(map(self._candidate, self.candidates)), episode_rate=self.episode_rate)

    def _candidate(self, value: Mapping[str, Any]) -> Candidate:
        environment = {**self.environment, **value}
        policy = {"policy_kwargs": environment.pop("policy")} if "policy" in value else {}
        teacher = {**self.options, **environment.pop("teacher", {}), **policy}
        if self.steps_per_action is not None:
            environment["steps_per_action"] = self.steps_per_action
        return Candidate(environment, teacher)


# For losses without a parameter.
_DECAYS: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"weight_decay": 0.0}, {"weight_decay": 1e-3})


def _fixed(base: str, parameter: str | None = None, values: tuple[Any, Any] = (None, None), **options: Any) -> Method:
    def chosen(value: Any) -> dict[str, Any]:
        return {"loss_kwargs": {"base": base, **options, **({} if parameter is None else {parameter: value})}}

    if parameter is None:
        less, more = ({**chosen(None), **decay} for decay in _DECAYS)
        return Method("fixed", {"loss": "sample-weights"}, candidates=(less, more))
    return Method("fixed", {"loss": "sample-weights"}, candidates=(chosen(values[0]), chosen(values[1])))


# The slope of the loss network along one class is as small as the mean over pairs makes it.
_NETWORK: Mapping[str, Any] = {"loss": "dynamic-network", "loss_kwargs": {"scale": 1.0}}
_STEEPER = 4.0
# φ₀ bounded, for wrong labels; such losses want larger rates still.
_BOUNDED: Mapping[str, Any] = {"loss": "dynamic-network", "loss_kwargs": {"scale": 1.0, "initial": "zero-one"}}
_STEEPEST = 16.0
# Without kinks, so that what a teacher differentiates is all that there is.
_SMOOTH: Mapping[str, Any] = {"loss": "dynamic-network", "loss_kwargs": {"scale": 1.0, "activation": "leaky-swish"}}

# Students of an update, where one would do for an unbiased gradient but not for a steady one.
_CROWD = 16
_DLF = Method(
    "episodes",
    {"loss": "bilinear"},
    "AttentionPolicy",
    candidates=({"teacher": {"learning_rate": 3e-3}}, {"teacher": {"learning_rate": 3e-2}}),
)


def _online(policy: str, steps: tuple[float, float], **changes: Any) -> Method:
    values = tuple({"policy": {"step_size": step}} for step in steps)
    method = Method("online", _NETWORK, f"{policy}Policy", candidates=values, steeper=_STEEPER)
    return replace(method, **changes)


def _between_trainings(environment: Mapping[str, Any]) -> Method:
    return Method(
        "episodes",
        environment,
        "AttentionPolicy",
        {"policy_kwargs": {"static": True, "initial_scale": 1e-4}, "max_grad_norm": 1.0},
        candidates=({"teacher": {"learning_rate": 1e-4}}, {"teacher": {"learning_rate": 4e-4}}),
        steeper=_STEEPER,
        students_factor=_CROWD,
        episode_rate=0.25,
    )


# The released code's. The box is so wide that its edge stops no teacher: 2,500 steps of 1e-3 come to 2.5.
RELEASED_SCALE = 10.0
_RELEASED: Mapping[str, Any] = {"loss": "dynamic-network", "loss_kwargs": {"scale": RELEASED_SCALE, "per": "rows"}}
_DRAWN: Mapping[str, Any] = {**_RELEASED, "loss_kwargs": {**_RELEASED["loss_kwargs"], "initial": "random"}}


def _released(
    policy: str = "LSTM",
    step: float = 1e-3,
    flags: tuple[str, ...] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
    **changes: Any,
) -> Method:
    """An online teacher as it is released, or with changes, by the step size in units of φ; nothing is tuned."""
    steps = {"step_size": step / RELEASED_SCALE, **dict.fromkeys(flags, True)}
    method = Method(
        "online", _RELEASED, f"{policy}Policy", {"policy_kwargs": steps, **options}, candidates=({},), replays=False
    )
    return replace(method, **changes)


def untaught(name: str) -> str | None:
    """The method that is the same loss without a teacher; None: the method has none."""
    method = METHODS[name]
    if method.kind == "fixed":
        return None
    alike = (other for other, fixed in METHODS.items() if fixed.environment == method.environment)
    return next((other for other in alike if METHODS[other].kind == "fixed"), "cross-entropy")


FIXED = ("cross-entropy", "focal", "label-smoothing", "generalized-cross-entropy", "loss-network")
BOUNDED = ("loss-network:bounded", "l2t-dln:bounded")
CROWD = "l2t-dlf:crowd"
SMOOTH = ("loss-network:smooth", "l2t-dln:smooth", "l2t-dln:trainings", "l2t-dln:trainings-kinked")
REPLAYED = "l2t-dln:replayed"
WINDOWS = (1, 5, 30)
"""Student steps N of a window that the study of N has beside the usual 15."""

METHODS: dict[str, Method] = {
    "cross-entropy": _fixed("cross-entropy"),
    "focal": _fixed("focal", "gamma", (1.0, 2.0)),
    "label-smoothing": _fixed("label-smoothing", "epsilon", (0.1, 0.3)),
    "generalized-cross-entropy": _fixed("generalized-cross-entropy", "q", (0.5, 0.8)),
    # φ₀ untaught: what the family alone does.
    "loss-network": Method(
        "fixed", _NETWORK, candidates=_DECAYS, steeper=_STEEPER
    ),
    "l2t-dlf": _DLF,
    # With as many students as L2T-DLN between training runs.
    "l2t-dlf:crowd": replace(_DLF, students_factor=_CROWD),
    "l2t-dln": _online("LSTM", (1e-3, 1e-2)),
    # Beyond the paper: the same from a loss that wrong labels do not upset.
    "loss-network:bounded": Method(
        "fixed", _BOUNDED, candidates=_DECAYS, steeper=_STEEPEST
    ),
    "l2t-dln:bounded": _online("LSTM", (1e-3, 1e-2), environment=_BOUNDED, steeper=_STEEPEST),
    "loss-network:smooth": Method(
        "fixed", _SMOOTH, candidates=_DECAYS, steeper=_STEEPER
    ),
    "l2t-dln:smooth": _online("LSTM", (1e-3, 1e-2), environment=_SMOOTH),
    # The loss network moved between training runs instead of within one, by the mean gradient of whole ones.
    "l2t-dln:trainings": _between_trainings(_SMOOTH),
    "l2t-dln:trainings-kinked": replace(_between_trainings(_NETWORK), tuned_as="l2t-dln:trainings"),
    "l2t-dln:memoryless": _online("Memoryless", (1e-3, 1e-2)),
    "l2t-dln:gru": _online("GRU", (1e-3, 1e-2)),
    "l2t-dln:transformer": _online("Transformer", (1e-3, 1e-2)),
    "l2t-dln:sgd": _online("SGD", (1e-2, 1e-1)),
    "l2t-dln:adam": _online("Adam", (1e-3, 1e-2)),
    "l2t-dln:rmsprop": _online("RMSProp", (3e-4, 3e-3)),
    "l2t-dln:bptt-5": _online("LSTM", (1e-3, 1e-2), options={"bptt": 5}, tuned_as="l2t-dln"),
    **{
        f"l2t-dln:n-{n}": _online("LSTM", (1e-3, 1e-2), steps_per_action=n, tuned_as="l2t-dln")
        for n in WINDOWS
    },
    # As released, and what is beside it in that setting; rates are those of the task times `steeper`.
    "cross-entropy:rate-0.025": replace(_fixed("cross-entropy"), steeper=0.25),
    "cross-entropy:rate-0.01": replace(_fixed("cross-entropy"), steeper=0.1),
    # With the labels of dev, which the others do not train on.
    "cross-entropy:pool": Method(
        "fixed", {"loss": "sample-weights", "loss_kwargs": {"base": "cross-entropy"}, "train_on": "pool"}, steeper=0.1
    ),
    "loss-network:released": Method("fixed", _RELEASED),
    "loss-network:released:random": Method("fixed", _DRAWN),
    "l2t-dln:released": _released(),
    "l2t-dln:released:random": _released(environment=_DRAWN),
    # SGD at the students' own rate: by 1e-3 times the gradient it would hardly move.
    "l2t-dln:released:sgd": _released("SGD", 0.1),
    "l2t-dln:released:adam": _released("Adam"),
    "l2t-dln:released:rmsprop": _released("RMSProp"),
    "l2t-dln:released:memoryless": _released("Memoryless"),
    "l2t-dln:released:gru": _released("GRU"),
    "l2t-dln:released:transformer": _released("Transformer"),
    **{f"l2t-dln:released:n-{n}": _released(steps_per_action=n) for n in WINDOWS},
    # What might mend it. ψ may learn too slowly, or upset what it has learned.
    "l2t-dln:released:rate-1e-4": _released(options={"learning_rate": 1e-4}),
    "l2t-dln:released:rate-1e-2": _released(options={"learning_rate": 1e-2}),
    # φ may move too far before ψ has learned where to, or not far enough.
    "l2t-dln:released:step-1e-4": _released(step=1e-4),
    "l2t-dln:released:step-1e-2": _released(step=1e-2),
    # The LSTM's step becomes one drift of all weights, of a length that the sigmoid decides.
    "l2t-dln:released:centred": _released(flags=("centred",)),
    "l2t-dln:released:normalised": _released(flags=("normalised",)),
    "l2t-dln:released:centred-normalised": _released(flags=("centred", "normalised")),
    # The gradient through one student's window is mostly noise.
    "l2t-dln:released:students-4": _released(students_factor=4, options={"together": True}),
    # What a step of φ does shows in later windows.
    "l2t-dln:released:bptt-5": _released(options={"bptt": 5}),
    "l2t-dln:released:bptt-25": _released(options={"bptt": 25}),
}  # fmt: skip
RELEASED_METHOD = "l2t-dln:released"
SHOWN = ("l2t-dln", RELEASED_METHOD)
"""Whose windows and losses figures show, of the first seed."""

RELEASED = (
    "cross-entropy",
    "cross-entropy:rate-0.025",
    "cross-entropy:rate-0.01",
    "cross-entropy:pool",
    "loss-network:released",
    "loss-network:released:random",
    RELEASED_METHOD,
    "l2t-dln:released:random",
    "l2t-dln:released:sgd",
    "l2t-dln:released:adam",
)
"""What the preset of that name compares."""

_LENGTHS = tuple(f"n-{n}" for n in WINDOWS)
_TEACHERS = ("memoryless", "gru", "transformer", "sgd", "adam", "rmsprop")
_MENDS = (
    *("rate-1e-4", "rate-1e-2", "step-1e-4", "step-1e-2", "centred", "normalised", "centred-normalised"),
    *("students-4", "bptt-5", "bptt-25"),
)
StudyOfMethods = Literal["architectures", "windows", "mends"]


class Studied(NamedTuple):
    """What a study holds against a method.

    Attributes:
        study: what the command calls it.
        title: what the report calls it.
        base: the method.
        compared: the others, each a variant of it.
    """

    study: StudyOfMethods
    title: str
    base: str
    compared: tuple[str, ...]

    @classmethod
    def of(cls, study: StudyOfMethods, title: str, base: str, *suffixes: str) -> Studied:
        """A study of variants that are called after the method."""
        return cls(study, title, base, tuple(f"{base}:{suffix}" for suffix in suffixes))


_BY_TEACHER, _BY_LENGTH = "teachers of the loss network", "length of a window"
STUDIES = (
    Studied.of("architectures", _BY_TEACHER, "l2t-dln", *_TEACHERS, "bptt-5"),
    Studied.of("windows", _BY_LENGTH, "l2t-dln", *_LENGTHS),
    Studied.of("architectures", _BY_TEACHER, RELEASED_METHOD, *_TEACHERS),
    Studied.of("windows", _BY_LENGTH, RELEASED_METHOD, *_LENGTHS),
    Studied.of("mends", "what might mend it", RELEASED_METHOD, *_MENDS),
)
