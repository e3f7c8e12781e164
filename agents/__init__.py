"""RL-based teaching: Stable-Baselines3's algorithms as teachers."""

from agents.ddpg import DDPG
from meta.vec_env import GymVecEnv

__all__ = ["DDPG", "GymVecEnv"]
