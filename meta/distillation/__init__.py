"""Distillation: one trainer, one file a method; LGTM and what it is compared with."""

from meta.distillation.base import DistillationSettings, Distiller, OnlineDistiller
from meta.distillation.batch import Batch
from meta.distillation.dist import DIST
from meta.distillation.dml import DML
from meta.distillation.fine_tuning import FineTuning
from meta.distillation.kd import KD
from meta.distillation.learner import Learner, Outputs
from meta.distillation.lgtm import LGTM
from meta.distillation.meta_distill import MetaDistill
from meta.distillation.pesf_kd import PESFKD
from meta.distillation.pkd import PKD
from meta.distillation.prokt import ProKT
from meta.distillation.rco import RCO
from meta.distillation.sequence_kd import SequenceKD
from meta.distillation.skd import SKD
from meta.distillation.takd import TAKD

DISTILLERS = {
    "kd": KD,
    "pkd": PKD,
    "skd": SKD,
    "dist": DIST,
    "takd": TAKD,
    "rco": RCO,
    "dml": DML,
    "prokt": ProKT,
    "pesf-kd": PESFKD,
    "meta-distill": MetaDistill,
    "lgtm": LGTM,
    "sequence-kd": SequenceKD,
}
"""The methods by the names that benchmarks use; `sequence-kd` is of translators alone."""

__all__ = [
    "DIST",
    "DISTILLERS",
    "DML",
    "KD",
    "LGTM",
    "PESFKD",
    "PKD",
    "RCO",
    "SKD",
    "TAKD",
    "Batch",
    "DistillationSettings",
    "Distiller",
    "FineTuning",
    "Learner",
    "MetaDistill",
    "OnlineDistiller",
    "Outputs",
    "ProKT",
    "SequenceKD",
]
