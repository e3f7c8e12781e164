"""Teachers, their policy networks, and the loss that a teacher has learned.

Gradient teachers (`RMD`, `FiniteDifference`), evolution strategies, a bandit, DoReMi's mixtures of domains, L2T-DLN's
teacher of a loss network and its update rules, L2T's teacher of data, Meta-Weight-Net's teacher, and teachers that
learn nothing: all have Stable-Baselines3's `learn`, `predict`, `save` and `load`. `TaughtLoss` takes a learned loss out
of the environments, into a training loop of your own.
"""

from meta.teachers.bandit import ArmsPolicy, Bandit
from meta.teachers.base import Teacher
from meta.teachers.data_teaching import DataTeacher, DataTeaching, RandomDropTeacher, SelfPacedTeacher
from meta.teachers.doremi import DoReMi, MixturePolicy
from meta.teachers.dynamic_loss import DynamicLossTeacher
from meta.teachers.episodic import EpisodicTeacher, LearningTeacher, TaughtStudent
from meta.teachers.evolution import EvolutionStrategies
from meta.teachers.fixed import ConstantTeacher, RandomTeacher
from meta.teachers.gradient import RMD, FiniteDifference, GradientTeacher
from meta.teachers.meta_weight_net import MetaWeightNet
from meta.teachers.policies import AttentionPolicy, FreePolicy, MlpPolicy, SamplePolicy, TeacherPolicy
from meta.teachers.sample_policies import LossPolicy
from meta.teachers.taught_loss import TaughtLoss

__all__ = [
    "RMD",
    "ArmsPolicy",
    "AttentionPolicy",
    "Bandit",
    "ConstantTeacher",
    "DataTeacher",
    "DataTeaching",
    "DoReMi",
    "DynamicLossTeacher",
    "EpisodicTeacher",
    "EvolutionStrategies",
    "FiniteDifference",
    "FreePolicy",
    "GradientTeacher",
    "LearningTeacher",
    "LossPolicy",
    "MetaWeightNet",
    "MixturePolicy",
    "MlpPolicy",
    "RandomDropTeacher",
    "RandomTeacher",
    "SamplePolicy",
    "SelfPacedTeacher",
    "TaughtLoss",
    "TaughtStudent",
    "Teacher",
    "TeacherPolicy",
]
