"""Derivatives of a student's final objective with respect to every action that a teacher took on the way.

`hypergradient` differentiates any process (`Process`, `PureProcess`): a `Training` of an environment's students, or
`Descent` on a loss of your own. `ActionGradient` and `VectorActionGradient` put the derivatives into an environment's
`info`, and `WindowGradient` shows those of a window of steps as the observation. `audit` says whether the second
derivatives of a model, which all of this is made of, are right. `evolution_strategies` and its like estimate the
derivative with respect to one action that all steps share.
"""

from meta.hypergradients.action_gradient import ActionGradient, VectorActionGradient
from meta.hypergradients.audit import Audit, AuditRow, audit
from meta.hypergradients.cotangent import Cotangent
from meta.hypergradients.descent import Descent
from meta.hypergradients.estimators import (
    Estimates,
    evolution_strategies,
    implicit,
    noise_reuse_evolution_strategies,
    persistent_evolution_strategies,
    reinforce,
)
from meta.hypergradients.gradient_process import GradientProcess
from meta.hypergradients.hypergradient import hypergradient
from meta.hypergradients.landscape import Smoothness, smoothness
from meta.hypergradients.loop import Loop, LoopGradient
from meta.hypergradients.process import Adjoint, Process, PureProcess
from meta.hypergradients.sweep import METHODS, Hypergradient
from meta.hypergradients.training import Training
from meta.hypergradients.window_gradient import WindowGradient

__all__ = [
    "METHODS",
    "ActionGradient",
    "Adjoint",
    "Audit",
    "AuditRow",
    "Cotangent",
    "Descent",
    "Estimates",
    "GradientProcess",
    "Hypergradient",
    "Loop",
    "LoopGradient",
    "Process",
    "PureProcess",
    "Smoothness",
    "Training",
    "VectorActionGradient",
    "WindowGradient",
    "audit",
    "evolution_strategies",
    "hypergradient",
    "implicit",
    "noise_reuse_evolution_strategies",
    "persistent_evolution_strategies",
    "reinforce",
    "smoothness",
]
