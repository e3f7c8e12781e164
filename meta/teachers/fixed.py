"""Teachers that learn nothing: what others are compared with."""

from __future__ import annotations

from typing import ClassVar

from stable_baselines3.common.policies import BasePolicy

from meta.teachers.episodic import EpisodicTeacher, TaughtStudent
from meta.teachers.policies import ConstantPolicy, RandomPolicy


class FixedTeacher(EpisodicTeacher):
    """A teacher with nothing to learn: `learn` teaches students, and leaves the policy as it is."""

    def _improve(self, students: list[TaughtStudent], /) -> None:
        pass


class ConstantTeacher(FixedTeacher):
    """Takes the same action always, `policy_kwargs={"action": ...}`, by default 0. Learning leaves it as it is."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"ConstantPolicy": ConstantPolicy}


class RandomTeacher(FixedTeacher):
    """Takes uniformly random actions; `policy_kwargs={"seed": ...}`, by default 0. Learning leaves it as it is."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"RandomPolicy": RandomPolicy}
