"""Data sets: two that come with the package, and those that are found on this machine or downloaded."""

from teachenv.data.glue import GLUE, GlueData, Texts, load_glue
from teachenv.data.language import LANGUAGE, Corpus, columns, load_language
from teachenv.data.numbers import german_number_words, number_words
from teachenv.data.root import ENVIRONMENT_VARIABLE, FileDataset, candidate_roots, find_dataset
from teachenv.data.shipped import load_digits, load_wine

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
    "load_digits",
    "load_glue",
    "load_language",
    "load_wine",
    "number_words",
]
