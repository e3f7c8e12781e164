"""How well data attribution predicts retraining, and how well wrong labels are found: `meta` beside its peers.

First part. A method gives each test and training sample a value; left out, the samples of a set S should change the
test's loss by −Σ_{i ∈ S} values. Trainings without random sets of samples say what really happens. Their rank
correlation, averaged over tests, is the linear datamodelling score (LDS; Park et al. 2023, TRAK, eq. 4):

* `lds_1`, `lds_5`, `lds_20`, `lds_50`: training runs of the same seed, from which so many percent are left out;
* `lds_50_other`: random halves, each training run of a seed of its own, as dattri's benchmark measures it;
* `time_ratio`, `time_ratio_one`: the time of all values, and of those of one test, over that of plain training in
  the same turn, with the training runs that the method needs beforehand.

Second part: see `benchmarks.attribution.labels`.

Peers (`pip install -e ".[peers]"`): dattri, traker, kronfluence, cleanlab. One that is not installed, or fails, is
reported as that.
"""

from benchmarks.attribution.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
