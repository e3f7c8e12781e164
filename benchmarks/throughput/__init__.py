"""How fast the environments are: single, vector and differentiated, each against the plain way to do the same work.

Absolute speeds say more of a machine, and of what else runs on it, than of this library. So every figure is a ratio of
two contenders that take turns within one run: a short piece of the one, a short piece of the other, and the median over
the pieces. Four measurements, `config["measurement"]` in the rows:

* `step`: `TeachEnv.step` over a plain PyTorch loop (`nn.Module`, `torch.optim.SGD`, `F.cross_entropy`) with the same
  minibatches and augmentation, which reports each minibatch's loss and accuracy as the environment does. Both evaluate
  on dev after each step, and the time of that is taken out of both.
* `vector`: students trained at once over single environments one after the other, under the same actions; and the
  largest difference between the two in any parameter or reward.
* `paths`: the two ways in which the vector environment can batch students, vmap over loop; which is why
  `path="auto"` chooses as it does.
* `gradient`: an episode under `ActionGradient` over the same episode without it, dev evaluations included in both.

Data only shape the work here, so MNIST and CIFAR-10 are used if they are on the disk already, and procedural stand-ins
of the same shape, named as such in the rows, if they are not. Nothing is downloaded.
"""

from benchmarks.throughput.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
