"""Learning from teaching on image–text matching: two towers trained by a contrastive loss, with captions made here."""

from benchmarks.lot_multimodal.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
