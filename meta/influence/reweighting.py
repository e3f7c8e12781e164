"""Learning to reweight examples (Ren et al. 2018): weights from one step ahead, anew in every minibatch."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from meta.hypergradients.look_ahead import likelihood, look_ahead
from meta.influence.wrapper import SampleInfluence
from meta.teachers.fixed import FixedTeacher
from meta.teachers.policies import TeacherPolicy
from teachenv.losses.sample_weights import SampleWeights
from teachenv.problem_checks import check_loss_alone


class Reweighting(SampleInfluence):
    """Shows by how much a weight on each sample of the next minibatch would lower the dev loss.

    Observation, (batch,) in [-1, 1]: u_i = −∂L_dev(ω̂(ε))/∂ε_i at ε = 0, ω̂(ε) = ω − η ∇ (1/n) Σ_i ε_i ℓ_i(ω) (Ren et al.
    2018, eqs. 5-7), over the largest size in the minibatch; positive of samples whose gradient points the way of dev's.
    `meta.hypergradients.look_ahead` says what the step and L_dev are. Zeros at the end. Reward, action and info stay as
    they are.

    Args:
        env: a `TeachEnv` of classification with `loss="sample-weights"` at scale 1 and one student step an action.

    Raises:
        TypeError: the environment is no `TeachEnv`.
        ValueError: another loss family or task, several student steps an action, or a wrapper that changes actions.
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray]) -> None:
        """Wraps the environment, and checks that its actions weigh the samples of one minibatch."""
        super().__init__(env)
        self._measure = likelihood(self._teach.problem)

    def influence(self) -> torch.Tensor:
        """Computes u_i of each sample of the next minibatch, (batch,), not divided by the largest."""
        teach = self._teach
        (move,) = teach.dynamics.moves
        assert isinstance(move.loss, SampleWeights)
        # Weights of 0 that are not divided by their mean: the step that is looked ahead to stays where it is.
        free = replace(move, loss=SampleWeights(move.loss.base, **move.loss.options))
        dynamics, nothing = replace(teach.dynamics, moves=(free,)), -torch.ones_like(teach.problem.neutral_action)
        return -look_ahead(dynamics, self._measure, teach.student, teach.episode, nothing).action

    def _check_fits(self) -> None:
        problem = self._teach.problem
        check_loss_alone(problem, type(self).__name__)
        loss, settings = problem.dynamics.loss, problem.settings
        if not (isinstance(loss, SampleWeights) and loss.drops_samples):
            raise ValueError(
                f"L2RW's weights need loss='sample-weights' with scale 1, found loss={settings.loss!r} with "
                f"{dict(settings.loss_kwargs)}; add normalise=True, as in the paper"
            )
        if not problem.classifies:
            raise ValueError(f"L2RW's weights need samples of one label, but task {problem.task.name!r} has others")


class L2RWPolicy(TeacherPolicy):
    """Weighs each sample by what it observes of it: w_i = 2 max(0, u_i), u_i over the largest of the minibatch."""

    def _build(self, states: int, actions: int) -> nn.Module:
        return nn.Module()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the action w − 1 of each sample, (batch of observations, samples), in [-1, 1]."""
        action: torch.Tensor = 2.0 * observation.clamp(0.0, 1.0) - 1.0
        return action


class L2RW(FixedTeacher):
    """L2RW's weights (Ren et al. 2018) as a teacher; there is nothing to learn, and `learn` leaves it as it is.

    Sample i weighs w_i = max(0, u_i) in each step, u_i from `Reweighting`, over the sum of the minibatch (eqs. 7-8) in
    an environment with `loss_kwargs={"normalise": True}`. If no sample would help, the step has no loss.

    Args:
        policy: `"L2RWPolicy"`.
        env: a `Reweighting` environment, or what one can be put around.
        **kwargs: further options of `EpisodicTeacher`.

    Example:
        >>> import gymnasium as gym, meta, teachenv
        >>> loss = {"name": "sample-weights", "normalise": True}
        >>> env = gym.make("TeachDigits-v0", loss=loss, label_noise=0.4, dev_noise=False, horizon=5)
        >>> env = meta.Reweighting(env)
        >>> teacher = meta.L2RW("L2RWPolicy", env)
        >>> observation, info = env.reset(seed=0)
        >>> weights = 1.0 + teacher.predict(observation)[0]
        >>> bool((weights >= 0).all() and (weights[observation < 0] == 0).all())
        True
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"L2RWPolicy": L2RWPolicy}
    wrapper = Reweighting
