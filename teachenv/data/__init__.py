"""Finding datasets on this machine, and downloading those that are not there."""

from teachenv.data.glue import GLUE, GlueData, Texts, load_glue
from teachenv.data.root import ENVIRONMENT_VARIABLE, FileDataset, candidate_roots, find_dataset

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "GLUE",
    "FileDataset",
    "GlueData",
    "Texts",
    "candidate_roots",
    "find_dataset",
    "load_glue",
]
