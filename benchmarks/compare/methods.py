"""The methods of the comparison and what is tuned for each: grids of equal size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import stable_baselines3
from stable_baselines3.common.noise import NormalActionNoise

import agents
import meta
from benchmarks.comparison.methods import Method, Own, Table, cross_entropy, decaying, fixed_loss, random_actions
from meta.vec_env import as_vec_env

# Of the student. The sigmoid flattens the loss: its students want larger steps (see teachenv.losses.BilinearSigmoid).
# The zero action of "bilinear" is cross-entropy; fixed losses have its rates.
LEARNING_RATES: dict[str, tuple[float, ...]] = {
    "bilinear": (0.1, 0.2, 0.4, 0.8),
    "bilinear-sigmoid": (0.4, 0.8, 1.6, 3.2),
}


def _ddpg_default(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    """SB3's DDPG as it comes, but for the noise without which it does not explore."""
    env = as_vec_env(env)
    size = env.action_space.shape[0]
    noise = NormalActionNoise([0.0] * size, [0.1] * size)  # type: ignore[arg-type]
    return stable_baselines3.DDPG("MlpPolicy", env, action_noise=noise, buffer_size=200_000, seed=seed, device="cpu")


def _scales(*scales: float) -> tuple[Own, ...]:
    return tuple(Own({"loss_kwargs": {"scale": scale}}) for scale in scales)


_GRADIENT = tuple(
    Own({"loss_kwargs": {"scale": scale}}, {"learning_rate": rate}) for scale in (0.5, 1.0) for rate in (0.01, 0.03)
)

METHODS: dict[str, Method] = {
    "cross-entropy": cross_entropy(0.0, 1e-3, 3e-3, 1e-2),
    "smooth-01": fixed_loss("smooth-01", *({"sharpness": k} for k in (1.0, 5.0, 20.0, 50.0))),
    "large-margin": fixed_loss(
        "large-margin",
        *({"margin": m, "annealing": a} for m, a in ((2, 1.0), (2, 5.0), (3, 5.0), (4, 10.0))),
    ),
    "label-smoothing": fixed_loss("label-smoothing", *({"epsilon": e} for e in (0.05, 0.1, 0.2, 0.4))),
    "focal": fixed_loss("focal", *({"gamma": g} for g in (0.5, 1.0, 2.0, 5.0))),
    "random": Method(_scales(0.1, 0.25, 0.5, 1.0), random_actions),
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
        decaying(agents.DDPG),
        learns=True,
        crowd=2,
    ),
    # Each step of its students is followed by one of its large networks: fewer of them, or it takes half of the time.
    "ddpg:default": Method(_scales(0.5), _ddpg_default, learns=True, tuned_as="ddpg", crowd=4),
    "rmd": Method(_GRADIENT, decaying(meta.RMD), learns=True),
    # The same gradient to three digits, hence the same best configuration.
    "finite-difference": Method(_GRADIENT, decaying(meta.FiniteDifference), learns=True, tuned_as="rmd"),
    "evolution-strategies": Method(
        tuple(
            Own({"loss_kwargs": {"scale": 0.5}}, {"learning_rate": rate, "sigma": sigma})
            for rate in (0.03, 0.06)
            for sigma in (0.05, 0.2)
        ),
        decaying(meta.EvolutionStrategies),
        learns=True,
    ),
}

TABLE = Table(METHODS, lambda method, loss: LEARNING_RATES["bilinear" if method.make is None else loss])
