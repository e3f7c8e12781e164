"""Gradient-based teaching: hypergradients of a student's training, and the teachers that follow them."""

from meta import methods
from meta.action_gradient import ActionGradient, VectorActionGradient
from meta.data_teaching import DataTeacher, DataTeaching, RandomDropTeacher, SelfPacedTeacher
from meta.descent import Descent
from meta.distillation import DISTILLERS, LGTM, Batch, DistillationSettings
from meta.dynamic_loss import DynamicLossTeacher
from meta.evolution import EvolutionStrategies
from meta.gradient_process import Cotangent
from meta.gradient_teachers import RMD, FiniteDifference, GradientTeacher
from meta.hypergradient import hypergradient
from meta.influence import INFLUENCE_METHODS, directional_derivative, held_out_gradient, influence
from meta.influence_teaching import InfluencePolicy, InfluenceTeacher, InfluenceTeaching
from meta.lot import LoT, imitability
from meta.policies import AttentionPolicy, MlpPolicy, SamplePolicy
from meta.process import Process, PureProcess
from meta.sweep import METHODS, Hypergradient
from meta.taught_loss import TaughtLoss
from meta.teachers import ConstantTeacher, EpisodicTeacher, RandomTeacher
from meta.training import Training
from meta.vec_env import GymVecEnv
from meta.window_gradient import WindowGradient

__all__ = [
    "DISTILLERS",
    "INFLUENCE_METHODS",
    "LGTM",
    "METHODS",
    "RMD",
    "ActionGradient",
    "AttentionPolicy",
    "Batch",
    "ConstantTeacher",
    "Cotangent",
    "DataTeacher",
    "DataTeaching",
    "Descent",
    "DistillationSettings",
    "DynamicLossTeacher",
    "EpisodicTeacher",
    "EvolutionStrategies",
    "FiniteDifference",
    "GradientTeacher",
    "GymVecEnv",
    "Hypergradient",
    "InfluencePolicy",
    "InfluenceTeacher",
    "InfluenceTeaching",
    "LoT",
    "MlpPolicy",
    "Process",
    "PureProcess",
    "RandomDropTeacher",
    "RandomTeacher",
    "SamplePolicy",
    "SelfPacedTeacher",
    "TaughtLoss",
    "Training",
    "VectorActionGradient",
    "WindowGradient",
    "directional_derivative",
    "held_out_gradient",
    "hypergradient",
    "imitability",
    "influence",
    "methods",
]
