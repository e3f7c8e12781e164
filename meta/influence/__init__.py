"""Influence: what a step on each sample does to a loss on held-out data; and teachers that weigh samples by it.

The attribute `meta.influence` is the function of this name; import the rest by `from meta.influence import ...`.
"""

from meta.influence.attribution import Attribution, attribute
from meta.influence.derivatives import INFLUENCE_METHODS, directional_derivative, held_out_gradient, influence
from meta.influence.label_issues import LabelIssues, label_issues
from meta.influence.own_training import OwnTraining
from meta.influence.reweighting import L2RW, Reweighting
from meta.influence.teaching import InfluencePolicy, InfluenceTeacher, InfluenceTeaching

__all__ = [
    "INFLUENCE_METHODS",
    "L2RW",
    "Attribution",
    "InfluencePolicy",
    "InfluenceTeacher",
    "InfluenceTeaching",
    "LabelIssues",
    "OwnTraining",
    "Reweighting",
    "attribute",
    "directional_derivative",
    "held_out_gradient",
    "influence",
    "label_issues",
]
