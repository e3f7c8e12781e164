"""SAC as a teacher: a stochastic actor, whose noise is learned with it (Haarnoja et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

import stable_baselines3
from stable_baselines3.common.policies import BasePolicy

from agents.base import NoiseLearner
from agents.policies import GaussianAttentionPolicy, GaussianMlpPolicy, GaussianSamplePolicy
from agents.replay import ReplayTeacher


class SAC(NoiseLearner, ReplayTeacher, stable_baselines3.SAC):
    """SB3's SAC with what a teacher needs.

    Args:
        policy: `"AttentionPolicy"`, `"MlpPolicy"`, `"SamplePolicy"`, another name of SB3's, or a policy class.
        env: the environment to learn in; `agents.replay.ReplayTeacher` says which ones.
        learning_rate: the step size of Adam on actor and critic; None: 1e-3.
        **kwargs: further options of `agents.replay.ReplayTeacher`. Of them `noise` is the standard deviation of the
            actions, before tanh, at the start; it is learned. With `use_sde=True` that in a state whose features have a
            mean square of 1. None: 0.1; in an environment that does not train students SB3's default, about 1.

    Raises:
        ValueError: `noise` for a policy of SB3's, which has no such option.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **stable_baselines3.SAC.policy_aliases,
        "AttentionPolicy": GaussianAttentionPolicy,
        "MlpPolicy": GaussianMlpPolicy,
        "SamplePolicy": GaussianSamplePolicy,
    }
