"""DDPG as a teacher: the RL alternative that L2T-DLF argues against, given an honest chance."""

from __future__ import annotations

from typing import ClassVar

import stable_baselines3
from stable_baselines3.common.policies import BasePolicy

from agents.policies import AttentionPolicy, MlpPolicy, SamplePolicy
from agents.replay import NoisyTeacher

POLICIES: dict[str, type[BasePolicy]] = {
    **stable_baselines3.TD3.policy_aliases,
    "AttentionPolicy": AttentionPolicy,
    "MlpPolicy": MlpPolicy,
    "SamplePolicy": SamplePolicy,
}


class DDPG(NoisyTeacher, stable_baselines3.DDPG):
    """SB3's DDPG with what a teacher needs; see `agents.replay.NoisyTeacher` for the arguments."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES


class TD3(NoisyTeacher, stable_baselines3.TD3):
    """SB3's TD3 with what a teacher needs; see `agents.replay.NoisyTeacher` for the arguments."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
