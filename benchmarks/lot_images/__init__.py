"""Learning from teaching on image classifiers, and whether what generalises is easier to imitate."""

from benchmarks.lot_images.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
