"""Language models by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from teachenv.errors import unknown_name
from teachenv.students.language.awd_lstm import AWDLSTM
from teachenv.students.language.base import LanguageModel, Spoken
from teachenv.students.language.lstm import LSTMModel
from teachenv.students.language.transformer_xl import TransformerXL

LANGUAGE_MODELS: dict[str, Callable[..., LanguageModel]] = {
    "lstm": LSTMModel,
    "awd-lstm": AWDLSTM,
    "transformer-xl": TransformerXL,
}

__all__ = ["AWDLSTM", "LANGUAGE_MODELS", "LSTMModel", "LanguageModel", "Spoken", "TransformerXL", "make_language_model"]


def make_language_model(name: str, words: int, **options: Any) -> LanguageModel:
    """A language model, initialised from torch's global generator.

    Args:
        name: one of `LANGUAGE_MODELS`.
        words: size of the vocabulary.
        options: the model's options.

    Raises:
        ValueError: an unknown name.
        TypeError: an unknown option.
    """
    if name not in LANGUAGE_MODELS:
        raise unknown_name("language model", name, LANGUAGE_MODELS)
    return LANGUAGE_MODELS[name](words, **options)
