"""SAC as a teacher."""

from __future__ import annotations

from typing import Any, ClassVar

import stable_baselines3
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from agents.policies import GaussianAttentionPolicy, GaussianMlpPolicy, GaussianSamplePolicy
from agents.replay import ReplayTeacher


class SAC(ReplayTeacher, stable_baselines3.SAC):
    """SB3's SAC with what a teacher needs.

    Args:
        policy: see `agents.replay.ReplayTeacher`.
        env: see `agents.replay.ReplayTeacher`.
        learning_rate: see `agents.replay.ReplayTeacher`.
        noise: standard deviation of the actions, before tanh, at the start; it is learned.
        policy_kwargs: options of the policy.
        **kwargs: see `agents.replay.ReplayTeacher`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "AttentionPolicy": GaussianAttentionPolicy,
        "MlpPolicy": GaussianMlpPolicy,
        "SamplePolicy": GaussianSamplePolicy,
    }

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-3,
        noise: float = 0.1,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tells the policy of the noise."""
        options = {"initial_noise": noise, **(policy_kwargs or {})}
        super().__init__(policy, env, learning_rate, noise, policy_kwargs=options, **kwargs)
