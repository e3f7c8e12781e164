"""The methods that are compared on images, and what is tuned for each: grids of equal size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import agents
import meta
from meta.methods import decaying, learning
from teachenv.env import TeachEnv
from teachenv.experiment.methods import Method, candidates, fixed

# RL teachers learn nothing from the few hundred actions that a gradient teacher's budget comes to.
_RL: dict[str, Any] = {
    "scale": [0.05, 0.5],
    "learning_rate": 1e-4,
    "noise": 0.2,
    "action_penalty": 100.0,
    "policy_kwargs": {"net_arch": {"pi": [], "qf": [128, 128]}},
    "batch_size": 128,
}
_RL_SPENDS = 3

# What regularises on clean labels changes Φ by hundredths, what undoes label noise by tenths.
_STEPS: dict[str, Any] = {"scale": [0.05, 0.5], "learning_rate": [0.03, 0.04]}
# The sigmoid's slope is a quarter of cross-entropy's at the most (teachenv.losses.BilinearSigmoid), and its students'
# rates are larger. The teacher's first rate is the paper's: an update of Adam changes Φ by 1e-4. Larger ones than the
# second ruined the students at once.
_SIGMOID: dict[str, Any] = {"loss": "bilinear-sigmoid", "scale": 0.05}
_SIGMOID_STEPS: dict[str, Any] = {**_SIGMOID, "learning_rate": [0.002, 0.02]}
# The loss's slope is K times that of a margin, so each K has rates of its own; the last K is the paper's.
_SMOOTH: dict[str, list[float]] = {
    "sharpness": [1.0, 1.0, 5.0, 50.0, 50.0, 50.0],
    "learning_rate": [0.05, 0.2, 0.05, 0.0005, 0.001, 0.002],
}
_PUBLISHED: dict[str, Any] = {"loss": "bilinear-sigmoid", "scale": 1.0}
_MARGIN: dict[str, Any] = {"objective": "margin", "objective_temperature": 0.02}
# Under label noise: over a bounded logarithm, whose neutral action is generalised cross-entropy. Its students are
# trained at that loss's rates, at which the gradient of their training is noise.
_BOUNDED: dict[str, Any] = {"loss": "bilinear-generalized", "scale": 0.5, "q": [0.7, 0.9], "learning_rate": 0.04}


def _published(**options: Any) -> Method:
    return replace(learning(meta.RMD, {**_PUBLISHED, "learning_rate": 1e-4, **options}), make=_constant)


def _constant(env: TeachEnv, seed: int, options: Mapping[str, Any]) -> Any:
    # In a box as wide as Φ itself a policy's usual first entries, of 0.01, are more than 60 updates of 1e-4 move, and
    # leave students of 15,000 steps at 93.8 % dev accuracy, where those of Φ = I have 96.4.
    return meta.RMD("AttentionPolicy", env, seed=seed, policy_kwargs={"initial_scale": 1e-4}, **options)


def _data_teacher(env: TeachEnv, seed: int, options: Mapping[str, Any]) -> Any:
    options = dict(options)
    return meta.DataTeacher("DataPolicy", meta.DataTeaching(env, options.pop("threshold")), seed=seed, **options)


def _self_paced(env: TeachEnv, seed: int, options: Mapping[str, Any]) -> Any:
    options, shown = {"until": options["until"]}, meta.DataTeaching(env)
    return meta.SelfPacedTeacher("SelfPacedPolicy", shown, policy_kwargs=options, seed=seed)


def _random_drop(env: TeachEnv, seed: int, options: Mapping[str, Any]) -> Any:
    return meta.RandomDropTeacher("RandomDropPolicy", env, policy_kwargs={"keep": options["keep"]}, seed=seed)


def _of_samples(make: Any, name: str, values: list[float], **more: Any) -> Method:
    """The method of a teacher that keeps or drops samples."""
    # Every minibatch has an action, and is measured: on fewer dev samples.
    options = {
        "loss": "sample-weights",
        "loss_kwargs": {"base": "cross-entropy"},
        "steps_per_action": 1,
        "dev_measured": 250,
        name: values,
    }
    return Method(candidates(name, options, teacher_options=[name]), make, wrapper=meta.DataTeaching, **more)


def methods(rates: tuple[float, ...]) -> dict[str, Method]:
    """The methods that are compared on images, by name.

    Args:
        rates: learning rates of students under cross-entropy.
    """
    steeper = tuple(4 * rate for rate in rates)
    widest = tuple(factor * rates[0] for factor in (4, 16, 64))

    def rmd(options: Mapping[str, Any], **more: Any) -> Method:
        return learning(meta.RMD, options, **more)

    evolution = {"scale": [0.05, 0.5], "learning_rate": 0.05, "sigma": 0.1}
    return {
        "cross-entropy": fixed("cross-entropy", weight_decay=[0.0, 5e-4]),
        "smooth-01": replace(fixed("smooth-01", **_SMOOTH), rates=()),
        # In so short training runs a smaller λ, with more of the margin, leaves students behind.
        "large-margin": fixed("large-margin", margin=2, annealing=[20.0, 100.0]),
        "focal": fixed("focal", gamma=[1.0, 2.0]),
        "label-smoothing": fixed("label-smoothing", epsilon=[0.1, 0.2]),
        # Its slope is p^q times cross-entropy's, so its best rates are some four times as large.
        "generalized-cross-entropy": replace(fixed("generalized-cross-entropy", q=[0.7, 0.9]), rates=steeper),
        "self-paced": _of_samples(_self_paced, "until", [0.3, 0.6]),
        "random-drop": _of_samples(_random_drop, "keep", [0.5, 0.8]),
        "l2t-data": _of_samples(_data_teacher, "threshold", [0.8, 0.9], learns=True),
        "ddpg": learning(agents.DDPG, _RL, budget_factor=_RL_SPENDS),
        # Their rates and penalties are DDPG's: there is no time to tune each of them for as long.
        "td3": learning(agents.TD3, _RL, tuned_as="ddpg", budget_factor=_RL_SPENDS),
        "sac": learning(agents.SAC, _RL, tuned_as="ddpg", budget_factor=_RL_SPENDS),
        "evolution-strategies": replace(
            learning(meta.EvolutionStrategies, evolution, budget_factor=_RL_SPENDS),
            make=decaying(meta.EvolutionStrategies, students_per_update=4),
        ),
        # Cross-entropy is the bilinear loss's neutral action; our relaxation of the dev measure.
        "rmd": rmd(_STEPS),
        "rmd:generalized": rmd(_BOUNDED, rates=steeper, episode_rate=0.25),
        "rmd:tau-1": rmd({**_STEPS, "objective_temperature": 1.0}),
        # The paper's loss family; with τ = 1, the paper's relaxation, L2T-DLF as it is published.
        "sigmoid:tuned": Method(candidates("sigmoid:tuned", {**_SIGMOID, "weight_decay": [0.0, 5e-4]}), rates=widest),
        "rmd:sigmoid": rmd(_SIGMOID_STEPS, rates=widest),
        "l2t-dlf": rmd({**_SIGMOID_STEPS, "objective_temperature": 1.0}, rates=widest),
        "rmd:static": replace(rmd(_STEPS), make=decaying(meta.RMD, policy_kwargs={"static": True}), tuned_as="rmd"),
        "finite-difference": learning(meta.FiniteDifference, _STEPS, tuned_as="rmd"),
        "rmd:transferred": replace(rmd(_STEPS), learns=False, tuned_as="cross-entropy", taught_as="rmd"),
        "rmd:generalized-transferred": replace(
            rmd(_BOUNDED), learns=False, tuned_as="generalized-cross-entropy", taught_as="rmd:generalized"
        ),
    }


def published() -> dict[str, Method]:
    """L2T-DLF as it is published, and what it is compared with, by name; nothing of them is tuned.

    Φ₀ = I, in a box that 60 updates of 1e-4 do not reach the sides of; the rate is constant. "margin" has the released
    code's objective, and "mixture" its final students, half of whose loss is cross-entropy.
    """
    return {
        "sigmoid": Method(candidates("sigmoid", _PUBLISHED)),
        "sigmoid:mixture": Method(candidates("sigmoid:mixture", {**_PUBLISHED, "cross_entropy": 0.5})),
        "published": _published(objective_temperature=1.0),
        "published:tau-0.2": _published(objective_temperature=0.2),
        "published:margin": _published(**_MARGIN),
        "published:mixture": replace(
            _published(**_MARGIN, cross_entropy=0.5), learns=False, taught_as="published:margin"
        ),
    }
