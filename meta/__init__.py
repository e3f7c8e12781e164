"""Gradient-based teaching: hypergradients of a student's training, and the teachers that follow them.

The names that most users need are here; a package for each subject has them and the rest:

- `meta.hypergradients`: the derivative of a training run's final objective with respect to every action.
- `meta.teachers`: teachers with Stable-Baselines3's model API, their policies, and the loss that they have learned.
- `meta.distillation`: distillation methods, LGTM among them, under one trainer.
- `meta.influence`: what a step on each sample does to a held-out loss, and what each sample's weight in a whole
  training does to tests. The attribute `meta.influence` is the function: import the rest by
  `from meta.influence import ...`.
- `meta.lot`: Learning from Teaching.
- `meta.self_tuning`: the meta-gradient of students that learn by reinforcement.
- `meta.methods`: teachers as methods of a comparison.
- `meta.saving`: models in files that run no code when they are read, and training runs that resume.
- `meta.wrappers`: what the wrappers of environments have in common, and `GymVecEnv`.
"""

from meta import methods
from meta.distillation import DISTILLERS, LGTM, Batch, DistillationSettings
from meta.hypergradients import (
    METHODS,
    ActionGradient,
    Audit,
    AuditRow,
    Cotangent,
    Descent,
    Hypergradient,
    Loop,
    LoopGradient,
    Process,
    PureProcess,
    Smoothness,
    Training,
    VectorActionGradient,
    WindowGradient,
    audit,
    hypergradient,
    smoothness,
)
from meta.influence import (
    INFLUENCE_METHODS,
    L2RW,
    Attribution,
    InfluencePolicy,
    InfluenceTeacher,
    InfluenceTeaching,
    LabelIssues,
    OwnTraining,
    Reweighting,
    attribute,
    directional_derivative,
    held_out_gradient,
    influence,
    label_issues,
)
from meta.lot import LoT, imitability
from meta.self_tuning import SelfTuned, meta_gradient, self_tune
from meta.teachers import (
    RMD,
    AttentionPolicy,
    Bandit,
    ConstantTeacher,
    DataTeacher,
    DataTeaching,
    DoReMi,
    DynamicLossTeacher,
    EpisodicTeacher,
    EvolutionStrategies,
    FiniteDifference,
    FreePolicy,
    GradientTeacher,
    LossPolicy,
    MetaWeightNet,
    MlpPolicy,
    RandomDropTeacher,
    RandomTeacher,
    SamplePolicy,
    SelfPacedTeacher,
    TaughtLoss,
)
from meta.wrappers import GymVecEnv

__all__ = [
    "DISTILLERS",
    "INFLUENCE_METHODS",
    "L2RW",
    "LGTM",
    "METHODS",
    "RMD",
    "ActionGradient",
    "AttentionPolicy",
    "Attribution",
    "Audit",
    "AuditRow",
    "Bandit",
    "Batch",
    "ConstantTeacher",
    "Cotangent",
    "DataTeacher",
    "DataTeaching",
    "Descent",
    "DistillationSettings",
    "DoReMi",
    "DynamicLossTeacher",
    "EpisodicTeacher",
    "EvolutionStrategies",
    "FiniteDifference",
    "FreePolicy",
    "GradientTeacher",
    "GymVecEnv",
    "Hypergradient",
    "InfluencePolicy",
    "InfluenceTeacher",
    "InfluenceTeaching",
    "LabelIssues",
    "LoT",
    "Loop",
    "LoopGradient",
    "LossPolicy",
    "MetaWeightNet",
    "MlpPolicy",
    "OwnTraining",
    "Process",
    "PureProcess",
    "RandomDropTeacher",
    "RandomTeacher",
    "Reweighting",
    "SamplePolicy",
    "SelfPacedTeacher",
    "SelfTuned",
    "Smoothness",
    "TaughtLoss",
    "Training",
    "VectorActionGradient",
    "WindowGradient",
    "attribute",
    "audit",
    "directional_derivative",
    "held_out_gradient",
    "hypergradient",
    "imitability",
    "influence",
    "label_issues",
    "meta_gradient",
    "methods",
    "self_tune",
    "smoothness",
]
