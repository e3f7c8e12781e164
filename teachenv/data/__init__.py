"""Finding datasets on this machine, and downloading those that are not there."""

from teachenv.data.glue import GLUE, GlueData, Texts, load_glue
from teachenv.data.language import LANGUAGE, Corpus, columns, load_language
from teachenv.data.numbers import german_number_words, number_words
from teachenv.data.root import ENVIRONMENT_VARIABLE, FileDataset, candidate_roots, find_dataset

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "GLUE",
    "LANGUAGE",
    "Corpus",
    "FileDataset",
    "GlueData",
    "Texts",
    "candidate_roots",
    "columns",
    "find_dataset",
    "german_number_words",
    "load_glue",
    "load_language",
    "number_words",
]
