"""Wrappers around teaching environments: what they have in common, what they do to actions, and SB3's `VecEnv`."""

from meta.wrappers.base import RememberingWrapper, TeachWrapper
from meta.wrappers.vec_env import GymVecEnv

__all__ = ["GymVecEnv", "RememberingWrapper", "TeachWrapper"]
