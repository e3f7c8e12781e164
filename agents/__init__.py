"""RL-based teaching: Stable-Baselines3's algorithms as teachers."""

from agents.ddpg import DDPG, TD3
from agents.sac import SAC
from meta.vec_env import GymVecEnv

__all__ = ["DDPG", "SAC", "TD3", "GymVecEnv"]
