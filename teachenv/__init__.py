"""Learning to teach: a student network's training as a Gymnasium environment.

Importing this package registers the environments that `teachenv.registration` lists, such as `TeachDigits-v0`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from teachenv.dynamics import Dynamics
from teachenv.env import TeachEnv
from teachenv.errors import DatasetUnavailable
from teachenv.losses import LOSSES, LossFamily, plain_loss
from teachenv.registration import register
from teachenv.settings import Settings
from teachenv.spaces import SampleBox
from teachenv.state import Episode, StudentState
from teachenv.students import STUDENTS, Prediction
from teachenv.tasks import TASKS
from teachenv.tasks.base import Task
from teachenv.tasks.decisions import Decisions
from teachenv.tasks.measures import ClassificationMeasure, Measure
from teachenv.tasks.multi_label import MultiLabel
from teachenv.tasks.regression import Regression
from teachenv.tasks.soft_labels import SoftLabels
from teachenv.vector_env import TeachVectorEnv

if TYPE_CHECKING:
    from teachenv import plot
    from teachenv.experiment.comparing import compare

__all__ = [
    "LOSSES",
    "STUDENTS",
    "TASKS",
    "ClassificationMeasure",
    "DatasetUnavailable",
    "Decisions",
    "Dynamics",
    "Episode",
    "LossFamily",
    "Measure",
    "MultiLabel",
    "Prediction",
    "Regression",
    "SampleBox",
    "Settings",
    "SoftLabels",
    "StudentState",
    "Task",
    "TeachEnv",
    "TeachVectorEnv",
    "compare",
    "plain_loss",
    "plot",
]

__version__ = "0.1.0"

register()


def __getattr__(name: str) -> Any:
    # Imported when they are first used: they need more than environments do.
    if name == "plot":
        return importlib.import_module("teachenv.plot")
    if name == "compare":
        from teachenv.experiment.comparing import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
