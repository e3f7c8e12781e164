"""RL-based teaching: Stable-Baselines3's algorithms as teachers; and PPO that learns from teaching."""

from agents import methods
from agents.atari import AtariVecEnv
from agents.ddpg import DDPG, TD3
from agents.lot_ppo import LoTPPO
from agents.ppo import PPO
from agents.sac import SAC
from agents.segments import Segments, learn_in_segments

__all__ = [
    "DDPG",
    "PPO",
    "SAC",
    "TD3",
    "AtariVecEnv",
    "LoTPPO",
    "Segments",
    "learn_in_segments",
    "methods",
]
