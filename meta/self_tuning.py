"""The meta-gradient of a student that learns by reinforcement, through one update (Xu, van Hasselt and Silver 2018).

The student learns from a rollout τ under coefficients that an action a sets, θ'(a) = θ + f(τ, θ, a). How good the
coefficients were is asked of the rollout τ' that it collects next, which it learns from anyway: no step in the task is
spent on it. With the advantages Â of τ' at the neutral discount, and the probabilities π_b with which τ' was acted,

    J'(a) = mean over τ' of Â · π_θ'(a)(u|s) / π_b(u|s)          dJ'/da = ∂J'/∂θ' · dθ'/da

π_b is θ' itself, so that J' has the policy gradient in θ'. The paper has dθ'/da of one step of gradient descent, and
sums it up over steps with a decay; here it is exact for a whole update of PPO, through all its minibatches and Adam,
and not summed up: the student before the update is constant. Neither sees what an action does to later rollouts'
states, or to training beyond the next rollout: that is why it is no gradient of an episode's return. The derivative by
the clip range is 0 wherever there is one: it decides which samples count, and not how much.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from meta.wrappers.actions import check_actions_unchanged
from teachenv import checks
from teachenv.optimizers import Adam
from teachenv.rl import ControlDynamics, ControlStudent, Rollout, TeachControlEnv
from teachenv.rl.policy import Distribution


class SelfTuned(NamedTuple):
    """What came of a training run that tuned its own coefficients.

    Attributes:
        actions: those taken, (updates, coordinates).
        objectives: J before the first update and after each, updates + 1 numbers.
        gradients: dJ'/da after each but the last, (updates − 1, coordinates).
        info: that of the last step.
    """

    actions: np.ndarray
    objectives: list[float]
    gradients: np.ndarray
    info: dict[str, Any]


def held_out_gain(dynamics: ControlDynamics, parameters: dict[str, torch.Tensor], held_out: Rollout) -> torch.Tensor:
    """J': the mean advantage of a kept rollout's actions, weighed by how much more likely they are now; a scalar.

    Args:
        dynamics: of the environment.
        parameters: the student's, θ'.
        held_out: τ', which another student collected.
    """
    advantages = held_out.advantages(dynamics.settings.coefficients.discount, dynamics.ppo.trace).flatten()
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    distribution = Distribution.of(parameters, held_out.observations.flatten(0, 1))
    ratio = (distribution.log_prob(held_out.actions.flatten(0, 1)) - held_out.log_prob.flatten()).exp()
    return (advantages * ratio).mean()


def meta_gradient(
    dynamics: ControlDynamics, student: ControlStudent, action: np.ndarray, seed: int, held_out: Rollout
) -> np.ndarray:
    """dJ'/da, the derivative of J' by each coordinate of an action, (coordinates,).

    Args:
        dynamics: of a `TeachControlEnv`.
        student: θ, the student before the update; its rollout τ is collected again, bitwise.
        action: a, with which it learned from τ.
        seed: the episode's seed, `env.unwrapped.episode`.
        held_out: τ', such as the next rollout of the student after the update.

    Raises:
        ValueError: an action of another shape.
    """
    shape = (len(dynamics.settings.control),)
    if np.shape(action) != shape:
        raise ValueError(f"an action has shape {shape} here, found {np.shape(action)}; see env.action_space")
    rollout, _, _ = dynamics.collect(student, seed)
    variable = torch.tensor(np.asarray(action), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        parameters = dynamics.update(student, rollout, variable, seed)[0]
        (gradient,) = torch.autograd.grad(held_out_gain(dynamics, parameters, held_out), variable)
    return gradient.numpy()


def self_tune(env: gym.Env[Any, Any], *, learning_rate: float = 0.1, seed: int | None = None) -> SelfTuned:
    """Trains one student whose coefficients follow the meta-gradient while it learns: from plain PPO, by Adam.

    Nothing is learned from other students, and a wrong guess is paid for in the same training.

    Args:
        env: a `TeachControlEnv`, possibly in wrappers that leave actions as they are.
        learning_rate: Adam's step in the box of actions.
        seed: of `env.reset`.

    Raises:
        TypeError: another environment.
        ValueError: a learning rate that is not positive, or a wrapper that changes actions.

    Example:
        >>> import gymnasium as gym, meta, teachenv
        >>> env = gym.make("TeachControl-v0", horizon=3, rollout_steps=16, epochs=1)
        >>> meta.self_tune(env, seed=0).actions.shape
        (3, 5)
    """
    bottom = env.unwrapped
    if not isinstance(bottom, TeachControlEnv):
        raise TypeError(
            f"self_tune needs a student that learns by reinforcement, found {type(bottom).__name__}; make one by "
            'gym.make("TeachControl-v0")'
        )
    check_actions_unchanged(env, "self_tune")
    rate = checks.number("learning_rate", learning_rate, above=0)
    _, first = env.reset(seed=seed)
    objectives = [first["objective"]]
    tuned, adam = {"action": torch.zeros(len(bottom.problem.settings.control), dtype=torch.float64)}, Adam()
    slots = adam.init(tuned)
    actions: list[np.ndarray] = []
    gradients: list[np.ndarray] = []
    while True:
        before, taken = bottom.student, tuned["action"].numpy().astype(np.float32)
        actions.append(taken)
        *_, terminated, truncated, info = env.step(taken)
        objectives.append(info["objective"])
        if terminated or truncated:
            return SelfTuned(np.stack(actions), objectives, np.array(gradients).reshape(-1, len(taken)), info)
        held_out, _, _ = bottom.dynamics.collect(bottom.student, bottom.episode)
        gradients.append(meta_gradient(bottom.dynamics, before, taken, bottom.episode, held_out))
        if np.isfinite(gradients[-1]).all():
            descent = {"action": -torch.as_tensor(gradients[-1])}
            tuned, slots = adam.update(tuned, descent, slots, rate, step=len(gradients) - 1)
            tuned["action"].clamp_(-1.0, 1.0)
