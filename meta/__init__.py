"""Gradient-based teaching: hypergradients of a student's training, and the teachers that follow them."""

from meta.action_gradient import ActionGradient, VectorActionGradient
from meta.hypergradient import METHODS, Cotangent, Hypergradient, hypergradient
from meta.policies import AttentionPolicy, MlpPolicy
from meta.teachers import RMD, ConstantTeacher, EpisodicTeacher, FiniteDifference, GradientTeacher, RandomTeacher
from meta.vec_env import GymVecEnv

__all__ = [
    "METHODS",
    "RMD",
    "ActionGradient",
    "AttentionPolicy",
    "ConstantTeacher",
    "Cotangent",
    "EpisodicTeacher",
    "FiniteDifference",
    "GradientTeacher",
    "GymVecEnv",
    "Hypergradient",
    "MlpPolicy",
    "RandomTeacher",
    "VectorActionGradient",
    "hypergradient",
]
