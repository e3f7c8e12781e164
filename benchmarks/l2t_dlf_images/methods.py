"""The methods on images and what is tuned for each: grids of equal size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import agents
import meta
from benchmarks.comparison.methods import Method, Own, Table, cross_entropy, decaying, fixed_loss
from teachenv.env import TeachEnv

_NETWORKS = {"policy_kwargs": {"net_arch": {"pi": [], "qf": [128, 128]}}, "batch_size": 128}

# RL teachers learn nothing from the few hundred actions that a gradient teacher's budget comes to.
_RL_SPENDS = 3


def _teachers(*pairs: tuple[Mapping[str, Any], Mapping[str, Any]], **environment: Any) -> tuple[Own, ...]:
    """Own values of (options of the loss, of the teacher)."""
    return tuple(Own({"loss_kwargs": dict(loss), **environment}, dict(teacher)) for loss, teacher in pairs)


def _data_teacher(env: TeachEnv, seed: int, options: Mapping[str, Any]) -> Any:
    options = dict(options)
    return meta.DataTeacher("DataPolicy", meta.DataTeaching(env, options.pop("threshold")), seed=seed, **options)


def _self_paced(env: TeachEnv, seed: int, options: Mapping[str, Any]) -> Any:
    return meta.SelfPacedTeacher("SelfPacedPolicy", env, policy_kwargs={"until": options["until"]}, seed=seed)


def _random_drop(env: TeachEnv, seed: int, options: Mapping[str, Any]) -> Any:
    return meta.RandomDropTeacher("RandomDropPolicy", env, policy_kwargs={"keep": options["keep"]}, seed=seed)


def _of_samples(*teachers: Mapping[str, Any]) -> tuple[Own, ...]:
    # Every minibatch has an action, and is measured: on fewer dev samples.
    shared = {"loss": "sample-weights", "steps_per_action": 1, "dev_measured": 250}
    return _teachers(*(({"base": "cross-entropy"}, teacher) for teacher in teachers), **shared)


def _methods(rates: tuple[float, ...]) -> dict[str, Method]:
    """The methods.

    Args:
        rates: learning rates of students under cross-entropy.
    """
    # What regularises on clean labels changes Φ by hundredths, what undoes label noise by tenths.
    steps = ({"scale": 0.05}, {"learning_rate": 0.03}), ({"scale": 0.5}, {"learning_rate": 0.04})
    # Its slope is a quarter of cross-entropy's at the most (teachenv.losses.BilinearSigmoid). The first rate is the
    # paper's: an update of Adam changes Φ by 1e-4. Larger ones than the second ruined the students at once.
    flatter = ({"scale": 0.05}, {"learning_rate": 0.002}), ({"scale": 0.05}, {"learning_rate": 0.02})
    steeper = tuple(4 * rate for rate in rates)
    # Under label noise: over a bounded logarithm, whose neutral action is generalised cross-entropy. Its students are
    # trained at that loss's rates, at which the gradient of their training is noise.
    bounded = _teachers(
        *(({"scale": 0.5, "q": q}, {"learning_rate": 0.04}) for q in (0.7, 0.9)), loss="bilinear-generalized"
    )
    rl = tuple(
        Own({"loss_kwargs": loss}, {"learning_rate": 1e-4, "noise": 0.2, "action_penalty": 100.0, **_NETWORKS})
        for loss, _ in steps
    )

    def rmd(own: tuple[Own, ...], tuned_as: str | None = None, **more: Any) -> Method:
        return Method(own, decaying(meta.RMD, **more), learns=True, tuned_as=tuned_as)

    def sigmoid(**environment: Any) -> tuple[Own, ...]:
        return _teachers(*flatter, loss="bilinear-sigmoid", **environment)

    return {
        "cross-entropy": cross_entropy(0.0, 5e-4),
        # Its slope is K times that of a margin: the paper's K of 50 ruins students at these rates.
        "smooth-01": replace(
            fixed_loss("smooth-01", {"sharpness": 1.0}, {"sharpness": 5.0}), rates=(rates[0] / 2, rates[0], rates[-1])
        ),
        # In so short trainings a smaller λ, with more of the margin, leaves students behind.
        "large-margin": fixed_loss("large-margin", {"margin": 2, "annealing": 20.0}, {"margin": 2, "annealing": 100.0}),
        "focal": fixed_loss("focal", {"gamma": 1.0}, {"gamma": 2.0}),
        "label-smoothing": fixed_loss("label-smoothing", {"epsilon": 0.1}, {"epsilon": 0.2}),
        # Its slope is p^q times cross-entropy's, so its best rates are some four times as large.
        "generalized-cross-entropy": replace(
            fixed_loss("generalized-cross-entropy", {"q": 0.7}, {"q": 0.9}), rates=steeper
        ),
        "self-paced": Method(_of_samples({"until": 0.3}, {"until": 0.6}), _self_paced, wrapper=meta.DataTeaching),
        "random-drop": Method(_of_samples({"keep": 0.5}, {"keep": 0.8}), _random_drop, wrapper=meta.DataTeaching),
        "l2t-data": Method(
            _of_samples({"threshold": 0.8}, {"threshold": 0.9}), _data_teacher, learns=True, wrapper=meta.DataTeaching
        ),
        "ddpg": Method(rl, decaying(agents.DDPG), learns=True, spends=_RL_SPENDS),
        # Their rates and penalties are DDPG's: there is no time to tune each of them for as long.
        "td3": Method(rl, decaying(agents.TD3), learns=True, tuned_as="ddpg", spends=_RL_SPENDS),
        "sac": Method(rl, decaying(agents.SAC), learns=True, tuned_as="ddpg", spends=_RL_SPENDS),
        "evolution-strategies": Method(
            _teachers(*((loss, {"learning_rate": 0.05, "sigma": 0.1}) for loss, _ in steps)),
            decaying(meta.EvolutionStrategies, students_per_update=4),
            learns=True,
            spends=_RL_SPENDS,
        ),
        # Cross-entropy is the bilinear loss's neutral action; our relaxation of the dev measure.
        "rmd": rmd(_teachers(*steps)),
        "rmd:tau-1": rmd(_teachers(*steps, objective_temperature=1.0)),
        "rmd:generalized": replace(rmd(bounded), rates=steeper, episode_rate=0.25),
        # The paper's loss family; with τ = 1, the paper's relaxation, L2T-DLF as it is published.
        "rmd:sigmoid": replace(rmd(sigmoid()), rates=steeper),
        "l2t-dlf": replace(rmd(sigmoid(objective_temperature=1.0)), rates=steeper),
        "rmd:static": rmd(_teachers(*steps), "rmd", policy_kwargs={"static": True}),
        "finite-difference": Method(_teachers(*steps), decaying(meta.FiniteDifference), learns=True, tuned_as="rmd"),
        "rmd:transferred": Method(_teachers(*steps), decaying(meta.RMD), tuned_as="cross-entropy", taught_as="rmd"),
        "rmd:generalized-transferred": Method(
            bounded, decaying(meta.RMD), tuned_as="generalized-cross-entropy", taught_as="rmd:generalized"
        ),
    }


def _table(rates: tuple[float, ...], schedules: tuple[str, ...]) -> Table:
    return Table(_methods(rates), lambda method, loss: rates, schedules)


MNIST = _table((0.05, 0.1, 0.2), ("linear", "cosine"))
CIFAR = _table((0.05, 0.1, 0.2), ("step", "cosine"))
