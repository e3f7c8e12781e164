"""RL teachers as methods of a comparison; see `meta.methods` for their options."""

from __future__ import annotations

from typing import Any

from agents.ddpg import DDPG, TD3
from agents.ppo import PPO
from agents.sac import SAC
from meta.methods import learning
from teachenv.experiment.methods import Method

# What a teacher of a few hundred training runs can learn with: a small critic (SB3's is 400 and 300 wide), an actor
# without hidden layers, and a penalty without which the actor runs to the edge of the box and wrecks its students
# (docs/decisions.md).
_OPTIONS: dict[str, Any] = {
    "learning_rate": 1e-4,
    "noise": 0.3,
    "action_penalty": 100.0,
    "batch_size": 128,
    "policy_kwargs": {"net_arch": {"pi": [], "qf": [128, 128]}},
}


def ddpg(policy: str = "AttentionPolicy", **options: Any) -> Method:
    """Makes a method of `agents.DDPG`, which teaches twice as many students at a time as others, in as many steps.

    Args:
        policy: the name of the teacher's policy.
        **options: options of `agents.DDPG`, of the loss family (`scale`) or of the environment; a list is a grid. By
            default `learning_rate` is 1e-4, `noise` 0.3, `action_penalty` 100, `batch_size` (of the replay buffer) 128,
            and the critic has two layers of 128.

    Raises:
        TypeError: an option that there is not.
        ValueError: lists of different lengths.
    """
    return learning(DDPG, {**_OPTIONS, **options}, policy, students_factor=2)


def td3(policy: str = "AttentionPolicy", **options: Any) -> Method:
    """Makes a method of `agents.TD3`, with the defaults and the arguments of `ddpg`."""
    return learning(TD3, {**_OPTIONS, **options}, policy, students_factor=2)


def sac(policy: str = "AttentionPolicy", **options: Any) -> Method:
    """Makes a method of `agents.SAC`, with the defaults and the arguments of `ddpg`."""
    return learning(SAC, {**_OPTIONS, **options}, policy, students_factor=2)


def ppo(policy: str = "AttentionPolicy", **options: Any) -> Method:
    """Makes a method of `agents.PPO`, whose rollouts are whole training runs of its students.

    Args:
        policy: the name of the teacher's policy.
        **options: options of `agents.PPO`, of the loss family (`scale`) or of the environment; a list is a grid. By
            default `learning_rate` is 1e-3 and the value network has two layers of 64.

    Raises:
        TypeError: an option that there is not.
        ValueError: lists of different lengths.
    """
    return learning(PPO, {"learning_rate": 1e-3, **options}, policy)


GRIDS: dict[str, Method] = {
    # Found by hand in a wider region: with less penalty or a larger rate the actor runs to the edge of the box and
    # wrecks the students (docs/decisions.md).
    name: method(
        scale=[0.1, 0.25, 0.5, 0.5],
        learning_rate=[1e-4, 1e-4, 1e-3, 3e-4],
        action_penalty=[100.0, 100.0, 100.0, 1000.0],
    )
    for name, method in (("ddpg", ddpg), ("td3", td3), ("sac", sac))
}
GRIDS["ppo"] = ppo(scale=[0.1, 0.5, 0.5, 0.5], learning_rate=[1e-3, 1e-3, 3e-3, 1e-2])
"""RL teachers of bilinear losses with candidates to tune over, four each: DDPG's are those that it was tuned over on
digits."""
