"""The methods of the comparison and what is tuned for each: grids of equal size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import stable_baselines3
from stable_baselines3.common.noise import NormalActionNoise

import agents
import meta

SCHEDULES = ("constant", "linear", "cosine")

# Of the student. The sigmoid flattens the loss: its students want larger steps (see teachenv.losses.BilinearSigmoid).
# The zero action of "bilinear" is cross-entropy; fixed losses have its rates.
LEARNING_RATES: dict[str, tuple[float, ...]] = {
    "bilinear": (0.1, 0.2, 0.4, 0.8),
    "bilinear-sigmoid": (0.4, 0.8, 1.6, 3.2),
}


@dataclass(frozen=True)
class Own:
    """One value of a method's own parameter.

    Attributes:
        environment: options of the environment that come with it.
        teacher: options of the teacher.
    """

    environment: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Attributes:
        own: four values of its own parameter.
        make: builds the teacher from (environment, seed, teacher options); None: a fixed loss, the zero action.
        tuned_as: the method whose tuning it takes over, if it has none of its own; None: itself.
        crowd: how many times as many students as the preset says the teacher has at a time, in the same number of
            student steps; in tuning also in as many times more of them, so that there are as many updates.
    """

    own: tuple[Own, ...]
    make: Callable[[Any, int, Mapping[str, Any]], Any] | None = None
    tuned_as: str | None = None
    crowd: int = 1

    @property
    def learns(self) -> bool:
        """Whether the teacher spends student steps on its own training."""
        return self.make is not None and self.make is not _random


@dataclass(frozen=True)
class Configuration:
    """What is tuned.

    Attributes:
        learning_rate: of the student.
        lr_schedule: of the student.
        own: index into the method's own values.
    """

    learning_rate: float
    lr_schedule: str
    own: int

    def __str__(self) -> str:
        """For progress: short."""
        return f"lr {self.learning_rate:g} {self.lr_schedule}, own {self.own}"


def grid(loss: str, method: Method) -> list[Configuration]:
    """All configurations of a method: 4 learning rates x 3 schedules x 4 values of its own parameter."""
    rates = LEARNING_RATES["bilinear" if method.make is None else loss]
    return [Configuration(*chosen) for chosen in itertools.product(rates, SCHEDULES, range(len(method.own)))]


@dataclass(frozen=True)
class LinearDecay:
    """SB3's learning-rate schedule, from `rate` linearly to zero; a class, since saved models pickle it."""

    rate: float

    def __call__(self, remaining: float) -> float:
        """The rate at a remaining progress of 1 to 0."""
        return self.rate * remaining


def _attention(algorithm: Callable[..., Any]) -> Callable[[Any, int, Mapping[str, Any]], Any]:
    """Builds an algorithm with L2T-DLF's actor and a decaying learning rate."""

    def make(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
        decaying = {**options, "learning_rate": LinearDecay(options["learning_rate"])}
        return algorithm("AttentionPolicy", env, seed=seed, **decaying)

    return make


def _ddpg_default(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    """SB3's DDPG as it comes, but for the noise without which it does not explore."""
    from meta.vec_env import as_vec_env

    env = as_vec_env(env)
    size = env.action_space.shape[0]
    noise = NormalActionNoise([0.0] * size, [0.1] * size)  # type: ignore[arg-type]
    return stable_baselines3.DDPG("MlpPolicy", env, action_noise=noise, buffer_size=200_000, seed=seed, device="cpu")


def _random(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return meta.RandomTeacher("RandomPolicy", env, policy_kwargs={"seed": seed}, seed=seed)


def _fixed(base: str, *options: Mapping[str, Any]) -> Method:
    """A fixed loss: the zero action of sample weights over it."""
    return Method(tuple(Own({"loss": "sample-weights", "loss_kwargs": {"base": base, **o}}) for o in options))


def _scales(*scales: float) -> tuple[Own, ...]:
    return tuple(Own({"loss_kwargs": {"scale": scale}}) for scale in scales)


_GRADIENT = tuple(
    Own({"loss_kwargs": {"scale": scale}}, {"learning_rate": rate}) for scale in (0.5, 1.0) for rate in (0.01, 0.03)
)

METHODS: dict[str, Method] = {
    # Cross-entropy has no parameter of its own; it gets weight decay instead.
    "cross-entropy": Method(
        tuple(
            Own({"loss": "sample-weights", "loss_kwargs": {"base": "cross-entropy"}, "weight_decay": decay})
            for decay in (0.0, 1e-3, 3e-3, 1e-2)
        )
    ),
    "smooth-01": _fixed("smooth-01", *({"sharpness": k} for k in (1.0, 5.0, 20.0, 50.0))),
    "large-margin": _fixed(
        "large-margin",
        *({"margin": m, "annealing": a} for m, a in ((2, 1.0), (2, 5.0), (3, 5.0), (4, 10.0))),
    ),
    "label-smoothing": _fixed("label-smoothing", *({"epsilon": e} for e in (0.05, 0.1, 0.2, 0.4))),
    "focal": _fixed("focal", *({"gamma": g} for g in (0.5, 1.0, 2.0, 5.0))),
    "random": Method(_scales(0.1, 0.25, 0.5, 1.0), _random),
    # Its four values were found by hand in a wider region: with less penalty or a larger rate the actor runs to the
    # edge of the box and wrecks the students (docs/decisions.md). The critic is smaller than SB3's: better, and faster.
    "ddpg": Method(
        tuple(
            Own(
                {"loss_kwargs": {"scale": scale}},
                {"learning_rate": rate, "noise": 0.3, "action_penalty": penalty, "batch_size": 128}
                | {"policy_kwargs": {"net_arch": {"pi": [], "qf": [128, 128]}}},
            )
            for scale, rate, penalty in (
                (0.1, 1e-4, 100.0),
                (0.25, 1e-4, 100.0),
                (0.5, 1e-3, 100.0),
                (0.5, 3e-4, 1000.0),
            )
        ),
        _attention(agents.DDPG),
        crowd=2,
    ),
    # Each step of its students is followed by one of its large networks: fewer of them, or it takes half of the time.
    "ddpg:default": Method(_scales(0.5), _ddpg_default, tuned_as="ddpg", crowd=4),
    "rmd": Method(_GRADIENT, _attention(meta.RMD)),
    # The same gradient to three digits, hence the same best configuration.
    "finite-difference": Method(_GRADIENT, _attention(meta.FiniteDifference), tuned_as="rmd"),
    "evolution-strategies": Method(
        tuple(
            Own({"loss_kwargs": {"scale": 0.5}}, {"learning_rate": rate, "sigma": sigma})
            for rate in (0.03, 0.06)
            for sigma in (0.05, 0.2)
        ),
        _attention(meta.EvolutionStrategies),
    ),
}
