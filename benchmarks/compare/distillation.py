"""The methods of the comparison on `TeachDistill-v0`: what weighs the samples that a teacher network learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import agents
import meta
from benchmarks.comparison.methods import Method, Own, Table, decaying, random_actions

# Of both networks, unless the environment has another rate for the teacher's.
LEARNING_RATES = (0.1, 0.2, 0.4, 0.8)


def _weights(*values: tuple[float, Mapping[str, Any]]) -> tuple[Own, ...]:
    """Own values of (scale of the weights, options of the teacher)."""
    return tuple(Own({"loss_kwargs": {"scale": scale}}, teacher) for scale, teacher in values)


def _influence(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return meta.InfluenceTeacher("InfluencePolicy", env, seed=seed, **options)


_SCALES = _weights(*((scale, {}) for scale in (0.5, 1.0, 2.0, 4.0)))
_GRADIENT = _weights(*((scale, {"learning_rate": rate}) for scale in (1.0, 4.0) for rate in (0.01, 0.03)))
_CRITIC: Mapping[str, Any] = {"batch_size": 128, "policy_kwargs": {"net_arch": {"pi": [32], "qf": [128, 128]}}}

METHODS: dict[str, Method] = {
    # Uniform weights; without others what is left to choose is how much the teacher network listens to its student.
    "prokt": Method(tuple(Own({"loss_kwargs": {"teacher_labels": alpha}}) for alpha in (0.3, 0.6, 0.8, 1.0))),
    "random": Method(_SCALES, random_actions),
    "lgtm:reweight": Method(_SCALES, _influence, wrapper=meta.InfluenceTeaching),
    "ddpg": Method(
        _weights(
            *(
                (scale, {"learning_rate": rate, "noise": 0.3, "action_penalty": 10.0, **_CRITIC})
                for scale in (1.0, 4.0)
                for rate in (1e-4, 1e-3)
            )
        ),
        decaying(agents.DDPG, "SamplePolicy"),
        learns=True,
        crowd=2,
    ),
    "rmd": Method(_GRADIENT, decaying(meta.RMD, "SamplePolicy"), learns=True),
    # The same gradient, hence the same best configuration.
    "finite-difference": Method(
        _GRADIENT, decaying(meta.FiniteDifference, "SamplePolicy"), learns=True, tuned_as="rmd"
    ),
}

TABLE = Table(METHODS, lambda method, loss: LEARNING_RATES)
