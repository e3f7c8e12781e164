"""DACBench's SGD environment beside this library: the same trajectories, its baselines on both, and their speed.

DACBench (Eimer et al. 2021, "DACBench: A Benchmark Library for Dynamic Algorithm Configuration") has an environment in
which an action is the learning rate of a network's training by AdamW. `benchmarks.dacbench.adapter.SGDEnv` takes the
same actions and gives the same states and rewards, but its student is trained by the dynamics of this library. Three
measurements, `config["measurement"]` in the rows:

* `trajectory`: random learning rates on both; the largest differences in parameters and in the losses that are
  reported.
* `baseline`: whole training runs under the fixed schedules and random agents that DACBench has, on both.
* `speed`: student steps per second of DACBench, of a plain PyTorch loop that has the data as tensors, of `TeachEnv` and
  of `TeachVectorEnv` with many students. They take turns in one process, with the same network, size of minibatches
  and number of validation samples.

DACBench 0.5.6 is in the extra `peers` (`pip install -e ".[peers]"`). Without it the measurements are of this library
alone, and a line on stderr says so. Both read the same files: MNIST, or procedural images in its form.
"""

from benchmarks.dacbench.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
