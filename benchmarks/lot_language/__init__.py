"""Learning from teaching on language models: perplexity of LSTMs and Transformer-XL with students and without."""

from benchmarks.lot_language.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
