"""Learning from teaching on image classifiers, and whether what generalises is easier to imitate."""

from benchmarks.lot_images.main import Options, run

__all__ = ["Options", "run"]
