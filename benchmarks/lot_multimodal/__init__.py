"""Learning from teaching on image–text matching: two towers trained by a contrastive loss, with captions made here."""

from benchmarks.lot_multimodal.main import Options, run

__all__ = ["Options", "run"]
