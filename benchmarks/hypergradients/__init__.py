"""What a hypergradient costs: every method and memory policy of this library, and its peers, on the same training runs.

A contender differentiates the final dev loss of a training run with respect to one action a step, the weight of each
class in the step's loss. All have the same network, initial weights, minibatches and SGD with momentum. Each has a
process of its own for its memory; for their times all take turns in one, with one another and with plain training:

* `time_ratio`: median over the turns of its time over plain training's;
* `extra_bytes`: growth of the process's resident memory at its peak;
* `relative_error`: of its gradient, to one by unrolled autograd in float64 on the same (rounded) data.

* `bytes_ratio`, `seconds_ratio`: of ours, what the planner predicts of bytes and time over what was measured.

A second part follows time and memory of the perceptron over the length of the training, each contender until it would
pass the memory limit.

A third part differentiates many students of an environment at once and one after the other: `speedup` is the time of
the loop over that of the batch.

Peers (`pip install -e ".[peers]"`): higher, TorchOpt, and JAX with optax and equinox. One that is not installed, or
fails, is reported as that. JAX compiles the whole gradient for each network and length: its memory is that of compiling
too, its time is not. `--device cuda` measures all but JAX on a GPU, the memory by what its allocator hands out.
"""

from benchmarks.hypergradients.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
